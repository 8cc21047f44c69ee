"""Arrays in the memory of the emulated device, of libraries that bqq does not know and of one like CuPy.

Also a pytest plugin (`-p fake_arrays`), for its fixtures.
"""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bqq import _core

_library = ctypes.CDLL(_core.__file__)  # offers the emulation's cudaMalloc and the like
_library.emulated_defer.argtypes = [ctypes.c_bool, ctypes.c_int, ctypes.c_uint64]
_library.emulated_reports.restype = ctypes.c_char_p
_DEFAULT_KIND, _NON_BLOCKING = 4, 1  # cudaMemcpyDefault, cudaStreamNonBlocking


def _cuda(name: str, *arguments: Any) -> None:
    """A function of the CUDA runtime; integers are addresses, streams or sizes."""
    words = [ctypes.c_void_p(a) if isinstance(a, int) else a for a in arguments]
    error = getattr(_library, f"cuda{name}")(*words)
    assert error == 0, f"cuda{name} ended with {error}"


def _made(name: str, *arguments: Any) -> int:
    """What such a function writes to its first argument."""
    made = ctypes.c_void_p()
    _cuda(name, ctypes.byref(made), *arguments)
    return made.value or 0


def new_stream() -> int:
    """A stream that the default stream does not wait for."""
    return _made("StreamCreateWithFlags", _NON_BLOCKING)


def copy(to: int, source: int, size: int, stream: int) -> None:
    """Asks for a copy, between host and device in any direction."""
    _cuda("MemcpyAsync", to, source, size, _DEFAULT_KIND, stream)


def synchronize(stream: int) -> None:
    """Waits until what the stream has been given is done."""
    _cuda("StreamSynchronize", stream)


def wait(stream: int, before: int) -> None:
    """`stream` goes on once what `before` has been given until now is done."""
    event = _made("EventCreate")
    _cuda("EventRecord", event, before)
    _cuda("StreamWaitEvent", stream, event, 0)
    _cuda("EventDestroy", event)


def free(address: int) -> None:
    """Gives memory back."""
    _cuda("Free", address)


def late(array: npt.NDArray[Any]) -> int:
    """A copy in pinned memory, which the device reads when a copy runs, not when it is asked for."""
    address = _made("MallocHost", array.nbytes)
    ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
    return address


def defer(deferred: bool, order: int = 0, seed: int = 0) -> None:
    """Whether work of a stream runs only when something waits for it, and in which order of streams."""
    _library.emulated_defer(deferred, order, seed)


LEGACY = 1  # the default stream in both protocols


class FakeArray:
    """``__cuda_array_interface__`` version 3: a copy of a NumPy array in its own strides.

    Where the array is the bits of bfloat16 (uint16), say so.
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        *,
        stream: int | None = LEGACY,
        read_only: bool = False,
        bfloat16: bool = False,
        on_host: bool = False,
    ) -> None:
        self.shape, self.strides = array.shape, array.strides
        self.bits = array.dtype
        self.dtype = "bfloat16" if bfloat16 else array.dtype
        self.stream, self.read_only = stream, read_only
        steps = [step * (size - 1) for step, size in zip(array.strides, array.shape, strict=True)]
        self._before = -sum(step for step in steps if step < 0)
        self.nbytes = self._before + sum(step for step in steps if step > 0) + array.itemsize if array.size else 0
        self.base = _made("MallocHost" if on_host else "Malloc", self.nbytes)
        self.address = self.base + self._before
        if self.nbytes:
            self.put(array)

    def put(self, array: npt.NDArray[Any], source: int | None = None) -> None:
        """Fills the memory on its stream from an array of the same strides, or from `nbytes` at an address."""
        assert array.strides == self.strides
        copy(self.base, source or array.ctypes.data - self._before, self.nbytes, self._handle)

    @property
    def _handle(self) -> int:
        return 0 if self.stream in (None, LEGACY) else int(self.stream or 0)

    def get(self) -> npt.NDArray[Any]:
        """A copy on the host of what the memory holds once its stream is done."""
        if not self.nbytes:
            return np.empty(self.shape, self.bits)
        room = np.empty(self.nbytes, np.uint8)
        synchronize(self._handle)
        copy(room.ctypes.data, self.base, self.nbytes, self._handle)
        return np.ndarray(self.shape, self.bits, room, self._before, self.strides).copy()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": "<V2" if self.dtype == "bfloat16" else self.bits.str,
            "data": (self.address, self.read_only),
            "strides": self.strides,
            "stream": self.stream,
        }

    def __del__(self) -> None:
        if self.base:
            free(self.base)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class FakeDLPack:
    """DLPack alone, device type 2: the tensor of a FakeArray. `versioned`: as since DLPack 1.0."""

    alive = 0  # tensors handed out and not yet given back

    def __init__(self, array: FakeArray, versioned: bool = False) -> None:
        self.array, self.versioned = array, versioned
        self._given: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int | None = None, **more: Any) -> Any:
        if more and not self.versioned:
            raise TypeError("an unknown argument, as before DLPack 1.0")
        a = self.array
        if stream != -1 and a.stream != stream:
            wait(0 if stream in (None, LEGACY) else stream, a._handle)
        itemsize = a.bits.itemsize
        shape = (ctypes.c_int64 * len(a.shape))(*a.shape)
        strides = (ctypes.c_int64 * len(a.shape))(*(step // itemsize for step in a.strides))
        code = 4 if a.dtype == "bfloat16" else {"f": 2, "i": 0, "u": 1, "c": 5}[a.bits.kind]
        tensor = _Tensor(a.address, 2, 0, len(a.shape), code, 8 * itemsize, 1, shape, strides, 0)

        def give_back(_: int) -> None:
            FakeDLPack.alive -= 1

        deleter = _Deleter(give_back)
        managed = (
            _Versioned(1, 0, None, deleter, 1 if a.read_only else 0, tensor)
            if self.versioned
            else _Managed(tensor, None, deleter)
        )
        FakeDLPack.alive += 1
        self._given.append((managed, deleter, shape, strides))
        return _new_capsule(ctypes.addressof(managed), b"dltensor_versioned" if self.versioned else b"dltensor", None)


@pytest.fixture(autouse=True)
def no_findings():
    defer(False)
    yield
    defer(False)
    assert _library.emulated_reports() == b""


def interface(array: npt.NDArray[Any], **more: Any) -> FakeArray:
    return FakeArray(array, **more)


def dlpack(array: npt.NDArray[Any], **more: Any) -> FakeDLPack:
    return FakeDLPack(FakeArray(array, **more))


def dlpack_versioned(array: npt.NDArray[Any], **more: Any) -> FakeDLPack:
    return FakeDLPack(FakeArray(array, **more), versioned=True)


KINDS = pytest.mark.parametrize("kind", [interface, dlpack, dlpack_versioned])


FAST: dict[str, Any] = {"steps": 20, "refine": 4}


def numbers(shape: Any, seed: int = 0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)


def _fake_cupy(stream: int) -> types.ModuleType:
    class ndarray(FakeArray):
        device = types.SimpleNamespace(id=0)

        @property
        def data(self) -> types.SimpleNamespace:
            return types.SimpleNamespace(ptr=self.address)

        def astype(self, dtype: Any) -> ndarray:
            return ndarray(self.get().astype(dtype), stream=stream)

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    ndarray.__module__ = "cupy"
    module: Any = types.ModuleType("cupy")
    module.empty = lambda shape, dtype: ndarray(np.full(shape, np.nan, dtype), stream=stream)
    module.cuda = types.SimpleNamespace(Device=Device, get_current_stream=lambda: types.SimpleNamespace(ptr=stream))
    module.array_type, module.asarray = ndarray, lambda x: ndarray(x, stream=stream)
    return module


def _fake_torch(stream: int) -> types.ModuleType:
    class Tensor:
        device = types.SimpleNamespace(type="cuda", index=0)
        requires_grad = False

        def __init__(self, array: npt.NDArray[Any]) -> None:
            self.array = FakeArray(array, stream=stream)
            self.dtype, self.shape = f"torch.{array.dtype.name}", array.shape
            self.get, self.put = self.array.get, self.array.put

        def detach(self) -> Tensor:
            return self

        resolve_conj = resolve_neg = detach

        def to(self, dtype: str) -> Tensor:
            return Tensor(self.get().astype(dtype))

        def stride(self) -> tuple[int, ...]:
            return tuple(step // self.array.bits.itemsize for step in self.array.strides)

        def data_ptr(self) -> int:
            return self.array.address

        def is_complex(self) -> bool:
            return self.array.bits.kind == "c"

        def is_floating_point(self) -> bool:
            return self.array.bits.kind == "f"

    def empty(shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
        assert device == "cuda:0"
        return Tensor(np.full(shape, np.nan, dtype))

    def current_stream(device: int) -> types.SimpleNamespace:
        assert device == 0
        return types.SimpleNamespace(cuda_stream=stream)

    Tensor.__module__ = "torch"
    module: Any = types.ModuleType("torch")
    module.float32, module.float64 = "float32", "float64"
    module.empty, module.cuda = empty, types.SimpleNamespace(current_stream=current_stream)
    module.jit = types.SimpleNamespace(is_tracing=lambda: False)
    unpack_dual = types.SimpleNamespace(unpack_dual=lambda tensor: types.SimpleNamespace(primal=tensor, tangent=None))
    module.autograd = types.SimpleNamespace(forward_ad=unpack_dual)
    module.array_type = module.asarray = Tensor
    return module


@pytest.fixture(params=[_fake_cupy, _fake_torch])
def library(request, monkeypatch):
    """The few names of CuPy or torch that bqq uses, over the emulated device; not on its default stream."""
    module = request.param(new_stream())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module
