"""Files: save, load and open."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np

from bqq import _arrays, _check, _core
from bqq._matrix import Matrix

_SCALES = {"float32": 0, "float16": 1}  # bqq::Dtype; the core says which of them it can store

Path = str | os.PathLike[str]


class Tensors(dict[str, Any]):
    """What :func:`bqq.load` returns: a dict of matrices and arrays by name, with the file's :attr:`metadata`.

    :func:`bqq.save` writes both. What ``dict`` makes of it (``|``, ``copy``) is a plain dict without metadata.
    """

    metadata: dict[str, str]

    def __init__(self, items: Any = (), metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(items)
        self.metadata = dict(metadata or {})


_one_matrix = threading.Lock()


def _new_lock() -> None:
    global _one_matrix
    _one_matrix = threading.Lock()


if hasattr(os, "register_at_fork"):  # a thread that the child does not have may hold it
    os.register_at_fork(after_in_child=_new_lock)


class File(Mapping[str, Any]):
    """A safetensors file, memory-mapped; made by :func:`bqq.open`.

    A mapping from names, sorted, to what the file holds: ``file[name]`` is a :class:`bqq.Matrix` whose planes stay in
    the file until a product needs them, a read-only NumPy array over the file's bytes (a copy where they are not
    aligned), or a :class:`bqq.RawTensor`. The first use of a matrix checks its checksum and bits, FormatError if it is
    corrupt; as long as somebody holds it, the same object is given out.

    What came out of a file keeps its mapping alive: ``close``, or the end of a ``with`` block, only ends
    ``file[name]``. Replacing the file on disk, as :func:`bqq.save` does, is harmless. Truncating or overwriting it in
    place is not: touching what is gone ends the process; :func:`bqq.load` reads instead.

    Attributes
    ----------
    metadata : dict of the file's own metadata, strings by name; a copy
    sizes : dict of the bytes of each name in the file, scales in the type they are stored in
    """

    def __init__(self, path: Path, _core_file: _core.File) -> None:
        self._path = path
        self._core: _core.File | None = _core_file
        self._tensors = _core_file.tensors
        self._matrices: WeakValueDictionary[str, Matrix] = WeakValueDictionary()
        self.metadata: dict[str, str] = _core_file.metadata
        sizes = _core_file.matrices | {name: data.nbytes for name, (_, _, data) in self._tensors.items()}
        self.sizes: dict[str, int] = dict(sorted(sizes.items()))

    def __getitem__(self, name: str) -> Any:
        tensors, core = self._tensors, self._core  # as they are now: another thread may close the file
        if core is None:
            raise ValueError(f"{self!r}: the file is closed")
        if name in tensors:
            return _array(*tensors[name])
        if name not in self.sizes:
            raise KeyError(name)
        with _one_matrix:  # setdefault of a dictionary of weak values is not one step
            matrix = self._matrices.get(name)
            if matrix is None:
                matrix = self._matrices[name] = Matrix(core.matrix(name))
        return matrix

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __contains__(self, name: object) -> bool:
        return name in self.sizes

    def names(self) -> list[str]:
        """Names of all that is in the file, sorted."""
        return list(self.sizes)

    def close(self) -> None:
        """No more ``file[name]``; what came out of the file stays good."""
        self._core, self._tensors = None, {}
        with _one_matrix:
            self._matrices.clear()

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"{len(self)} names, {sum(self.sizes.values())} bytes" if self._core is not None else "closed"
        return f"bqq.File({os.fsdecode(self._path)!r}, {state})"


def open(path: Path) -> File:
    """Open a safetensors file without reading it: a :class:`File`. O(header).

    Raises FormatError (a ValueError) if the header is malformed or the file truncated, OSError if it cannot be opened.
    """
    with exact_errors(path):
        return File(path, _core.File(encoded_path(path), True))


def load(path: Path) -> Tensors:
    """Read a safetensors file: everything in it by name, :class:`Matrix` for compressed matrices, NumPy arrays (or
    :class:`RawTensor` for dtypes NumPy lacks) for the rest, and its metadata.

    The file is read once, into memory that all of them share and that lives as long as any of them; for a few tensors
    of a large file use :func:`open`.

    Raises FormatError (a ValueError) if the file is malformed, truncated or corrupt, OSError if it cannot be read.
    """
    with exact_errors(path):
        file = File(path, _core.File(encoded_path(path), False))
    return Tensors(file, file.metadata)


def save(
    path: Path,
    tensors: Matrix | Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    scales: Literal["float32", "float16"] = "float32",
) -> None:
    """Write matrices and ordinary arrays to one safetensors file (format: cpp/FORMAT.md).

    ``tensors`` maps names to :class:`Matrix`, arrays or :class:`RawTensor`; a single Matrix is called ``"matrix"``.
    ``metadata``: strings by name; by default that of ``tensors``, if it came from :func:`open` or :func:`load`.
    The file appears whole or not at all. ``scales="float16"`` halves the scales and rounds them.

    Raises ValueError or TypeError for names, dtypes or metadata the format cannot hold, OSError if writing fails or
    ``path`` is something else than a file.
    """
    if not isinstance(tensors, (Matrix, Mapping)):
        raise TypeError(f"tensors is {type(tensors).__name__}, expected a bqq.Matrix or a mapping from names to arrays")
    items = {"matrix": tensors} if isinstance(tensors, Matrix) else dict(tensors)
    _check.one_of("scales", scales, _SCALES)
    for name in items:
        _text("name", name)
    if metadata is None:
        metadata = tensors.metadata if isinstance(tensors, (File, Tensors)) else {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is {type(metadata).__name__}, expected a mapping from strings to strings")
    pairs = {_text("metadata key", k): _text(f"metadata[{k!r}]", v) for k, v in metadata.items()}
    matrices = [(name, q._core) for name, q in items.items() if isinstance(q, Matrix)]
    others = [(name, *_arrays.to_bytes(name, value)) for name, value in items.items() if not isinstance(value, Matrix)]
    with exact_errors(path):
        _core.save(encoded_path(path), matrices, others, pairs, _SCALES[scales])


def _array(dtype: str, shape: tuple[int, ...], data: Any) -> Any:
    value = _arrays.from_bytes(dtype, shape, data)
    if isinstance(value, np.ndarray) and not value.flags.aligned:
        value = value.copy()
        value.flags.writeable = data.flags.writeable
    return value


@contextmanager
def exact_errors(path: Path) -> Iterator[None]:
    """An OSError with the system's number becomes the one that builtin functions raise."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), path) from error


def encoded_path(path: Path) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"path is {path!r}, which contains NUL")
    return encoded


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is {value!r}, which is not valid Unicode: {error.reason}") from None
    return value
