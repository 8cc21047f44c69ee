"""The GPU: arrays on a CUDA device in, arrays of the same kind on the same device out."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _core
from bqq._arrays import DEVICE_DTYPES, DeviceView

built = hasattr(_core, "DeviceMatrix")
_LEGACY = 1  # the default stream, by the number that __cuda_array_interface__ and DLPack give it
_DLPACK_FLOAT = 2


def require_cuda(why: str) -> None:
    """RuntimeError that says why there is no GPU to use."""
    if not built:
        raise RuntimeError(
            f"{why}, but bqq was built without CUDA: install it with -Ccmake.define.BQQ_CUDA=ON where nvcc is on PATH"
        )
    if not _found():
        raise RuntimeError(f"{why}, but there is no CUDA device: {_core.device_error()}")


@functools.cache
def _found() -> bool:
    return bool(_core.devices())


def describe() -> str:
    """What `show_config` says of CUDA."""
    if not built:
        return "not built"
    found = _core.devices()
    version = f"built with {_core.cuda_version // 1000}.{_core.cuda_version % 1000 // 10}"
    return f"{version}, {', '.join(found) if found else f'no device: {_core.device_error()}'}"


def device_number(device: Any) -> int | None:
    """The number in ``"cuda:1"``, ``"cuda"`` (0) or a torch device; None for ``"cpu"``."""
    text = str(device)
    if text == "cpu":
        return None
    found = re.fullmatch(r"cuda(?::(\d+))?", text)
    if found is None:
        raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:<number>'")
    require_cuda(f"device is {text!r}")
    number = int(found[1] or 0)
    count = len(_core.devices())
    if number >= count:
        raise ValueError(f"device is {device!r}, expected a number below {count}")
    return number


class DeviceArray:
    """A result on a CUDA device for callers whose array library bqq does not know.

    C-contiguous, writable. ``__cuda_array_interface__`` and DLPack give it to any library without a copy
    (``torch.as_tensor``, ``cupy.asarray``, ``numba.cuda.as_cuda_array``); ``np.asarray`` copies it to the host. The
    memory goes back when nothing refers to it.
    """

    __slots__ = ("_memory", "_stream", "dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._memory = _core.DeviceMemory(int(np.prod(shape)) * self.dtype.itemsize, device)
        self._stream = stream or _LEGACY

    @property
    def device(self) -> str:
        """``"cuda:<number>"``."""
        return f"cuda:{self._memory.device}"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._memory.address, False),
            "strides": None,
            "stream": self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        if stream != -1:
            _core.device_wait(_LEGACY if stream is None else stream, self._stream, self._memory.device)
        return self._memory.dlpack(_DLPACK_FLOAT, 8 * self.dtype.itemsize, list(self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("an array on a device can only be copied to the host")
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        data = _core.device_read(self._memory.address, size, self._memory.device, self._stream)
        array = data.view(self.dtype).reshape(self.shape)
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"bqq.DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"


def view(name: str, value: Any) -> DeviceView:
    """The memory of an array on a device, once it is sure that there is one."""
    require_cuda(f"{name} is on a CUDA device")
    return _arrays.device_view(name, value)


def matrix_view(name: str, value: Any, dimensions: tuple[int, ...] = (2,)) -> DeviceView:
    """As `view`, of a real 2-D array (or one of these dimensions) with elements."""
    array = view(name, value)
    if len(array.shape) not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} has {len(array.shape)} dimensions (shape {array.shape}), expected {expected}")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty (shape {array.shape}), expected at least one element")
    return array


def strided(a: DeviceView) -> _core._Strided:
    """A 2-D array, or one row, as the module takes it."""
    (rows, row_step), (cols, col_step) = [(1, 0), *zip(a.shape, a.strides, strict=True)][-2:]
    return (a.address, DEVICE_DTYPES[a.dtype], rows, cols, row_step, col_step)


def stream_of(a: DeviceView) -> int:
    """The stream to work on: the one that the caller's library has put the array on."""
    return _LEGACY if a.stream is None else a.stream


def to_host(name: str, a: DeviceView) -> npt.NDArray[np.float32]:
    """A matrix or vector on a device as float32 on the host."""
    return _core.device_get(name, strided(a), a.device, stream_of(a)).reshape(a.shape)


def to_device(array: npt.NDArray[np.float32], library: str, device: int) -> Any:
    """A copy of a host array on a device, as the library's array or, if there is none, one of ours."""
    shape = tuple(array.shape)
    fresh = _arrays.empty_on_device(library, device, shape, "float32")
    if fresh is None:
        fresh = DeviceArray(shape, "float32", device, _LEGACY)
    target = _arrays.device_view("result", fresh)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    _core.device_write(target.address, data, device, stream_of(target))
    return fresh


def product(
    planes: _core.DeviceMatrix, transposed: bool, x: DeviceView, X: Any, axis: int, out: Any, shape: tuple[int, ...]
) -> Any:
    """W_hat or its transpose times x, contracted along `axis`, in an array of `shape`: `out`, or a fresh one like X."""
    stream = stream_of(x)
    fresh = None
    if out is None:
        dtype = "float64" if x.dtype == "float64" else "float32"
        fresh = _arrays.empty_on_device(x.library, x.device, shape, dtype)
        if fresh is None:
            fresh = DeviceArray(shape, dtype, x.device, stream)
            target = _arrays.device_view("out", fresh)
        else:
            target = _arrays.view_of_fresh(fresh, x, shape, dtype)
    else:
        target = _target(out, x, shape)
        _core.device_wait(stream, stream_of(target), x.device)
    for source, result in _batches(x, target, axis):
        planes.matmul(source, result, transposed, stream)
    if out is not None:
        _core.device_wait(stream_of(target), stream, x.device)
    if x.stream is None or target.stream is None:  # what the caller's stream is, nobody said
        _core.device_synchronize(stream, x.device)
    if out is not None:
        return out
    return _arrays.restore_on_device(X, fresh) if isinstance(fresh, DeviceArray) else fresh


def _target(out: Any, x: DeviceView, shape: tuple[int, ...]) -> DeviceView:
    if not _arrays.on_device(out):
        raise ValueError(f"out is on the host, expected an array on cuda:{x.device} as X is")
    target = _arrays.device_view("out", out)
    if target.owner is not out and target.library == "cupy":
        raise TypeError(f"out has dtype {out.dtype}, expected {', '.join(DEVICE_DTYPES)}")
    if target.library == "torch" and target.dtype != str(out.dtype).removeprefix("torch."):
        raise TypeError(f"out has dtype {out.dtype}, expected {', '.join(DEVICE_DTYPES)}")
    if target.shape != shape:
        raise ValueError(f"out has shape {target.shape}, expected {shape}")
    if target.read_only:
        raise ValueError("out is read-only")
    if 0 not in shape and target.device != x.device:
        raise ValueError(f"out is on cuda:{target.device}, expected cuda:{x.device} as X is")
    if _arrays.overlap(target, x):
        raise ValueError("out shares memory with X")
    return target


def _side(v: DeviceView, axis: int) -> _core._Strided:
    """A vector or a matrix with `axis` first."""
    cols, step = (v.shape[1 - axis], v.strides[1 - axis]) if len(v.shape) == 2 else (1, 1)
    return (v.address, DEVICE_DTYPES[v.dtype], v.shape[axis], cols, v.strides[axis], step)


def _batches(x: DeviceView, out: DeviceView, axis: int) -> Iterator[tuple[_core._Strided, _core._Strided]]:
    """The product as products of matrices: dimensions beside `axis` that lie in one step in both are one batch."""
    if 0 in out.shape:
        return
    if 0 in x.shape:
        raise ValueError(f"X is empty (shape {x.shape}), expected at least one element to sum over")
    if len(x.shape) <= 2:
        yield _side(x, axis), _side(out, axis)
        return
    runs: list[tuple[int, int, int]] = []  # size and strides in both
    for d, size in enumerate(x.shape):
        if d == axis or size == 1:
            continue
        step, step_out = x.strides[d], out.strides[d]
        if runs and runs[-1][1] == size * step and runs[-1][2] == size * step_out:
            runs[-1] = (runs[-1][0] * size, step, step_out)
        else:
            runs.append((size, step, step_out))
    widest = max(runs, default=(1, 1, 1))
    others: Sequence[tuple[int, int, int]] = list(runs)
    if runs:
        others = runs[: runs.index(widest)] + runs[runs.index(widest) + 1 :]
    for at in itertools.product(*(range(size) for size, _, _ in others)):
        sides = []
        for v, which in ((x, 1), (out, 2)):
            offset = sum(i * run[which] for i, run in zip(at, others, strict=True))
            address = v.address + offset * v.itemsize
            sides.append((address, DEVICE_DTYPES[v.dtype], v.shape[axis], widest[0], v.strides[axis], widest[which]))
        yield sides[0], sides[1]
