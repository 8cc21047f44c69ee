"""Codecs: from vectors to codes and back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _check, _core
from bqq._files import Path, encoded_path, exact_errors
from bqq._options import Effort, code_options
from bqq._progress import Progress, reporter

Metric = Literal["l2", "ip", "cosine"]
METRICS: dict[str, _core.MetricType] = {kind.name: kind for kind in _core.MetricType}
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]


class Codec:
    """A trained codebook; made by :func:`train` or :func:`load`. It never changes.

    A vector becomes ``code_size`` bytes: 4 bits for each group of 16 entries, which add up to it, and a byte for the
    square of its norm (none for ``"ip"``). Groups come in stages of about one bit a dimension, each made for what
    the ones before it leave: the first stages are a coarser codec, :meth:`prefix`.

    Attributes
    ----------
    d : dimensions of a vector
    code_size : bytes of a code
    metric : ``"l2"``, ``"ip"`` or ``"cosine"``
    stages : bytes of each stage
    """

    def __init__(self, _core_codec: _core.Codec) -> None:
        self._core = _core_codec
        self.d: int = _core_codec.d
        self.code_size: int = _core_codec.code_size
        self.metric: str = _core_codec.metric.name
        self.stages: list[int] = _core_codec.stage_bytes

    def encode(
        self, X: Any, *, effort: Effort = "default", threads: int | None = None, progress: Progress = None
    ) -> Codes:
        """Codes of the rows of X, (N, code_size) uint8.

        A code depends on its row, the codec, ``effort`` and the instruction set: not on the rows beside it, not on
        threads. ``effort``: ``"fast"`` searches with 10 sweeps, ``"default"`` with 30, ``"best"`` with 100. A row takes
        O(d code_size) multiplications and, in each stage, some 100 additions of 16 bits for each pair of its groups.

        Raises ValueError or TypeError for an X that is not (N, d), real and finite.
        """
        rows = self._rows("X", X)
        if len(rows) == 0:
            return np.empty((0, self.code_size), np.uint8)
        options = code_options(effort, threads=threads)
        with reporter(progress, "encode") as options.progress:
            return self._core.encode(rows, options)

    def decode(self, codes: Any, *, threads: int | None = None) -> Floats:
        """The vectors that codes stand for, (N, d) float32; of norm about 1 for ``"cosine"``."""
        return self._core.decode(self._codes("codes", codes), _check.threads(threads))

    def prefix(self, stages: int) -> Codec:
        """The codec of the first stages. Its codes are the first bytes of this one's, and a norm byte of their own."""
        return Codec(self._core.prefix(_check.index("stages", stages)))

    def save(self, path: Path) -> None:
        """Write to a safetensors file, as :func:`bqq.save` writes; :func:`bqq.ann.load` reads it."""
        with exact_errors(path):
            self._core.save(encoded_path(path))

    def _rows(self, name: str, X: Any) -> Floats:
        """(N, d) float32; N may be 0."""
        return rows_of(name, X, self.d)

    def _codes(self, name: str, codes: Any) -> Codes:
        given = np.asarray(codes)
        if given.dtype != np.uint8:
            raise TypeError(f"{name} has dtype {given.dtype}, expected uint8")
        if given.ndim != 2 or given.shape[1] != self.code_size:
            raise ValueError(f"{name} has shape {given.shape}, expected (N, {self.code_size})")
        return np.ascontiguousarray(given)

    def __repr__(self) -> str:
        return f"bqq.ann.Codec(d={self.d}, code_size={self.code_size}, metric={self.metric!r}, stages={self.stages})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codec):
            return NotImplemented
        mine: Any = self._core.parts()
        others: Any = other._core.parts()
        return self.metric == other.metric and all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))

    __hash__ = None  # type: ignore[assignment]


def train(
    X: Any,
    code_size: int,
    *,
    metric: Metric = "l2",
    effort: Effort = "default",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Codec:
    """A codec for vectors like the rows of X.

    Parameters
    ----------
    X : (N, d) array of real numbers; of many rows a random choice of 32,768 is used (``effort="fast"`` 16,384,
        ``"best"`` 131,072). Fewer than about 1,000 fit their own rows and no others
    code_size : bytes of a code, 2 to 512; one of them is the norm, but for ``"ip"``
    metric : what the search ranks by: ``"l2"``, squared Euclidean distance; ``"ip"``, inner product; ``"cosine"``
    effort : also the rounds of training: 15, 25 or 50
    seed : the result depends on (X, code_size, metric, effort, seed) and the instruction set only
    threads, progress : as in :func:`bqq.decompose`

    Raises
    ------
    ValueError, TypeError
        X not 2-D, empty, not real, not finite or beyond 1e15 in size; parameters out of range.

    Notes
    -----
    Per stage and round O(N (16 d M + M^2)) for M groups, and one linear system of 16 M unknowns. Half a minute for
    32,768 vectors of 128 dimensions and 64 bytes on one core.
    """
    size = _check.index("code_size", code_size)
    _check.one_of("metric", metric, METRICS)
    options = code_options(effort, seed=seed, threads=threads)
    rows = _arrays.as_float32_matrix("X", X)
    with reporter(progress, "train") as options.progress:
        return Codec(_core.Codec.train(rows, size, METRICS[metric], options))


def load(path: Path) -> Codec:
    """Read a codec, from a file of :meth:`Codec.save` or of :meth:`Index.save`.

    Raises FormatError (a ValueError) if the file is malformed, OSError if it cannot be read.
    """
    with exact_errors(path):
        return Codec(_core.Codec.load(encoded_path(path)))


def rows_of(name: str, X: Any, d: int) -> Floats:
    """A real (N, d) array as C-contiguous float32; N may be 0."""
    empty = getattr(X, "shape", None)
    if empty is not None and len(empty) == 2 and empty[0] == 0 and empty[1] == d:
        return np.empty((0, d), np.float32)
    rows = _arrays.as_float32_matrix(name, X)
    if rows.shape[1] != d:
        raise ValueError(f"{name} has shape {rows.shape}, expected (N, {d})")
    return rows
