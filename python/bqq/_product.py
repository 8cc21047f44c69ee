"""Products of a compressed matrix and an array, on the host or on the device of the array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _cuda, _options

if TYPE_CHECKING:
    from bqq._matrix import Matrix


def product(
    q: Matrix,
    X: Any,
    out: Any = None,
    threads: int | None = None,
    precision: str = "float32",
    *,
    left: bool = False,
) -> Any:
    """q @ X for X of shape (n,), (n, batch) or (..., n, batch); with `left` X @ q for X of shape (m,) or (..., m)."""
    options = _options.matmul_options(threads, precision)
    planes, transposed = q._planes, q._transposed != left  # X @ q is the transpose of q.T times that of X
    host = planes.host if planes.device is None else None
    if host is not None and type(X) is np.ndarray and (out is None or type(out) is np.ndarray):
        done = host.matmul_f32_fast(X, out, transposed, left, options)
        if done is not None:
            return done
    for name, value in (("X", X), ("out", out)):
        _arrays.check_gradient(name, value)
    if _arrays.on_device(X):  # both precisions are the float32 class there
        view = _cuda.view("X", X)
        axis, shape = _result_shape(q, view.shape, left)
        return _cuda.product(planes.on_device(view.device), transposed, view, X, axis, out, shape)
    if host is None:
        raise ValueError(f"X is on the host, the matrix on {q.device}: pass an array there, or q.to('cpu')")
    array, restore = _arrays.to_numpy("X", X)
    x = _arrays.as_real("X", array)
    axis, shape = _result_shape(q, x.shape, left)
    target = np.empty(shape, np.result_type(np.float32, x.dtype)) if out is None else _target(out, shape, x)
    if target.size:
        flat_x, flat = _flat(np.moveaxis(x, axis, 0)), _flat(np.moveaxis(target, axis, 0))
        host.matmul(flat_x, flat, transposed, options)
        if not np.may_share_memory(flat, target):
            side = np.moveaxis(target, axis, 0)
            side[...] = flat.reshape(side.shape)
    return restore(target) if out is None else out


def _result_shape(q: Matrix, shape: tuple[int, ...], left: bool) -> tuple[int, tuple[int, ...]]:
    """The axis of X that is summed over, and the shape of the result."""
    (m, n), dimensions = q.shape, len(shape)
    axis = dimensions - 1 if left or dimensions < 2 else dimensions - 2
    inner, outer, what = (m, n, "columns") if left else (n, m, "rows")
    if dimensions == 0 or shape[axis] != inner:
        raise ValueError(f"X has shape {shape}, expected {inner} {what} beside a {m} x {n} matrix")
    return axis, shape[:axis] + (outer,) + shape[axis + 1 :]


def _target(out: Any, shape: tuple[int, ...], x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The memory of `out`, fit to hold the result."""
    target = _arrays.writable("out", out)
    if target.shape != shape:
        raise ValueError(f"out has shape {target.shape}, expected {shape}")
    if target.dtype.kind != "f" or target.dtype.itemsize > 8 or not target.dtype.isnative:
        raise TypeError(f"out has dtype {target.dtype}, expected float16, float32 or float64")
    if not target.flags.writeable:
        raise ValueError("out is read-only")
    if _arrays.overlap(target, x):
        raise ValueError("out shares memory with X")
    return target


def _flat(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The axes behind the first as one, in whole strides; a copy only where it must be."""
    flat = a.reshape(a.shape[0], -1)
    whole = flat.flags.aligned and all(stride % flat.itemsize == 0 for stride in flat.strides)
    return flat if whole else flat.copy()
