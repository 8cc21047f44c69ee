"""Indexes: codes with ids that can be added, removed, searched and saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bqq import _check, _core
from bqq._files import Path, encoded_path, exact_errors
from bqq._options import Effort, code_options
from bqq._progress import Progress, reporter
from bqq.ann._codec import Codec, Codes, Floats, rows_of

Ids = npt.NDArray[np.int64]


class Index:
    """Codes of a codec with ids, in the order of the scan.

    >>> index = ann.Index(codec)
    >>> index.add(X)
    >>> distances, ids = index.search(Q, k=10)

    One thread may change an index while others search it: a search sees the index before or after a change, never
    between. ``len(index)`` counts its vectors; it takes ``codec.code_size + 8`` bytes for each.
    """

    def __init__(self, codec: Codec) -> None:
        if not isinstance(codec, Codec):
            raise TypeError(f"codec is {type(codec).__name__}, expected a bqq.ann.Codec")
        self.codec = codec
        self._core = _core.VectorIndex(codec._core)

    def add(
        self,
        X: Any,
        ids: Any = None,
        *,
        effort: Effort = "default",
        threads: int | None = None,
        progress: Progress = None,
    ) -> None:
        """Encode the rows of X, (N, d), and add them.

        ids: N distinct integers from 0 on that the index does not have; None: the next ones, from one more than the
        largest there ever was. Other arguments as of :meth:`Codec.encode`. Adds all rows or none.
        """
        rows = rows_of("X", X, self.codec.d)
        named = None if ids is None else _ids(ids, len(rows))
        options = code_options(effort, threads=threads)
        with reporter(progress, "add") as options.progress:
            self._core.add(rows, named, options)

    def add_codes(self, codes: Any, ids: Any = None) -> None:
        """Add codes of :meth:`Codec.encode`; ids as of :meth:`add`."""
        given = self.codec._codes("codes", codes)
        self._core.add_codes(given, None if ids is None else _ids(ids, len(given)))

    def remove(self, ids: Any) -> int:
        """Remove vectors by their ids. Returns how many there were; unknown ids are ignored. O(1) for each."""
        return self._core.remove(_ids(ids))

    def search(
        self,
        Q: Any,
        k: int = 10,
        *,
        ids: Any = None,
        coarse: int | None = None,
        rescore: int | None = None,
        threads: int | None = None,
    ) -> tuple[Floats, Ids]:
        """The k nearest of each query.

        Parameters
        ----------
        Q : (queries, d) array of real numbers
        k : how many; where there are fewer, ids are -1 and distances the largest float32, or its negative
        ids : search among these alone: integers; unknown ones are ignored
        coarse : scan the first so many stages of the codes, and rank the best of that by the whole codes. A half to a
            tenth of the time where codes have several stages; the first such search makes a byte of norm a vector more
        rescore : how many of the best of the scan, which adds in 8 and 16 bits, are ranked again in float32; None:
            2k + 4 (stages + 1), after a coarse scan 3k + 35, and more where those may not be enough
        threads : over queries, or over codes where there are few queries

        Returns
        -------
        distances, ids : (queries, k) float32 and int64
            Best first, ties by id. Distances are squared for ``"l2"``, smallest first; inner products for ``"ip"`` and
            cosines for ``"cosine"``, largest first; of the query itself and what a code stands for.
        """
        rows = rows_of("Q", Q, self.codec.d)
        count = _check.positive("k", _check.index("k", k))
        stages, scored = _check.positive("coarse", coarse), _check.positive("rescore", rescore)
        among = None if ids is None else _ids(ids)
        return self._core.search(rows, count, stages, scored, among, _check.threads(threads))

    def range_search(
        self, Q: Any, radius: float, *, ids: Any = None, threads: int | None = None
    ) -> tuple[npt.NDArray[np.int64], Floats, Ids]:
        """All vectors nearer than ``radius`` to each query: ``(limits, distances, ids)``, best first, as in FAISS.

        Those of query i are ``distances[limits[i]:limits[i + 1]]``. For ``"l2"`` squared distances less than radius,
        else inner products or cosines more than radius.
        """
        rows = rows_of("Q", Q, self.codec.d)
        among = None if ids is None else _ids(ids)
        return self._core.range_search(rows, _number("radius", radius), among, _check.threads(threads))

    def reconstruct(self, ids: Any) -> Floats:
        """The vectors that the codes of these ids stand for, (len(ids), d). ValueError for an id that is not there."""
        return self._core.reconstruct(_ids(ids))

    def codes(self, ids: Any) -> Codes:
        """The codes of these ids, (len(ids), code_size). ValueError for an id that is not there."""
        return self._core.codes(_ids(ids))

    @property
    def ids(self) -> Ids:
        """All ids, in the order they lie in; a copy."""
        return self._core.ids()

    def save(self, path: Path) -> None:
        """Write codec, codes and ids to a safetensors file, as :func:`bqq.save` writes; :func:`open` reads it."""
        with exact_errors(path):
            self._core.save(encoded_path(path))

    def __len__(self) -> int:
        return self._core.size()

    def __contains__(self, id: object) -> bool:
        return isinstance(id, (int, np.integer)) and bool((self._core.ids() == id).any())

    def __repr__(self) -> str:
        return f"bqq.ann.Index({self.codec!r}, {len(self)} vectors)"


def open(path: Path) -> Index:
    """Open a file of :meth:`Index.save`: memory-mapped, its checksum checked, which reads it once.

    Changes to the index stay in memory. Replacing the file on disk is harmless; truncating it in place is not.
    Raises FormatError (a ValueError) if the file is malformed or corrupt, OSError if it cannot be read.
    """
    with exact_errors(path):
        core = _core.VectorIndex.open(encoded_path(path))
    index = Index.__new__(Index)
    index.codec, index._core = Codec(core.codec), core
    return index


def _ids(ids: Any, count: int | None = None) -> Ids:
    given = np.asarray(ids)
    if given.size == 0 and given.ndim <= 1:
        given = given.reshape(0).astype(np.int64)
    if given.dtype.kind not in "iu":
        raise TypeError(f"ids has dtype {given.dtype}, expected integers")
    if given.ndim != 1 or (count is not None and len(given) != count):
        raise ValueError(f"ids has shape {given.shape}, expected ({'N' if count is None else count},)")
    if given.dtype == np.uint64 and given.size and given.max() > np.iinfo(np.int64).max:
        raise ValueError(f"ids has {given.max()}, expected at most 2**63 - 1")
    return np.ascontiguousarray(given, np.int64)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is {value!r}, expected a number")
    return float(value)
