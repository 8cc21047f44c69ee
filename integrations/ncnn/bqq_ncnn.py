"""Writes layers of ncnn that hold compressed matrices: a line for NET.param and the bytes for NET.bin.

    line, data = bqq_ncnn.layer(q, "fc1", "x", "y", bias=b)

The line goes into the .param file where the layer stands (its second line counts layers and blobs), the bytes into the
.bin file at the same place among the weights. Of an InnerProduct these are 4 + 4 m n bytes in float32, and 4 m of a
bias.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

import bqq

__all__ = ["layer"]


def layer(
    q: bqq.Matrix, name: str, bottom: str, top: str, *, bias: npt.ArrayLike | None = None, precision: str = "float32"
) -> tuple[str, bytes]:
    """A layer ``BqqLinear`` from blob `bottom` to blob `top`: each row x of n numbers becomes q @ x + bias, of m.

    ValueError: a bias of another length, a precision that is neither "float32" nor "fast", white space in a name.
    """
    if precision not in ("float32", "fast"):
        raise ValueError(f"precision is {precision!r}, expected 'float32' or 'fast'")
    for word in (name, bottom, top):
        if not word or len(word.split()) != 1:
            raise ValueError(f"{word!r} is no name of ncnn")
    (m, n), added = q.shape, b""
    if bias is not None:
        numbers = np.asarray(bias, "<f4")
        if numbers.shape != (m,):
            raise ValueError(f"the bias has the shape {numbers.shape}, expected ({m},)")
        added = numbers.tobytes()
    with TemporaryDirectory() as folder:
        bqq.save(Path(folder) / "q", {"W": q})
        file = (Path(folder) / "q").read_bytes()
    parameters = enumerate((len(file), m, n, int(precision == "fast"), int(bias is not None)))
    line = " ".join(["BqqLinear", name, "1 1", bottom, top, *(f"{key}={value}" for key, value in parameters)])
    return line, file + bytes(-len(file) % 4) + added
