"""bqq.Matrix: what a compressed matrix looks like from Python."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _check, _core, _cuda
from bqq._planes import Planes
from bqq._product import product

if TYPE_CHECKING:
    from bqq._core import Matrix as HostMatrix
    from bqq._core import _Layout


class Matrix:
    """A real m x n matrix stored as p stacks of binary factors; made by :func:`bqq.decompose` or :func:`bqq.load`.

    Immutable. Behaves like a 2-D float32 array where products are concerned: ``q @ x``, ``q @ X``, ``X @ q``, ``q.T``.

    It lives on the host or on a CUDA device (:attr:`device`, :meth:`to`). A product is computed where its array is: a
    matrix on the host copies its planes to the device of the array on first use and keeps them there. The rest (``Y``,
    ``Z``, ``scales``, ``prefix``, ``error``, ``reconstruct``, saving, pickling) is computed on the host from a copy of
    the planes, made on first use too.
    """

    __array_ufunc__ = None  # so that ndarray @ q comes here
    __slots__ = ("__weakref__", "_original", "_planes", "_transpose", "_transposed")

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, core: HostMatrix) -> None:
        self._hold(Planes(core))

    def _hold(self, planes: Planes, transposed: bool = False) -> None:
        self._planes = planes
        self._transposed = transposed  # it is the transpose of what the planes stand for
        self._transpose: Matrix | None = None
        self._original: weakref.ref[Matrix] | None = None  # what this is the transpose of: no circle of owners

    @classmethod
    def _of(cls, planes: Planes, transposed: bool = False) -> Matrix:
        q = cls.__new__(cls)
        q._hold(planes, transposed)
        return q

    @property
    def _core(self) -> HostMatrix:
        """The matrix on the host."""
        return self._planes.on_host(self._transposed)

    @property
    def _host(self) -> HostMatrix:
        """What the planes stand for, on the host, of which this may be the transpose."""
        return self._planes.on_host()

    @property
    def _layout(self) -> _Layout:
        return self._planes.layout(self._transposed)

    @classmethod
    def from_factors(
        cls,
        Y: npt.ArrayLike,
        Z: npt.ArrayLike,
        scales: npt.ArrayLike,
        shape: tuple[int, int] | None = None,
        *,
        row_order: npt.ArrayLike | None = None,
        col_order: npt.ArrayLike | None = None,
        entries: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> Matrix:
        """A matrix from its factors.

        Parameters
        ----------
        Y : (J, K, p, rows, l) or (p, rows, l) of 0 and 1
        Z : (J, K, p, l, cols) or (p, l, cols) of 0 and 1
        scales : (J, K, 3p+1) or (3p+1,), in the order r_0, s_0, t_0, r_1, ..., u
        shape : (m, n); by default J*rows x K*cols. Rows and columns of the last blocks beyond it must be zero.
        row_order, col_order : permutations of 0 .. m-1 and 0 .. n-1: row a, column b of the blocks is row
            ``row_order[a]``, column ``col_order[b]`` of the matrix
        entries : (rows, cols, values), as :attr:`entries`: numbers added to single elements of the matrix

        Raises
        ------
        ValueError
            Shapes that do not fit, bits other than 0 and 1, numbers that are not finite, orders that are no
            permutations, entries outside the matrix or twice at one place.
        """
        y, z = np.asarray(Y), np.asarray(Z)
        with np.errstate(over="ignore"):
            c = _arrays.as_real("scales", np.asarray(scales)).astype(np.float32)
        if y.ndim == 3 and z.ndim == 3 and c.ndim == 1:
            y, z, c = y[None, None], z[None, None], c[None, None]
        if y.ndim != 5 or z.ndim != 5 or c.ndim != 3:
            raise ValueError(
                f"Y {y.shape}, Z {z.shape} and scales {c.shape} do not fit, expected (J, K, p, rows, l), "
                "(J, K, p, l, cols) and (J, K, 3p+1), or all three without J and K"
            )
        J, K, p, rows, l = y.shape
        cols = z.shape[4]
        if z.shape[:4] != (J, K, p, l) or c.shape != (J, K, 3 * p + 1):
            raise ValueError(
                f"Z has shape {z.shape} and scales {c.shape}, expected {(J, K, p, l, 'cols')} and "
                f"{(J, K, 3 * p + 1)} beside Y {y.shape}"
            )
        for name, bits in (("Y", y), ("Z", z)):
            if not np.isin(bits, (0, 1)).all():
                raise ValueError(f"{name} has entries other than 0 and 1")
        m, n = _check.shape(shape) if shape is not None else (J * rows, K * cols)
        for size, count, block in ((m, J, rows), (n, K, cols)):
            if size < 1 or block != -(-size // count) or (count - 1) * block >= size:
                raise ValueError(f"shape is {(m, n)}, which {J} x {K} blocks of {rows} x {cols} do not cover evenly")
        packed_y = np.packbits(y.astype(np.uint8), axis=-1, bitorder="little")
        packed_z = np.packbits(z.astype(np.uint8), axis=-1, bitorder="little")
        return cls.from_planes(packed_y, packed_z, c, (m, n), row_order=row_order, col_order=col_order, entries=entries)

    @classmethod
    def from_planes(
        cls,
        Y: npt.NDArray[np.uint8],
        Z: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.float32],
        shape: tuple[int, int],
        *,
        row_order: npt.ArrayLike | None = None,
        col_order: npt.ArrayLike | None = None,
        entries: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> Matrix:
        """A matrix from what :attr:`planes`, :attr:`scales`, :attr:`shape` and the rest of another one are; copies.

        Raises ValueError for planes, scales, orders or entries that are not valid for the shape, TypeError for others
        than uint8 and float32.
        """
        given: dict[str, tuple[Any, type]] = {"Y": (Y, np.uint8), "Z": (Z, np.uint8), "scales": (scales, np.float32)}
        for name, (array, dtype) in given.items():
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise TypeError(f"{name} is no NumPy array of {np.dtype(dtype)}")
        m, n = _check.shape(shape)
        core = _core.Matrix(m, n, *map(np.ascontiguousarray, (Y, Z, scales)))
        if row_order is None and col_order is None and entries is None:
            return cls(core)
        return cls(_dressed(core, row_order, col_order, entries))

    # --- shape and size ---

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix it stands for."""
        a = self._layout
        return a["m"], a["n"]

    @property
    def p(self) -> int:
        """Number of stacks: about the bits per element at the default l."""
        return self._layout["p"]

    @property
    def l(self) -> int:
        """Inner dimension of each stack."""
        return self._layout["l"]

    @property
    def patch(self) -> tuple[int, int]:
        """(rows, cols) of a block; blocks of the last row and column may be smaller."""
        a = self._layout
        return a["rows"], a["cols"]

    @property
    def grid(self) -> tuple[int, int]:
        """(J, K): number of block rows and block columns."""
        a = self._layout
        return a["J"], a["K"]

    @property
    def nbytes(self) -> int:
        """Bytes of bit planes and float32 scales, padding included, orders and entries: its share of a file."""
        return self._layout["nbytes"]

    @property
    def bits_per_weight(self) -> float:
        """``8 * nbytes / (m * n)``."""
        return self._layout["bits_per_weight"]

    @property
    def Y(self) -> npt.NDArray[np.uint8]:
        """Left factors, uint8 zeros and ones, shape (J, K, p, rows, l); unpacked on each access."""
        return np.unpackbits(self._core.Y, axis=-1, count=self.l, bitorder="little")

    @property
    def Z(self) -> npt.NDArray[np.uint8]:
        """Right factors, uint8 zeros and ones, shape (J, K, p, l, cols); unpacked on each access."""
        return np.unpackbits(self._core.Z, axis=-1, count=self.patch[1], bitorder="little")

    @property
    def planes(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Y and Z as they are stored, uint8, read-only: (J, K, p, rows, ceil(l/8)) and (J, K, p, l, ceil(cols/8)),
        8 bits a byte, lowest first."""
        return self._core.Y, self._core.Z

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """(J, K, 3p+1) float32, read-only: r_0, s_0, t_0, r_1, s_1, t_1, ..., u of each block."""
        return self._core.scales

    @property
    def row_order(self) -> npt.NDArray[np.uint32] | None:
        """(m,) uint32, read-only: row a of the blocks is row ``row_order[a]`` of the matrix. None: the same row."""
        return self._host.col_order if self._transposed else self._host.row_order

    @property
    def col_order(self) -> npt.NDArray[np.uint32] | None:
        """(n,) uint32, read-only: column b of the blocks is column ``col_order[b]`` of the matrix."""
        return self._host.row_order if self._transposed else self._host.col_order

    @property
    def entries(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
        """(rows, cols, values): what is added to single elements of the matrix; most often, nothing."""
        rows, cols, values = self._core.entries
        if self.row_order is not None:
            rows = self.row_order[rows]
        if self.col_order is not None:
            cols = self.col_order[cols]
        return rows, cols, values

    @property
    def _extras(self) -> list[str]:
        """What there is besides blocks, in words."""
        count = self._host.entries[2].size
        return [
            *(["row order"] if self.row_order is not None else []),
            *(["column order"] if self.col_order is not None else []),
            *([f"{count} {'entry' if count == 1 else 'entries'}"] if count else []),
        ]

    def __repr__(self) -> str:
        (m, n), (rows, cols) = self.shape, self.patch
        extras = "".join(f", {extra}" for extra in self._extras)
        return (
            f"bqq.Matrix({m}x{n}, p={self.p}, l={self.l}, patch={rows}x{cols}, "
            f"{self.bits_per_weight:.3g} bits per weight, {self.nbytes} bytes{extras})"
        )

    # --- where it is ---

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:<number>"``."""
        device = self._planes.device
        return "cpu" if device is None else f"cuda:{device}"

    def to(self, device: Any) -> Matrix:
        """The same matrix on ``"cpu"``, ``"cuda"`` (the first device) or ``"cuda:<number>"``; itself if it is there.

        Raises RuntimeError where there is no such device or bqq was built without CUDA, ValueError for other names.
        """
        number = _cuda.device_number(device)
        if number == self._planes.device:
            return self
        return Matrix._of(self._planes.moved(number), self._transposed)

    # --- other forms of the same matrix ---

    @property
    def T(self) -> Matrix:
        """The transpose, exactly: O(1), it shares the bits. Made once and kept."""
        original = self._original() if self._original is not None else None
        if original is not None:
            return original
        if self._transpose is None:
            self._transpose = Matrix._of(self._planes, not self._transposed)
            self._transpose._original = weakref.ref(self)
        return self._transpose

    def prefix(self, k: int) -> Matrix:
        """The first k stacks as a coarser matrix of their own (1 <= k <= p): same bits, block means kept."""
        planes, shorter = self._planes, self._core.prefix(_check.index("k", k))
        return Matrix._of(Planes(shorter, None, planes.library).moved(planes.device))

    def with_scales(self, scales: npt.ArrayLike) -> Matrix:
        """The same bits, orders and entries with other scales: (J, K, 3p+1), finite. Shares the bits. O(bytes)."""
        J, K = self.grid
        with np.errstate(over="ignore"):
            values = _arrays.as_real("scales", np.asarray(scales)).astype(np.float32)
        if values.shape != (J, K, 3 * self.p + 1):
            raise ValueError(f"scales has shape {values.shape}, expected {(J, K, 3 * self.p + 1)}")
        planes, other = self._planes, self._core.with_scales(np.ascontiguousarray(values))
        return Matrix._of(Planes(other, None, planes.library).moved(planes.device))

    def reconstruct(self, *, threads: int | None = None) -> Any:
        """The dense m x n float32 array this matrix stands for. O(p l m n / 2) integer additions, on the host.

        A NumPy array, or, of a matrix on a device, a copy there: an array of the library of the W it was made from, or
        one with ``__cuda_array_interface__`` and DLPack.
        """
        dense, planes = self._core.reconstruct(_check.threads(threads)), self._planes
        return dense if planes.device is None else _cuda.to_device(dense, planes.library, planes.device)

    def row_squares(self, *, threads: int | None = None) -> npt.NDArray[np.float32]:
        """Squared norms of the rows, (m,) float32, summed in float64. As :meth:`reconstruct`, a row at a time."""
        return self._core.row_squares(_check.threads(threads))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a dense array can only be made as a copy")
        dense = self._core.reconstruct(0)
        return dense if dtype is None else dense.astype(dtype)

    def error(self, W: Any) -> float:
        """Relative error ||W - W_hat|| / ||W|| in the Frobenius norm, summed in float64."""
        w = self._same_shape(W)
        squared, norm = self._core.squared_error(w, 0), float(np.linalg.norm(w.astype(np.float64)))
        if squared == 0:
            return 0.0
        return float(np.sqrt(squared) / norm) if norm else float("inf")

    def mse(self, W: Any) -> float:
        """Mean squared error of an element, summed in float64."""
        w = self._same_shape(W)
        return self._core.squared_error(w, 0) / w.size

    def _same_shape(self, W: Any) -> npt.NDArray[np.float32]:
        w = _arrays.as_float32_matrix("W", _cuda.to_host("W", _cuda.matrix_view("W", W)) if _arrays.on_device(W) else W)
        if w.shape != self.shape:
            raise ValueError(f"W has shape {w.shape}, expected {self.shape}")
        return w

    # --- products ---

    @overload
    def __matmul__(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]: ...
    @overload
    def __matmul__(self, X: Any) -> Any: ...
    def __matmul__(self, X: Any) -> Any:
        if isinstance(X, Matrix):
            raise TypeError("a product of two bqq.Matrix is not defined: reconstruct() one of them")
        return product(self, X)

    def __rmatmul__(self, X: Any) -> Any:
        return product(self, X, left=True)

    # SciPy's names: scipy.sparse.linalg.aslinearoperator(q), svds(q)

    def matvec(self, x: Any) -> Any:
        """q @ x."""
        return product(self, x)

    def rmatvec(self, x: Any) -> Any:
        """q.T @ x."""
        return product(self.T, x)

    matmat, rmatmat = matvec, rmatvec

    def __reduce__(self) -> tuple[Any, ...]:
        core = self._core
        blocks = self.shape, self.grid, self.p, self.l, core.Y, core.Z, self.scales
        extras = core.row_order, core.col_order, core.entries
        return _restore, (*blocks, extras) if self._extras else blocks


def _restore(
    shape: tuple[int, int],
    grid: tuple[int, int],
    p: int,
    l: int,
    Y: Any,
    Z: Any,
    scales: Any,
    extras: tuple[Any, Any, Any] | None = None,
) -> Matrix:
    """Pickles hold these arguments, so they stay; the planes have all shapes but the matrix's own. Extras are the
    orders and entries as the core has them."""
    core = _core.Matrix(*shape, Y, Z, scales)
    if extras is not None:
        rows, cols, entries = extras
        none = np.empty(0, np.uint32)
        core = core.with_extras(none if rows is None else rows, none if cols is None else cols, *entries)
    return Matrix(core)


def _dressed(core: HostMatrix, row_order: Any, col_order: Any, entries: Any) -> HostMatrix:
    """The matrix with orders and entries; those count rows and columns of the whole matrix."""
    a = core.layout(False)
    orders = []
    places = [np.empty(0, np.uint32)] * 2
    values = np.empty(0, np.float32)
    if entries is not None:
        rows, cols, numbers = entries
        with np.errstate(over="ignore"):
            values = _arrays.as_real("entries[2]", np.asarray(numbers)).astype(np.float32)
        places = [_numbers(f"entries[{i}]", x, side) for i, (x, side) in enumerate(((rows, a["m"]), (cols, a["n"])))]
        if not places[0].shape == places[1].shape == values.shape or values.ndim != 1:
            raise ValueError(
                f"entries have shapes {places[0].shape}, {places[1].shape} and {values.shape}, "
                "expected three arrays of one length"
            )
    for axis, (name, order, side) in enumerate((("row_order", row_order, a["m"]), ("col_order", col_order, a["n"]))):
        if order is None:
            orders.append(np.empty(0, np.uint32))
            continue
        found = _numbers(name, order, side)
        if found.shape != (side,) or np.unique(found).size != side:
            raise ValueError(f"{name} is no permutation of 0 to {side - 1}")
        orders.append(found)
        where = np.empty(side, np.uint32)
        where[found] = np.arange(side, dtype=np.uint32)
        places[axis] = where[places[axis]]
    by_place = np.lexsort(places[::-1])
    return core.with_extras(orders[0], orders[1], places[0][by_place], places[1][by_place], values[by_place])


def _numbers(name: str, values: Any, limit: int) -> npt.NDArray[np.uint32]:
    """Integers from 0 to below `limit`."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} has dtype {array.dtype}, expected integers")
    if array.size and (array.min() < 0 or array.max() >= limit):
        raise ValueError(f"{name} has {array.min()} to {array.max()}, expected 0 to {limit - 1}")
    return np.ascontiguousarray(array, np.uint32)
