"""Binary Quadratic Quantization: matrices at 1-4 bits per element, and products with them.

    W ~ sum_i ( r_i Y_i Z_i + s_i (Y_i 1) + t_i (1 Z_i) ) + u,   Y_i, Z_i binary

>>> q = bqq.decompose(W, p=2)      # about two bits per element
>>> y = q @ x                      # computed from the bits
>>> bqq.save("w.safetensors", {"layer": q})
"""

from bqq._api import decompose, encode, extend, matmul, show_config
from bqq._arrays import RawTensor
from bqq._bound import error_bound
from bqq._core import FormatError, __version__
from bqq._cost import cost
from bqq._files import File, Tensors, load, open, save
from bqq._matrix import Matrix
from bqq._plan import Plan, plan
from bqq._plan_many import plan_many

__all__ = [
    "File",
    "FormatError",
    "Matrix",
    "Plan",
    "RawTensor",
    "Tensors",
    "__version__",
    "cost",
    "decompose",
    "encode",
    "error_bound",
    "extend",
    "load",
    "matmul",
    "open",
    "plan",
    "plan_many",
    "save",
    "show_config",
]
