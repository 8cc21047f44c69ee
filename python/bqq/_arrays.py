"""Arrays in and out: the one place that knows other array libraries, by protocol and without importing them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from bqq import _core

Array = npt.NDArray[Any]

# safetensors names of the dtypes NumPy has
_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
    "C64": "<c8",
}
_TORCH_FLOATS = ("torch.float16", "torch.float32", "torch.float64")
# Those it lacks, by the names of torch and ml_dtypes
_NARROW = {
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}
_SAFETENSORS_NAMES = {np.dtype(v): k for k, v in _NUMPY_DTYPES.items()}


@dataclass(frozen=True, eq=False)
class RawTensor:
    """A tensor of a dtype NumPy lacks (BF16, F8_E4M3, ...), kept as the bytes of the file.

    ``np.asarray(t)`` gives BF16, F8_E4M3 and F8_E5M2 as float32; saving writes the same bytes again.
    """

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawTensor):
            return NotImplemented
        same = (self.dtype, self.shape) == (other.dtype, other.shape)
        return same and np.array_equal(self.data, other.data)

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, self.data.tobytes()))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self.dtype == "BF16":
            values = (self.data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        elif self.dtype in FLOAT8:
            values = FLOAT8[self.dtype]()[self.data].reshape(self.shape)
        else:
            raise TypeError(f"cannot convert {self.dtype} to a NumPy array")
        return values if dtype is None else values.astype(dtype)


def from_bytes(dtype: str, shape: tuple[int, ...], data: npt.NDArray[np.uint8]) -> Array | RawTensor:
    """A file's tensor as an array, or as a RawTensor where NumPy has no such dtype."""
    if dtype in _NUMPY_DTYPES:
        return data.view(_NUMPY_DTYPES[dtype]).reshape(shape)
    return RawTensor(dtype, shape, data)


def _e4m3() -> npt.NDArray[np.float32]:
    """Values of all bytes of a float of 4 and 3 bits without infinities (OCP 8-bit floating point, E4M3)."""
    codes = np.arange(128)
    exponent, fraction = codes >> 3, codes & 7
    values = np.where(exponent > 0, (8 + fraction) * 2.0 ** (exponent - 10), fraction * 2.0**-9)
    values[127] = np.nan
    return np.concatenate([values, -values]).astype(np.float32)


def _e5m2() -> npt.NDArray[np.float32]:
    """The same of 5 and 2 bits: the upper halves of float16."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


FLOAT8 = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2}
FACTORS = ("_scale_inv", "_scale")  # behind the name of an 8-bit tensor, that of what it is multiplied by


def to_bytes(name: str, value: Any) -> tuple[str, tuple[int, ...], npt.NDArray[np.uint8]]:
    """dtype, shape and little-endian bytes of a tensor to save."""
    if isinstance(value, RawTensor):
        if value.data.dtype != np.uint8:
            raise TypeError(f"{name} is a RawTensor whose data is {value.data.dtype}, expected uint8 bytes")
        return value.dtype, value.shape, value.data
    if _module(value) == "torch" and (narrow := _NARROW.get(str(value.dtype).removeprefix("torch."))):
        _check_device(name, value)
        return narrow, tuple(value.shape), value.detach().reshape(-1).view(_torch().uint8).numpy()
    array, _ = to_numpy(name, value)
    if narrow := _NARROW.get(array.dtype.name):  # ml_dtypes
        return narrow, array.shape, np.frombuffer(array.tobytes(), np.uint8)
    little = array.dtype.newbyteorder("<")
    if little not in _SAFETENSORS_NAMES:
        raise TypeError(f"{name} has dtype {array.dtype}, which the file format cannot hold")
    data = np.ascontiguousarray(array, little).reshape(-1).view(np.uint8)  # without a copy where it can be
    return _SAFETENSORS_NAMES[little], array.shape, data


def _module(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _torch() -> Any:
    import torch  # only reached with a torch tensor in hand

    return torch


def _check_device(name: str, tensor: Any) -> None:
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on device meta and has no values")
    if tensor.device.type != "cpu":
        raise ValueError(f"{name} is on device {tensor.device}, expected a host array: pass {name}.cpu()")


def check_gradient(name: str, value: Any) -> None:
    """Raises ValueError for a torch tensor of which torch would lose something without a word.

    A gradient, backward or forward, or a trace, in which the product would be a constant.
    """
    if _module(value) != "torch":
        return
    torch = _torch()
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, which products do not pass on: pass {name}.detach(), or use torch.no_grad()"
        )
    if torch.autograd.forward_ad.unpack_dual(value).tangent is not None:
        raise ValueError(f"{name} has a forward gradient, which products do not pass on: pass its primal")
    if torch.jit.is_tracing():
        raise ValueError(f"{name} is being traced, and the product would become a constant of the trace")


def _is_masked(value: Any) -> bool:
    """A numpy.ma.MaskedArray. That module is not imported to see it: a process that forks meanwhile would hang."""
    ma = sys.modules.get("numpy.ma")
    return ma is not None and isinstance(value, getattr(ma, "MaskedArray", ()))


def to_numpy(name: str, value: Any) -> tuple[Array, Callable[[Array], Any]]:
    """``value`` as a NumPy array, and the function that turns a NumPy result into the same library's array.

    Raises TypeError for what is no array and ValueError for an array on a device.
    """
    if _is_masked(value):
        masked = np.argwhere(np.ma.getmaskarray(value))
        if len(masked):
            place = ", ".join(map(str, masked[0]))
            raise ValueError(f"{name}[{place}] is masked, expected a value: fill the mask first")
        return value.data, _same
    if isinstance(value, np.ndarray):
        return value, _same
    if _module(value) == "torch":
        _check_device(name, value)
        try:
            tensor = value.detach().resolve_conj().resolve_neg()
            if tensor.is_floating_point() and str(tensor.dtype) not in _TORCH_FLOATS:
                tensor = tensor.float()  # bfloat16 and narrower: exact
            return tensor.numpy(), _torch().from_numpy
        except (TypeError, RuntimeError) as error:
            raise TypeError(f"{name} is a torch tensor without a NumPy form: {error}") from error
    if hasattr(value, "__cuda_array_interface__"):
        raise ValueError(f"{name} is on a CUDA device, expected a host array")
    if hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) != 1:
        raise ValueError(f"{name} is on DLPack device {value.__dlpack_device__()}, expected a host array")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name} is {type(value).__name__}, a sparse array: pass {name}.toarray()")
    restore: Callable[[Array], Any] = _same
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
        restore = namespace.asarray
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value), restore
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{name} is {type(value).__name__}, expected an array: {error}") from error
    if array.dtype.kind == "O" and hasattr(value, "to_numpy"):  # pandas with columns that may lack values
        raise TypeError(f"{name} is {type(value).__name__} of objects: pass {name}.to_numpy('float32')")
    return array, restore


def writable(name: str, value: Any) -> Array:
    """The memory of an array to write results to. Raises TypeError for what would only be written to a copy."""
    if on_device(value):
        raise ValueError(f"{name} is on a CUDA device, expected a host array as the operands are")
    if isinstance(value, np.ndarray) and not _is_masked(value):
        return value
    if _module(value) == "torch" and str(value.dtype) in _TORCH_FLOATS:
        return to_numpy(name, value)[0]
    kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise TypeError(f"{name} is {kind}, expected a NumPy array or torch tensor of float16, float32 or float64")


def _same(array: Array) -> Array:
    return array


def as_real(name: str, array: Array) -> Array:
    """float16, float32 or float64 in native byte order; integers and booleans become what NumPy promotes them to.

    Raises TypeError for complex, object, string and other non-numeric dtypes.
    """
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    if array.dtype.kind in "biu":
        return array.astype(np.result_type(array.dtype, np.float32))
    if array.dtype.kind != "f":
        raise TypeError(f"{name} has dtype {array.dtype}, expected real numbers")
    if array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            return array.astype(np.float64)
    if array.dtype.itemsize < 2:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_float32_matrix(name: str, value: Any) -> npt.NDArray[np.float32]:
    """A real 2-D array as C-contiguous float32. Raises TypeError or ValueError that names what is wrong."""
    return _as_float32(name, value, (2,))


def as_weight(value: Any, n: int) -> npt.NDArray[np.float32]:
    """A weight for n columns as C-contiguous float32: (n, n) or (n,); without elements for None."""
    if value is None:
        return np.empty(0, np.float32)
    weight = _as_float32("weight", value, (1, 2))
    if set(weight.shape) != {n}:
        raise ValueError(f"weight has shape {weight.shape}, expected ({n}, {n}) or ({n},) for a matrix of {n} columns")
    return weight


def _as_float32(name: str, value: Any, dimensions: tuple[int, ...]) -> npt.NDArray[np.float32]:
    given = to_numpy(name, value)[0]
    array = as_real(name, given)
    if array.ndim not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} has {array.ndim} dimensions (shape {array.shape}), expected {expected}")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}), expected at least one element")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(result).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
        value = given[at]
        what = "too large for float32" if np.isfinite(value) else "expected finite values"
        raise ValueError(f"{name}[{', '.join(map(str, at))}] is {value}, {what}")
    if array.dtype.itemsize > 4 and not result.any() and array.any():
        raise ValueError(f"{name} is at most {np.abs(array).max():.3g} in size, too small for float32: scale it")
    return result


# --- arrays on a CUDA device ---


@dataclass(eq=False, slots=True)  # not frozen: made for every operand, and three times as fast
class DeviceView:
    """An array in the memory of a CUDA device, of real numbers."""

    owner: Any
    library: str  # "cupy", "torch", or "" for any other
    address: int
    dtype: str  # of DEVICE_DTYPES
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    device: int
    stream: int | None  # what its contents are ordered on; None if they are complete and the stream is not known
    read_only: bool

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return _ITEMSIZES[self.dtype]


_ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
_TYPESTRS = {np.dtype(name).str: name for name in ("float32", "float64")}  # those that are no form of bfloat16
DEVICE_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "float64": 3}  # bqq::Dtype
_CUDA = (2, 13)  # DLPack's device types
_DLPACK_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


def on_device(value: Any) -> bool:
    """Whether `value` is an array on a CUDA device: torch, ``__cuda_array_interface__`` or DLPack."""
    if isinstance(value, np.ndarray):
        return False
    if _module(value) == "torch":
        return bool(value.device.type == "cuda")
    if hasattr(value, "__cuda_array_interface__"):
        return True
    return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) in _CUDA


def device_view(name: str, value: Any) -> DeviceView:
    """The memory of an array on a device; integers and booleans become what NumPy promotes them to.

    Raises TypeError for dtypes that are not real, ValueError for memory that is not what the array claims.
    """
    library = _module(value)
    if library == "torch":
        return _torch_view(name, value)
    if library == "cupy" and value.dtype.kind in "biu":
        value = value.astype(np.result_type(value.dtype, np.float32))
    if hasattr(value, "__cuda_array_interface__"):
        return _interface_view(name, value, "cupy" if library == "cupy" else "")
    return _dlpack_view(name, value)


def _checked_dtype(name: str, dtype: str) -> str:
    if dtype not in DEVICE_DTYPES:
        raise TypeError(f"{name} has dtype {dtype}, expected {', '.join(DEVICE_DTYPES)} on a device")
    return dtype


def _torch_view(name: str, value: Any) -> DeviceView:
    torch = _torch()
    tensor = value.detach().resolve_conj().resolve_neg()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DEVICE_DTYPES and not tensor.is_complex():
        dtype = "float32" if tensor.is_floating_point() else np.result_type(dtype, np.float32).name
        tensor = tensor.to(getattr(torch, dtype))
    device = int(tensor.device.index)
    stream = int(torch.cuda.current_stream(device).cuda_stream)
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    dtype = _checked_dtype(name, dtype)
    return DeviceView(tensor, "torch", int(tensor.data_ptr()), dtype, shape, strides, device, stream, False)


def _interface_view(name: str, value: Any, library: str) -> DeviceView:
    """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html"""
    interface = value.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError(f"{name} is masked, expected plain numbers")
    dtype = _TYPESTRS.get(interface["typestr"]) or _checked_dtype(name, _interface_dtype(value, interface["typestr"]))
    itemsize = _ITEMSIZES[dtype]
    shape = tuple(int(size) for size in interface["shape"])
    steps = interface.get("strides")
    if steps is not None and any(step % itemsize for step in steps):
        raise ValueError(f"{name} has strides {tuple(steps)}, expected multiples of the {itemsize} bytes of an element")
    strides = _plain_strides(shape) if steps is None else tuple(int(step) // itemsize for step in steps)
    address, read_only = interface["data"]
    stream = interface.get("stream")
    if stream == 0:
        raise ValueError(f"{name} has stream 0 in its __cuda_array_interface__, expected None, 1, 2 or a stream")
    device = _core.device_of(name, int(address)) if 0 not in shape else 0
    if library == "cupy":
        cupy = _cupy()
        device = int(value.device.id)
        with cupy.cuda.Device(device):
            stream = int(cupy.cuda.get_current_stream().ptr)
    return DeviceView(value, library, int(address or 0), dtype, shape, strides, device, stream, bool(read_only))


def _interface_dtype(value: Any, typestr: str) -> str:
    if str(getattr(value, "dtype", "")).endswith("bfloat16"):
        return "bfloat16"
    dtype = np.dtype(typestr)
    return dtype.name if dtype.isnative else f"{dtype.name} in foreign byte order"


def _dlpack_view(name: str, value: Any) -> DeviceView:
    """https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html"""
    legacy = 1  # the default stream, which the array's own library makes wait for it
    try:
        capsule = value.__dlpack__(stream=legacy, max_version=(1, 0))
    except TypeError:
        capsule = value.__dlpack__(stream=legacy)
    address, code, bits, device, shape, strides, read_only, owner = _core.from_dlpack(capsule)
    dtype = _checked_dtype(name, f"{_DLPACK_NAMES.get(code, code)}{bits}")
    if 0 not in shape:
        device = _core.device_of(name, address)
    return DeviceView((value, owner), "", address, dtype, shape, strides, device, None, read_only)


def _plain_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps = [1]
    for size in shape[:0:-1]:
        steps.append(steps[-1] * size)
    return tuple(steps[: len(shape)][::-1])


def overlap(a: Array | DeviceView, b: Array | DeviceView) -> bool:
    """Whether two arrays, of the host or of a device, share an element."""
    x, y = (_stand_in(v) if isinstance(v, DeviceView) else v for v in (a, b))
    return bool(np.may_share_memory(x, y) and np.shares_memory(x, y))


def _stand_in(v: DeviceView) -> Array:
    """An array with the same addresses, for comparing them: its elements are not the host's to read."""
    steps = tuple(step * v.itemsize for step in v.strides)
    at = {"version": 3, "data": (v.address, True), "typestr": f"|V{v.itemsize}", "shape": v.shape, "strides": steps}
    return np.asarray(SimpleNamespace(__array_interface__=at))


def empty_on_device(library: str, device: int, shape: tuple[int, ...], dtype: str) -> Any:
    """A fresh array of the library, ordered on its current stream; None for a library we do not know."""
    if library == "torch":
        torch = _torch()
        return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")
    if library == "cupy":
        cupy = _cupy()
        with cupy.cuda.Device(device):
            return cupy.empty(shape, dtype)
    return None


def view_of_fresh(fresh: Any, like: DeviceView, shape: tuple[int, ...], dtype: str) -> DeviceView:
    """The view of what `empty_on_device` has made for the library of `like`, without asking for what is known."""
    address = int(fresh.data_ptr() if like.library == "torch" else fresh.data.ptr)
    strides = _plain_strides(shape)
    return DeviceView(fresh, like.library, address, dtype, shape, strides, like.device, like.stream, False)


def restore_on_device(like: Any, array: Any) -> Any:
    """An array of our own as the library of `like` has it, if that says how (``__array_namespace__``)."""
    if hasattr(like, "__array_namespace__"):
        namespace = like.__array_namespace__()
        if hasattr(namespace, "from_dlpack"):
            return namespace.from_dlpack(array)
    return array


def _cupy() -> Any:
    import cupy  # only reached with a cupy array in hand

    return cupy
