"""The functions of the package."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _check, _core, _cuda
from bqq._arrays import DeviceView
from bqq._matrix import Matrix
from bqq._options import Effort, Order, Precision, Schedule, decompose_options
from bqq._planes import Planes
from bqq._product import product
from bqq._progress import Progress, reporter


def decompose(
    W: Any,
    p: int,
    l: int | None = None,
    *,
    patch: int | None = None,
    weight: Any = None,
    damping: float = 0.1,
    order: Order | None = None,
    outliers: float | None = None,
    effort: Effort = "default",
    schedule: Schedule = "adaptive",
    steps: int | None = None,
    refine: bool | int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Matrix:
    """Approximate a real matrix by p stacks of binary factors (paper, section 3).

    Parameters
    ----------
    W : (m, n) array of real numbers (NumPy, torch, anything with ``__array__``); computed in float32. Of an array on
        a CUDA device (CuPy, torch, ``__cuda_array_interface__``, DLPack) the matrix is found and stays there
    p : number of stacks, 1 to 64; with the default l about p bits per element
    l : inner dimension, 1 to 65535; default ``rows*cols/(rows+cols)`` of a block, rounded half up
    patch : largest side of a block; default: one block up to 512 x 512, else blocks of at most 256 x 256; with an
        (n, n) weight the side near 128, from 96 to 192, that m and n are cut into with next to no padding
    weight : (n, n) second moment ``X.T @ X`` of the inputs X (samples, n) that ``W @ x`` will see, or the (n,) diagonal
        of one. The error minimised is then the output error ``tr(E H E^T)``, E = W - W_hat: bits are refined and scales
        solved in that metric, and the error of a column patch is moved into those still to come (as GPTQ does).
        Symmetric positive semidefinite. With a W on a device it may be on a device too; the search is then the host's,
        on copies, and its result is moved to the device of W
    damping : this share of the mean of weight's diagonal is added to the diagonal, against overfitting and singular H
    order : ``"weight"`` puts the columns into blocks by falling diagonal of weight: those that matter most come first,
        so that their error is made good behind them. The matrix carries the order (16 bits a column up to 65,536)
    outliers : elements further than this many standard deviations from the mean of their block are kept apart: the
        matrix has an entry for each (64 bits up to 2**32 elements, 48 stored with float16 scales), which is what is
        left over there or, with an (n, n) weight, what makes the error of its row least. 8.0 finds the few of network
        weights that spoil a block; None: none. Not on a device
    effort : how long to search: ``"fast"``, ``"default"`` or ``"best"`` (error against time: README; steps and sweeps
        of each: bqq::Effort in cpp/include/bqq/decompose.hpp)
    schedule : ``"adaptive"`` divides the residual by six standard deviations and ends a stack once it has settled;
        ``"paper"`` is the published schedule: range normalisation, T 0.2 to 0.005, eta 0.06, zeta 4, 50,000 steps,
        no refinement unless asked for
    steps : descent steps per stack instead of the effort's
    refine : refinement anneals the rounded bits and keeps the result if the error fell; False for none, True for the
        effort's number of sweeps, or a number of sweeps. Default: True, but False under ``schedule="paper"``; not
        done for l > 4096
    seed : the result depends on W, the arguments, the seed and the instruction set in use, not on threads
    threads : default: all cores, or BQQ_NUM_THREADS, or OMP_NUM_THREADS
    progress : True for a tqdm bar, or a function called as ``progress(done, total)`` a few times a second

    Returns
    -------
    Matrix

    Raises
    ------
    ValueError, TypeError
        W that is not 2-D, empty, not real or not finite; parameters out of range.
    RuntimeError
        W on a device, and bqq built without CUDA, or no device found.

    Notes
    -----
    About 8 rows*cols*l flop per step, stack and block. Ctrl-C stops within one step.
    """
    stacks = _check.index("p", p)
    w = _source("W", W)
    options = decompose_options(
        w.shape[1],
        l=l,
        patch=patch,
        weight=_weight_on_host(w, weight),
        damping=damping,
        order=order,
        outliers=outliers,
        effort=effort,
        schedule=schedule,
        steps=steps,
        refine=refine,
        seed=seed,
        threads=threads,
    )
    with reporter(progress, "decompose") as options.progress:
        if isinstance(w, DeviceView) and weight is None:
            at = w.device, _cuda.stream_of(w)
            return Matrix._of(Planes(None, _core.device_decompose(_cuda.strided(w), stacks, options, *at), w.library))
        return _beside(w, _core.decompose(_on_host("W", w), stacks, options))


def extend(
    q: Matrix,
    W: Any,
    p: int,
    *,
    weight: Any = None,
    damping: float = 0.1,
    effort: Effort = "default",
    schedule: Schedule = "adaptive",
    steps: int | None = None,
    refine: bool | int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Matrix:
    """Add stacks to q until it has p. The bits of the old stacks, the orders and the places of entries stay as they
    are; all scales and entries are solved again.

    ``extend(decompose(W, 1), W, 2)`` equals ``decompose(W, 2)`` bit for bit if the other arguments are equal, unless a
    weight of shape (n, n) couples several column patches.
    Parameters and errors as in :func:`decompose`.
    """
    _check_matrix(q)
    stacks = _check.index("p", p, limit=None)
    if not q.p <= stacks <= 64:
        raise ValueError(f"p is {stacks}, expected {q.p} (what q has) to 64")
    w = _source("W", W)
    if w.shape != q.shape:
        raise ValueError(f"W has shape {w.shape}, expected {q.shape}")
    _check_place("W", w, q)
    options = decompose_options(
        w.shape[1],
        weight=_weight_on_host(w, weight),
        damping=damping,
        effort=effort,
        schedule=schedule,
        steps=steps,
        refine=refine,
        seed=seed,
        threads=threads,
    )
    with reporter(progress, "decompose") as options.progress:
        if isinstance(w, DeviceView) and weight is None:
            old = q._planes.on_device(w.device)
            if q._transposed:
                old = _core.DeviceMatrix(q._core, w.device)
            planes = _core.device_extend(old, _cuda.strided(w), stacks, options, _cuda.stream_of(w))
            return Matrix._of(Planes(None, planes, w.library))
        return _beside(w, _core.extend(q._core, _on_host("W", w), stacks, options))


def encode(
    q: Matrix,
    rows: Any,
    *,
    weight: Any = None,
    damping: float = 0.1,
    effort: Effort = "default",
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Matrix:
    """New rows in the terms of a matrix: its Z and scales as they are, and for each row the bits of Y found anew.

    Parameters
    ----------
    q : (m, n), of one block row (``q.grid[0] == 1``): ``decompose`` with ``patch`` of at least m makes such a matrix
    rows : (R, n) array of real numbers, as the W of :func:`decompose`. On a CUDA device it is searched on the host, on
        a copy, and the result is moved there
    weight, damping : as in :func:`decompose`, for the n columns
    effort : how long to search for the bits of a row
    seed : a row of the result depends on that row, q, the arguments, the seed and the instruction set in use: not on
        the rows beside it, not on threads
    threads, progress : as in :func:`decompose`; progress counts rows

    Returns
    -------
    Matrix
        (R, n) with the p, l, column patches and order of the columns of q, without entries.

    Raises
    ------
    ValueError, TypeError
        As :func:`decompose`; rows that do not have n columns, q of several block rows.

    Notes
    -----
    O(p l) a step of a row and column patch, (p l)^2 floats of memory a column patch.

    >>> q = bqq.decompose(W[:1000], p=2, patch=1000)
    >>> more = bqq.encode(q, W[1000:])
    """
    _check_matrix(q)
    w, n = _source("rows", rows), q.shape[1]
    if w.shape[1] != n:
        raise ValueError(f"rows has shape {w.shape}, expected {n} columns as q has")
    _check_place("rows", w, q)
    options = decompose_options(
        n, weight=_weight_on_host(w, weight), damping=damping, effort=effort, seed=seed, threads=threads
    )
    with reporter(progress, "encode") as options.progress:
        return _beside(w, _core.encode(q._core, _on_host("rows", w), options))


@overload
def matmul(
    a: Matrix, b: npt.NDArray[Any], out: None = None, *, precision: Precision = "float32", threads: int | None = None
) -> npt.NDArray[Any]: ...
@overload
def matmul(
    a: npt.NDArray[Any], b: Matrix, out: None = None, *, precision: Precision = "float32", threads: int | None = None
) -> npt.NDArray[Any]: ...
@overload
def matmul(a: Any, b: Any, out: Any = None, *, precision: Precision = "float32", threads: int | None = None) -> Any: ...
def matmul(a: Any, b: Any, out: Any = None, *, precision: Precision = "float32", threads: int | None = None) -> Any:
    """``a @ b`` where one of the two is a :class:`Matrix`, computed from its bit planes.

    ``Matrix @ X``: X of shape (n,), (n, batch) or (..., n, batch). ``X @ Matrix``: X of shape (m,) or (..., m).
    The result has the other operand's array library and the dtype NumPy gives float32 and that operand (float64 in,
    float64 out), or is written to ``out`` in out's dtype (float16, 32, 64).

    ``precision="float32"``: within 2e-5 of the norm of each column of the result. ``"fast"``: up to twice as fast,
    mean squared error at most 5e-4 of the mean square of the result for inputs without extreme outliers, wherever
    their mean is (4e-6 to 3e-4 for Gaussian ones): 8 or 16 bits for sums of inputs. The bit planes are exact in both.

    An array on a CUDA device (CuPy, torch, ``__cuda_array_interface__``, DLPack) is multiplied there, ordered on the
    current stream of its library, without waiting; ``"fast"`` is the float32 class there, float16 and bfloat16
    operands with an ``out`` of one of them are exact to 2e-3 before rounding, and threads is ignored.

    Raises ValueError or TypeError if shapes, dtypes or devices do not fit, out overlaps the operand, or a torch tensor
    requires a gradient or is being traced, which the product would lose; RuntimeError for an array on a device where
    bqq was built without CUDA or finds no device.
    """
    if isinstance(a, Matrix) == isinstance(b, Matrix):
        raise TypeError(f"matmul takes one bqq.Matrix and one array, got {type(a).__name__} and {type(b).__name__}")
    if isinstance(a, Matrix):
        return product(a, b, out, threads, precision)
    return product(b, a, out, threads, precision, left=True)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, str]: ...
def show_config(mode: str = "stdout") -> dict[str, str] | None:
    """Version, compiler, instruction set in use and available, threads, CUDA: what a bug report needs."""
    _check.one_of("mode", mode, ("stdout", "dict"))
    pairs = dict(line.split(": ", 1) for line in _core.config().splitlines())
    pairs["cuda"] = _cuda.describe()
    pairs["numpy"] = np.__version__
    if mode == "dict":
        return pairs
    width = max(map(len, pairs))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in pairs.items()))
    return None


# A matrix where it is, as a search takes it.
_Source = DeviceView | npt.NDArray[np.float32]


def _source(name: str, W: Any) -> _Source:
    return _cuda.matrix_view(name, W) if _arrays.on_device(W) else _arrays.as_float32_matrix(name, W)


def _on_host(name: str, w: _Source) -> npt.NDArray[np.float32]:
    return _cuda.to_host(name, w) if isinstance(w, DeviceView) else w


def _check_matrix(q: object) -> None:
    if not isinstance(q, Matrix):
        raise TypeError(f"q is {type(q).__name__}, expected a bqq.Matrix")


def _check_place(name: str, w: _Source, q: Matrix) -> None:
    if not isinstance(w, DeviceView) and q.device != "cpu":
        raise ValueError(f"{name} is on the host, q on {q.device}: pass an array there, or q.to('cpu')")


def _weight_on_host(w: _Source, weight: Any) -> Any:
    """With a W on a device, a weight may be on one too."""
    there = isinstance(w, DeviceView) and _arrays.on_device(weight)
    return _cuda.to_host("weight", _cuda.matrix_view("weight", weight, (1, 2))) if there else weight


def _beside(w: _Source, found: _core.Matrix) -> Matrix:
    """The result of a search on the host, moved to where W is."""
    if isinstance(w, DeviceView):
        return Matrix._of(Planes(found, None, w.library).moved(w.device))
    return Matrix(found)
