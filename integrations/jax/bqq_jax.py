"""Products with compressed matrices inside JAX programs, on the CPU.

    import bqq, bqq_jax

    W = bqq_jax.Weight(bqq.load("w.safetensors")["layer"])  # a pytree
    y = jax.jit(bqq_jax.product)(W, x)  # x (..., n) -> (..., m): x @ W.T

It is linear in x: forward and reverse gradients of every order, ``vmap``, ``jit`` and ``scan`` work. The library that
does the work is ``libbqq_jax.so`` beside this file, or where BQQ_JAX_LIBRARY says.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import bqq

__all__ = ["Weight", "product"]

_lib = ctypes.CDLL(os.environ.get("BQQ_JAX_LIBRARY") or str(Path(__file__).with_name("libbqq_jax.so")))
_lib.bqq_jax_prepare.restype = ctypes.c_char_p
jax.ffi.register_ffi_target("bqq_product", jax.ffi.pycapsule(_lib.bqq_jax_product), platform="cpu")

_PRECISIONS = {"float32": 0, "fast": 1}
_DTYPES = ("float32", "float16", "bfloat16", "float64")


def _file_bytes(q: bqq.Matrix) -> bytes:
    """A file of bqq with q alone in it."""
    with TemporaryDirectory() as folder:
        bqq.save(Path(folder) / "q", {"W": q})
        return (Path(folder) / "q").read_bytes()


def _prepared(file: bytes, transposed: bool) -> tuple[jax.Array, int]:
    """The matrix in `file`, or its transpose, in the order of the kernels of this machine, uint8, and the number of
    rows between good places to cut a product."""
    size, block = ctypes.c_size_t(), ctypes.c_int64()

    def call(buffer: ctypes.c_void_p | None) -> None:
        sizes = ctypes.byref(size), ctypes.byref(block)
        error = _lib.bqq_jax_prepare(file, ctypes.c_size_t(len(file)), int(transposed), buffer, *sizes)
        if error is not None:
            raise ValueError(error.decode())

    call(None)
    room = np.empty(size.value + 63, np.uint8)
    buffer = room[-room.ctypes.data % 64 :][: size.value]
    call(ctypes.c_void_p(buffer.ctypes.data))
    return jax.device_put(buffer, jax.devices("cpu")[0]), block.value


@jax.tree_util.register_pytree_node_class
class Weight:
    """A compressed m x n matrix for :func:`product`: its bits as two uint8 arrays, of W and of its transpose.

    q: a bqq.Matrix. precision: "float32" or "fast", as in bqq. gradient: False leaves the transpose out, half of the
    memory, and gradients with it. The arrays are in the order of this machine's kernels: save q, not them.
    """

    def __init__(self, q: bqq.Matrix, *, precision: str = "float32", gradient: bool = True) -> None:
        if precision not in _PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
        self.shape: tuple[int, int] = q.shape
        self.precision = precision
        file = _file_bytes(q)
        self._forward, rows = _prepared(file, False)
        self._backward, cols = _prepared(file, True) if gradient else (jnp.zeros(0, jnp.uint8), 1)
        self._blocks = (rows, self._forward.size), (cols, self._backward.size)

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[Any, ...]]:
        return (self._forward, self._backward), (self.shape, self.precision, self._blocks)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], arrays: tuple[Any, Any]) -> Weight:
        self = object.__new__(cls)
        self.shape, self.precision, self._blocks = static
        self._forward, self._backward = arrays
        return self

    def __repr__(self) -> str:
        return f"Weight({self.shape[0]} x {self.shape[1]}, precision={self.precision!r})"


def product(weight: Weight, x: Any) -> jax.Array:
    """x (..., n) of a float dtype -> x @ W.T, (..., m), the same dtype."""
    x = jnp.asarray(x)
    return _product.bind(
        weight._forward,
        weight._backward,
        x,
        shape=weight.shape,
        blocks=weight._blocks,
        precision=_PRECISIONS[weight.precision],
    )


_product = Primitive("bqq_product")
_product.def_impl(lambda *arrays, **static: _compiled(*arrays, **static))


@_product.def_abstract_eval
def _abstract(forward: Any, backward: Any, x: Any, *, shape: Any, blocks: Any, precision: Any) -> Any:
    m, n = shape
    if x.ndim == 0 or x.shape[-1] != n:
        raise ValueError(f"x has the shape {x.shape}, expected (..., {n}) for a weight of {m} x {n}")
    if x.dtype.name not in _DTYPES:
        raise TypeError(f"x is {x.dtype.name}, expected one of {', '.join(_DTYPES)}")
    return jax.core.ShapedArray((*x.shape[:-1], m), x.dtype)


def _lower(ctx: Any, forward: Any, backward: Any, x: Any, *, shape: Any, blocks: Any, precision: Any) -> Any:
    one = ctx.replace(avals_in=[ctx.avals_in[0], ctx.avals_in[2]])
    rule = jax.ffi.ffi_lowering("bqq_product")
    block, size = map(np.int64, blocks[0])
    return rule(one, forward, x, size=size, block=block, precision=np.int64(precision))


def _transpose(cotangent: Any, forward: Any, backward: Any, x: Any, **static: Any) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [None, None, ad.Zero(x.aval)]
    if backward.shape[-1] == 0:
        raise ValueError("this Weight was made with gradient=False")
    static["shape"], static["blocks"] = static["shape"][::-1], static["blocks"][::-1]
    return [None, None, _product.bind(backward, forward, cotangent, **static)]


def _batch(arrays: Any, axes: Any, **static: Any) -> tuple[Any, int]:
    forward, backward, x = arrays
    if axes[0] is None and axes[1] is None:
        return _product.bind(forward, backward, jnp.moveaxis(x, axes[2], 0), **static), 0
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    each = [batching.bdim_at_front(a, axis, size) for a, axis in zip(arrays, axes, strict=True)]
    return jax.lax.map(lambda one: _product.bind(*one, **static), tuple(each)), 0


mlir.register_lowering(_product, _lower, platform="cpu")
ad.defjvp(_product, None, None, lambda t, forward, backward, x, **static: _product.bind(forward, backward, t, **static))
ad.primitive_transposes[_product] = _transpose
batching.primitive_batchers[_product] = _batch


def _compiled(*arrays: Any, **static: Any) -> jax.Array:
    return _jitted(*arrays, tuple(sorted(static.items())))


_jitted = jax.jit(
    lambda forward, backward, x, static: _product.bind(forward, backward, x, **dict(static)), static_argnums=3
)
