from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__version__: str

class FormatError(ValueError): ...

class _Layout(TypedDict):
    m: int
    n: int
    J: int
    K: int
    rows: int
    cols: int
    p: int
    l: int
    nbytes: int
    bits_per_weight: float

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Progress = Callable[[int, int], object] | None

class Matrix:
    def __init__(
        self,
        m: int,
        n: int,
        J: int,
        K: int,
        p: int,
        l: int,
        Y: _Bytes,
        Z: _Bytes,
        scales: _Floats,
    ) -> None: ...
    @property
    def layout(self) -> _Layout: ...
    @property
    def Y(self) -> _Bytes: ...
    @property
    def Z(self) -> _Bytes: ...
    @property
    def scales(self) -> _Floats: ...
    def prefix(self, k: int, /) -> Matrix: ...
    def transpose(self) -> Matrix: ...
    def reconstruct(self, threads: int, /) -> _Floats: ...
    def squared_error(self, W: _Floats, threads: int, /) -> float: ...
    def matmul(self, X: npt.NDArray[Any], out: npt.NDArray[Any], threads: int, precision: int, /) -> None: ...
    def quick(
        self,
        X: npt.NDArray[Any],
        out: npt.NDArray[Any] | None,
        left: bool,
        threads: int,
        precision: int,
        /,
    ) -> npt.NDArray[np.float32] | None: ...

def layout(m: int, n: int, p: int, l: int, patch: int, /) -> _Layout: ...
def decompose(
    W: _Floats,
    p: int,
    l: int,
    patch: int,
    schedule: str,
    effort: int,
    steps: int,
    refine: int,
    weight: _Floats,
    damping: float,
    seed: int,
    threads: int,
    progress: _Progress,
    /,
) -> Matrix: ...
def extend(
    q: Matrix,
    W: _Floats,
    p: int,
    schedule: str,
    effort: int,
    steps: int,
    refine: int,
    weight: _Floats,
    damping: float,
    seed: int,
    threads: int,
    progress: _Progress,
    /,
) -> Matrix: ...

class File:
    def __init__(self, path: bytes, mapped: bool, /) -> None: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def matrices(self) -> dict[str, int]: ...
    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...], _Bytes]]: ...
    def matrix(self, name: str, /) -> Matrix: ...

def save(
    path: bytes,
    matrices: list[tuple[str, Matrix]],
    tensors: list[tuple[str, str, tuple[int, ...], _Bytes]],
    metadata: dict[str, str],
    scales: int,
    /,
) -> None: ...
def config() -> str: ...
def isa() -> str: ...

# Only in a module built with CUDA:
_Strided = tuple[int, int, int, int, int, int]  # address, bqq::Dtype, rows, columns, strides in elements

cuda_version: int

class DeviceMemory:
    def __init__(self, size: int, device: int, /) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def device(self) -> int: ...
    def dlpack(self, code: int, bits: int, shape: list[int], /) -> Any: ...

class DeviceMatrix:
    def __init__(self, q: Matrix, device: int, /) -> None: ...
    @property
    def device(self) -> int: ...
    def layout(self, transposed: bool, /) -> _Layout: ...
    def to_host(self) -> Matrix: ...
    def matmul(self, X: _Strided, out: _Strided, transposed: bool, stream: int, /) -> None: ...

def device_decompose(
    W: _Strided,
    p: int,
    l: int,
    patch: int,
    schedule: str,
    effort: int,
    steps: int,
    refine: int,
    weight: _Floats,
    damping: float,
    seed: int,
    threads: int,
    progress: _Progress,
    device: int,
    stream: int,
    /,
) -> DeviceMatrix: ...
def device_extend(
    q: DeviceMatrix,
    W: _Strided,
    p: int,
    schedule: str,
    effort: int,
    steps: int,
    refine: int,
    weight: _Floats,
    damping: float,
    seed: int,
    threads: int,
    progress: _Progress,
    stream: int,
    /,
) -> DeviceMatrix: ...
def device_get(name: str, x: _Strided, device: int, stream: int, /) -> _Floats: ...
def device_write(to: int, data: _Bytes, device: int, stream: int, /) -> None: ...
def device_read(at: int, size: int, device: int, stream: int, /) -> _Bytes: ...
def device_of(name: str, address: int, /) -> int: ...
def device_wait(stream: int, before: int, device: int, /) -> None: ...
def device_synchronize(stream: int, device: int, /) -> None: ...
def devices() -> list[str]: ...
def no_device() -> str: ...
def from_dlpack(capsule: Any, /) -> tuple[int, int, int, int, tuple[int, ...], tuple[int, ...], bool, object]: ...
