"""bqq.Matrix: what a compressed matrix looks like from Python."""

from __future__ import annotations

import operator
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _core, _cuda

if TYPE_CHECKING:
    from bqq._core import DeviceMatrix, _Layout
    from bqq._core import Matrix as HostMatrix

PRECISIONS = {"float32": 0, "int8": 1}  # bqq::Precision


class Matrix:
    """A real m x n matrix stored as p stacks of binary factors; made by :func:`bqq.decompose` or :func:`bqq.load`.

    Immutable. Behaves like a 2-D float32 array where products are concerned: ``q @ x``, ``q @ X``, ``X @ q``, ``q.T``.

    It lives on the host or on a CUDA device (:attr:`device`, :meth:`to`). A product is computed where its array is: a
    matrix on the host copies its planes to the device of the array on first use and keeps them there. The rest (``Y``,
    ``Z``, ``scales``, ``prefix``, ``error``, ``reconstruct``, saving, pickling) is computed on the host from a copy of
    the planes, made on first use too.
    """

    __array_ufunc__ = None  # so that ndarray @ q comes here
    __slots__ = ("__weakref__", "_copies", "_device", "_host", "_library", "_original", "_transposed")

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, core: HostMatrix | None) -> None:
        self._host = core
        self._device: int | None = None
        self._copies: dict[int, tuple[DeviceMatrix, bool]] = {}  # on devices, True: of the transpose
        self._library = ""  # of the arrays that reconstruct() makes on a device
        self._transposed: Matrix | None = None
        self._original: weakref.ref[Matrix] | None = None  # what this is the transpose of: no circle of owners

    @classmethod
    def _on_device(cls, planes: DeviceMatrix, transposed: bool = False, library: str = "") -> Matrix:
        q = cls(None)
        q._device, q._library = planes.device, library
        q._copies[planes.device] = planes, transposed
        return q

    @property
    def _core(self) -> HostMatrix:
        """The matrix on the host."""
        if self._host is None:
            assert self._device is not None
            planes, transposed = self._copies[self._device]
            host = planes.to_host()
            self._host = host.transpose() if transposed else host
        return self._host

    @property
    def _layout(self) -> _Layout:
        if self._host is not None or self._device is None:
            return self._core.layout
        planes, transposed = self._copies[self._device]
        return planes.layout(transposed)

    def _copy_on(self, device: int) -> tuple[DeviceMatrix, bool]:
        """The matrix on a device, made on first use, and whether its transpose is meant."""
        if self._device is not None and self._device != device:
            raise ValueError(f"the matrix is on {self.device}, the array on cuda:{device}: pass q.to('cuda:{device}')")
        if device not in self._copies:
            partner = self._transposed or (self._original() if self._original is not None else None)
            if partner is not None and device in partner._copies:
                planes, transposed = partner._copies[device]
                self._copies[device] = planes, not transposed
            else:
                self._copies[device] = _core.DeviceMatrix(self._core, device), False
        return self._copies[device]

    @classmethod
    def from_factors(
        cls,
        Y: npt.ArrayLike,
        Z: npt.ArrayLike,
        scales: npt.ArrayLike,
        shape: tuple[int, int] | None = None,
    ) -> Matrix:
        """A matrix from its factors.

        Parameters
        ----------
        Y : (J, K, p, rows, l) or (p, rows, l) of 0 and 1
        Z : (J, K, p, l, cols) or (p, l, cols) of 0 and 1
        scales : (J, K, 3p+1) or (3p+1,), in the order r_0, s_0, t_0, r_1, ..., u
        shape : (m, n); by default J*rows x K*cols. Rows and columns of the last blocks beyond it must be zero.

        Raises
        ------
        ValueError
            Shapes that do not fit, entries other than 0 and 1, scales that are not finite.
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
        m, n = _shape(shape) if shape is not None else (J * rows, K * cols)
        for size, count, block in ((m, J, rows), (n, K, cols)):
            if size < 1 or block != -(-size // count) or (count - 1) * block >= size:
                raise ValueError(f"shape is {(m, n)}, which {J} x {K} blocks of {rows} x {cols} do not cover evenly")
        packed_y = np.packbits(y.astype(np.uint8), axis=-1, bitorder="little")
        packed_z = np.packbits(z.astype(np.uint8), axis=-1, bitorder="little")
        return cls(_core.Matrix(m, n, J, K, p, l, packed_y, packed_z, np.ascontiguousarray(c)))

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
        """Bytes of bit planes and float32 scales, padding included: the matrix's share of a file."""
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
    def scales(self) -> npt.NDArray[np.float32]:
        """(J, K, 3p+1) float32, read-only: r_0, s_0, t_0, r_1, s_1, t_1, ..., u of each block."""
        return self._core.scales

    def __repr__(self) -> str:
        (m, n), (rows, cols) = self.shape, self.patch
        return (
            f"bqq.Matrix({m}x{n}, p={self.p}, l={self.l}, patch={rows}x{cols}, "
            f"{self.bits_per_weight:.3g} bits per weight, {self.nbytes} bytes)"
        )

    # --- where it is ---

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:<number>"``."""
        return "cpu" if self._device is None else f"cuda:{self._device}"

    def to(self, device: Any) -> Matrix:
        """The same matrix on ``"cpu"``, ``"cuda"`` (the first device) or ``"cuda:<number>"``; itself if it is there.

        Raises RuntimeError where there is no such device or bqq was built without CUDA, ValueError for other names.
        """
        number = _cuda.device_number(device)
        if number == self._device:
            return self
        if number is None:
            return Matrix(self._core)
        source = self if self._device is None else self.to("cpu")
        return Matrix._on_device(*source._copy_on(number), self._library)

    # --- other forms of the same matrix ---

    @property
    def T(self) -> Matrix:
        """The transpose: the same bits re-ordered, exactly. Made once and kept."""
        original = self._original() if self._original is not None else None
        if original is not None:
            return original
        if self._transposed is None:
            if self._device is None:
                other = Matrix(self._core.transpose())
            else:
                planes, transposed = self._copies[self._device]
                other = Matrix._on_device(planes, not transposed, self._library)
            other._original = weakref.ref(self)
            self._transposed = other
        return self._transposed

    def prefix(self, k: int) -> Matrix:
        """The first k stacks as a coarser matrix of their own (1 <= k <= p): same bits, block means kept."""
        shorter = Matrix(self._core.prefix(_index("k", k)))
        shorter._library = self._library
        return shorter.to(self.device)

    def reconstruct(self, *, threads: int | None = None) -> Any:
        """The dense m x n float32 array this matrix stands for. O(p l m n / 2) integer additions, on the host.

        A NumPy array, or, of a matrix on a device, a copy there: an array of the library of the W it was made from, or
        one with ``__cuda_array_interface__`` and DLPack.
        """
        dense = self._core.reconstruct(_threads(threads))
        return dense if self._device is None else _cuda.to_device(dense, self._library, self._device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("a dense array can only be made as a copy")
        dense = self._core.reconstruct(0)
        return dense if dtype is None else dense.astype(dtype)

    def error(self, W: Any) -> float:
        """Relative error ||W - What|| / ||W|| in the Frobenius norm, summed in float64."""
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
        w = _arrays.as_float32_matrix("W", _cuda.to_host("W", W) if _arrays.on_device(W) else W)
        if w.shape != self.shape:
            raise ValueError(f"W has shape {w.shape}, expected {self.shape}")
        return w

    # --- products ---

    def __matmul__(self, X: Any) -> Any:
        if isinstance(X, Matrix):
            raise TypeError("a product of two bqq.Matrix is not defined: reconstruct() one of them")
        return product(self, X)

    def __rmatmul__(self, X: Any) -> Any:
        return product_left(X, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.shape, self.grid, self.p, self.l, self._core.Y, self._core.Z, self.scales)


def _restore(shape: tuple[int, int], grid: tuple[int, int], p: int, l: int, Y: Any, Z: Any, scales: Any) -> Matrix:
    return Matrix(_core.Matrix(*shape, *grid, p, l, Y, Z, scales))


def _index(name: str, value: Any, limit: int | None = 2**63) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if limit is not None and not -limit <= number < limit:
        raise ValueError(f"{name} is {number}, out of range")
    return number


def _shape(shape: Any) -> tuple[int, int]:
    try:
        m, n = shape
    except (TypeError, ValueError):
        raise ValueError(f"shape is {shape!r}, expected two integers (m, n)") from None
    return _index("shape[0]", m), _index("shape[1]", n)


def _threads(threads: int | None) -> int:
    if threads is None:
        return 0
    count = _index("threads", threads)
    if count < 1:
        raise ValueError(f"threads is {count}, expected 1 or more")
    return min(count, 1024)


def _result(name: str, shape: tuple[int, ...], x: npt.NDArray[Any], out: Any) -> tuple[npt.NDArray[Any], Any]:
    """The array a product is written to, and what is returned: out itself if given."""
    if out is None:
        fresh = np.empty(shape, np.result_type(np.float32, x.dtype))
        return fresh, None
    target = _arrays.writable("out", out)
    if target.shape != shape:
        raise ValueError(f"out has shape {target.shape}, expected {shape}")
    if target.dtype.kind != "f" or target.dtype.itemsize > 8 or not target.dtype.isnative:
        raise TypeError(f"out has dtype {target.dtype}, expected float16, float32 or float64")
    if not target.flags.writeable:
        raise ValueError("out is read-only")
    if np.may_share_memory(target, x) and np.shares_memory(target, x):
        raise ValueError(f"out shares memory with {name}")
    return target, out


def _quick(q: Matrix, X: Any, out: Any, threads: int | None, precision: str, left: bool) -> Any:
    """The product of the commonest operands, plain float32 arrays of one or two dimensions; None for all others."""
    if type(X) is not np.ndarray or not (out is None or type(out) is np.ndarray):
        return None
    if type(precision) is not str or precision not in PRECISIONS or q._device is not None:
        return None
    return q._core.quick(X, out, left, _threads(threads), PRECISIONS[precision])


def product(q: Matrix, X: Any, out: Any = None, threads: int | None = None, precision: str = "float32") -> Any:
    """q @ X for X of shape (n,), (n, batch) or (..., n, batch)."""
    quick = _quick(q, X, out, threads, precision, left=False)
    if quick is not None:
        return quick
    if _arrays.on_device(X):
        return _product_on_device(q, X, out, threads, precision, left=False)
    _check_host(q)
    array, restore = _arrays.to_numpy("X", X)
    x = _arrays.as_real("X", array)
    m, n = q.shape
    axis = 0 if x.ndim == 1 else x.ndim - 2
    if x.ndim == 0 or x.shape[axis] != n:
        raise ValueError(f"X has shape {x.shape}, expected {n} rows beside a {m} x {n} matrix")
    shape = x.shape[:axis] + (m,) + x.shape[axis + 1 :]
    target, returned = _result("X", shape, x, out)
    _multiply(q, np.moveaxis(x, axis, 0), np.moveaxis(target, axis, 0), threads, precision)
    return restore(target) if returned is None else returned


def product_left(X: Any, q: Matrix, out: Any = None, threads: int | None = None, precision: str = "float32") -> Any:
    """X @ q for X of shape (m,) or (..., m): the transpose of q.T times the transpose of X."""
    if _arrays.on_device(X):
        return _product_on_device(q, X, out, threads, precision, left=True)
    quick = _quick(q.T, X, out, threads, precision, left=True)
    if quick is not None:
        return quick
    _check_host(q)
    array, restore = _arrays.to_numpy("X", X)
    x = _arrays.as_real("X", array)
    m, n = q.shape
    if x.ndim == 0 or x.shape[-1] != m:
        raise ValueError(f"X has shape {x.shape}, expected {m} columns beside a {m} x {n} matrix")
    shape = (*x.shape[:-1], n)
    target, returned = _result("X", shape, x, out)
    _multiply(q.T, np.moveaxis(x, -1, 0), np.moveaxis(target, -1, 0), threads, precision)
    return restore(target) if returned is None else returned


def _check_host(q: Matrix) -> None:
    if q._device is not None:
        raise ValueError(f"X is on the host, the matrix on {q.device}: pass an array there, or q.to('cpu')")


def _product_on_device(q: Matrix, X: Any, out: Any, threads: int | None, precision: str, left: bool) -> Any:
    """q @ X or, with `left`, X @ q on the device of X. Both precisions are the float32 class there."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected 'float32' or 'int8'")
    _threads(threads)
    x = _cuda.view("X", X)
    (m, n), d = q.shape, len(x.shape)
    axis = d - 1 if left or d < 2 else d - 2
    inner, outer = (m, n) if left else (n, m)
    if d == 0 or x.shape[axis] != inner:
        what = "columns" if left else "rows"
        raise ValueError(f"X has shape {x.shape}, expected {inner} {what} beside a {m} x {n} matrix")
    planes, transposed = q._copy_on(x.device)
    shape = x.shape[:axis] + (outer,) + x.shape[axis + 1 :]
    return _cuda.product(planes, transposed != left, x, X, axis, out, shape)


def _multiply(q: Matrix, x: npt.NDArray[Any], target: npt.NDArray[Any], threads: int | None, precision: str) -> None:
    """target = q @ x with the contracted axis first; trailing axes become one batch, copied only if they must be."""
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected 'float32' or 'int8'")
    if target.size == 0:
        _threads(threads)
        return
    flat_x = _whole_strides(x.reshape(x.shape[0], -1))
    flat = target.reshape(target.shape[0], -1)
    direct = np.shares_memory(flat, target) and _is_whole(flat)
    result = flat if direct else np.empty(flat.shape, target.dtype)
    q._core.matmul(flat_x, result, _threads(threads), PRECISIONS[precision])
    if not direct:
        target[...] = result.reshape(target.shape)


def _is_whole(a: npt.NDArray[Any]) -> bool:
    return a.flags.aligned and all(stride % a.itemsize == 0 for stride in a.strides)


def _whole_strides(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return a if _is_whole(a) else a.copy()
