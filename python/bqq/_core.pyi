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
def save(
    path: bytes,
    matrices: list[tuple[str, Matrix]],
    tensors: list[tuple[str, str, tuple[int, ...], _Bytes]],
    metadata: dict[str, str],
    scales_f16: bool,
    /,
) -> None: ...
def load(
    path: bytes, /
) -> tuple[list[tuple[str, Matrix]], list[tuple[str, str, list[int], _Bytes]], dict[str, str]]: ...
def config() -> str: ...
def isa() -> str: ...
