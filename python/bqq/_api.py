"""The functions of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _core, _cuda
from bqq._matrix import Matrix, _index, _threads, product, product_left

Progress = bool | Callable[[int, int], object] | None
Schedule = Literal["adaptive", "paper"]
Effort = Literal["fast", "default", "best"]
_EFFORTS = {"default": (0, 20_000), "fast": (1, 1_500), "best": (2, 64_000)}  # bqq::Effort, its refinement sweeps


def decompose(
    W: Any,
    p: int,
    l: int | None = None,
    *,
    patch: int | None = None,
    weight: Any = None,
    damping: float = 0.01,
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
    patch : largest side of a block; default: one block up to 512 x 512, else blocks of at most 256 x 256;
        128 x 128 with an (n, n) weight
    weight : (n, n) second moment ``X.T @ X`` of the inputs X (samples, n) that ``W @ x`` will see, or the (n,) diagonal
        of one. The error minimised is then the output error ``tr(E H E^T)``, E = W - What: bits are refined and scales
        solved in that metric, and the error of a column patch is moved into those still to come (as GPTQ does).
        Symmetric positive semidefinite. With a W on a device it may be on a device too; the search is then the host's,
        on copies, and its result is moved to the device of W
    damping : this share of the mean of weight's diagonal is added to the diagonal, against overfitting and singular H
    effort : how long to search; descent steps and refinement sweeps per stack: ``"fast"`` 1,000 and 1,500,
        ``"default"`` 2,000 and 20,000, ``"best"`` 2,000 and 64,000 from the best of four descents; for l above 64
        proportionally fewer sweeps, down to a quarter. Where that refinement gains less than 6 %, a second descent of
        10,000 (best: 20,000) steps follows, refined gently; with more than 1.2 times the default l, less than 30 % and
        three times the steps (error against time: README)
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
    stacks = _index("p", p)
    inner = _positive("l", l)
    side = _positive("patch", patch)
    view = _cuda.matrix_view("W", W) if _arrays.on_device(W) else None
    if view is not None and weight is None:
        solver = _solver_arguments(view.shape[1], effort, schedule, steps, refine, weight, damping, seed, threads)
        with _reporter(progress) as report:
            planes = _core.device_decompose(
                _cuda.strided(view), stacks, inner, side, *solver, report, view.device, _cuda.stream_of(view)
            )
        return Matrix._on_device(planes, library=view.library)
    if view is None:
        w = _arrays.as_float32_matrix("W", W)
    else:  # the kernels there have no metric
        w, weight = _cuda.to_host("W", W), _weight_on_host(weight)
    solver = _solver_arguments(w.shape[1], effort, schedule, steps, refine, weight, damping, seed, threads)
    with _reporter(progress) as report:
        q = Matrix(_core.decompose(w, stacks, inner, side, *solver, report))
    return q if view is None else Matrix._on_device(*q._copy_on(view.device), library=view.library)


def extend(
    q: Matrix,
    W: Any,
    p: int,
    *,
    weight: Any = None,
    damping: float = 0.01,
    effort: Effort = "default",
    schedule: Schedule = "adaptive",
    steps: int | None = None,
    refine: bool | int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Matrix:
    """Add stacks to q until it has p. The bits of the old stacks stay as they are; all scales are solved again.

    ``extend(decompose(W, 1), W, 2)`` equals ``decompose(W, 2)`` bit for bit if the other arguments are equal, unless a
    weight of shape (n, n) couples several column patches.
    Parameters and errors as in :func:`decompose`.
    """
    if not isinstance(q, Matrix):
        raise TypeError(f"q is {type(q).__name__}, expected a bqq.Matrix")
    stacks = _index("p", p, limit=None)
    if not q.p <= stacks <= 64:
        raise ValueError(f"p is {stacks}, expected {q.p} (what q has) to 64")
    view = _cuda.matrix_view("W", W) if _arrays.on_device(W) else None
    if view is not None and view.shape != q.shape:
        raise ValueError(f"W has shape {view.shape}, expected {q.shape}")
    if view is None and q.device != "cpu":
        raise ValueError(f"W is on the host, q on {q.device}: pass an array there, or q.to('cpu')")
    if view is not None and weight is None:
        solver = _solver_arguments(view.shape[1], effort, schedule, steps, refine, weight, damping, seed, threads)
        planes, transposed = q._copy_on(view.device)
        if transposed:
            planes = _core.DeviceMatrix(q._core, view.device)
        with _reporter(progress) as report:
            planes = _core.device_extend(planes, _cuda.strided(view), stacks, *solver, report, _cuda.stream_of(view))
        return Matrix._on_device(planes, library=view.library)
    if view is None:
        w = q._same_shape(W)
    else:
        w, weight = _cuda.to_host("W", W), _weight_on_host(weight)
    solver = _solver_arguments(w.shape[1], effort, schedule, steps, refine, weight, damping, seed, threads)
    with _reporter(progress) as report:
        longer = Matrix(_core.extend(q._core, w, stacks, *solver, report))
    return longer if view is None else Matrix._on_device(*longer._copy_on(view.device), library=view.library)


def matmul(
    a: Any,
    b: Any,
    out: Any = None,
    *,
    precision: Literal["float32", "int8"] = "float32",
    threads: int | None = None,
) -> Any:
    """``a @ b`` where one of the two is a :class:`Matrix`, computed from its bit planes.

    ``Matrix @ X``: X of shape (n,), (n, batch) or (..., n, batch). ``X @ Matrix``: X of shape (m,) or (..., m).
    The result has the other operand's array library and the dtype NumPy gives float32 and that operand (float64 in,
    float64 out), or is written to ``out`` in out's dtype (float16, 32, 64).

    ``precision="float32"``: within 2e-5 of the norm of each column of the result. ``"int8"``: inputs are summed in
    8 bits with a scale per 256 of them; up to twice as fast, mean squared error at most 5e-4 of the mean square of
    the result for inputs without extreme outliers (1e-4 to 2.5e-4 for Gaussian ones). The bit planes are exact in both.

    An array on a CUDA device (CuPy, torch, ``__cuda_array_interface__``, DLPack) is multiplied there, ordered on the
    current stream of its library, without waiting; ``"int8"`` is the float32 class there, float16 and bfloat16
    operands with an ``out`` of one of them are exact to 2e-3 before rounding, and threads is ignored.

    Raises ValueError or TypeError if shapes, dtypes or devices do not fit, or out overlaps the operand; RuntimeError
    for an array on a device where bqq was built without CUDA or finds no device.
    """
    if isinstance(a, Matrix) == isinstance(b, Matrix):
        raise TypeError(f"matmul takes one bqq.Matrix and one array, got {type(a).__name__} and {type(b).__name__}")
    if isinstance(a, Matrix):
        return product(a, b, out, threads, precision)
    return product_left(a, b, out, threads, precision)


class Cost(TypedDict):
    """What one product has to do; see :func:`cost`."""

    plane_bytes: int
    scale_bytes: int
    input_bytes: int
    output_bytes: int
    bytes: int
    bit_operations: int


def cost(q: Matrix, batch: int = 1) -> Cost:
    """Memory traffic and arithmetic of ``q @ X`` for X of ``batch`` float32 columns, counted, not measured.

    ``bytes``: planes, scales, inputs and outputs once each. ``bit_operations``: conditional additions, one for each bit
    of a plane and column: ``p l (m K + n J) batch`` for K x J blocks, about ``p m n batch`` at the default l. A dense
    float32 product of the same shape moves ``4 (m n + (m + n) batch)`` bytes and does ``m n batch`` multiply-adds.
    O(1). Raises ValueError or TypeError if batch is not an integer of 0 or more.
    """
    if not isinstance(q, Matrix):
        raise TypeError(f"q is {type(q).__name__}, expected a bqq.Matrix")
    columns = _index("batch", batch)
    if columns < 0:
        raise ValueError(f"batch is {columns}, expected 0 or more")
    (m, n), (J, K) = q.shape, q.grid
    scales = q.scales.nbytes
    planes, inputs, outputs = q.nbytes - scales, 4 * n * columns, 4 * m * columns
    return {
        "plane_bytes": planes,
        "scale_bytes": scales,
        "input_bytes": inputs,
        "output_bytes": outputs,
        "bytes": planes + scales + inputs + outputs,
        "bit_operations": q.p * q.l * (m * K + n * J) * columns,
    }


def show_config(mode: Literal["stdout", "dict"] = "stdout") -> dict[str, str] | None:
    """Version, compiler, instruction set in use and available, threads, CUDA: what a bug report needs."""
    pairs = dict(line.split(": ", 1) for line in _core.config().splitlines())
    pairs["cuda"] = _cuda.describe()
    pairs["numpy"] = np.__version__
    if mode == "dict":
        return pairs
    if mode != "stdout":
        raise ValueError(f"mode is {mode!r}, expected 'stdout' or 'dict'")
    width = max(map(len, pairs))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in pairs.items()))
    return None


def _positive(name: str, value: int | None) -> int:
    if value is None:
        return 0
    number = _index(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}, expected 1 or more")
    return number


def _weight_on_host(weight: Any) -> Any:
    return _cuda.to_host("weight", weight, (1, 2)) if _arrays.on_device(weight) else weight


def _solver_arguments(
    n: int,
    effort: str,
    schedule: str,
    steps: int | None,
    refine: bool | int | None,
    weight: Any,
    damping: float,
    seed: int,
    threads: int | None,
) -> tuple[str, int, int, int, npt.NDArray[np.float32], float, int, int]:
    if effort not in _EFFORTS:
        raise ValueError(f"effort is {effort!r}, expected one of {', '.join(map(repr, _EFFORTS))}")
    if schedule not in ("adaptive", "paper"):
        raise ValueError(f"schedule is {schedule!r}, expected 'adaptive' or 'paper'")
    return (
        schedule,
        _EFFORTS[effort][0],
        _positive("steps", steps),
        _sweeps(refine, effort, schedule),
        _arrays.as_weight(weight, n),
        _damping(damping),
        _seed(seed),
        _threads(threads),
    )


def _damping(damping: float) -> float:
    if isinstance(damping, bool) or not isinstance(damping, (int, float, np.floating)):
        raise TypeError(f"damping is {damping!r}, expected a number")
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping is {damping}, expected 0 or more")
    return float(damping) or -1.0  # the core takes 0 for its default


def _seed(seed: int) -> int:
    number = _index("seed", seed, 2**64)
    if not 0 <= number < 2**64:
        raise ValueError(f"seed is {number}, expected 0 to 2**64 - 1")
    return number


def _sweeps(refine: bool | int | None, effort: str, schedule: str) -> int:
    """refine as the core takes it: 0 for the effort's own, -1 for none."""
    if refine is None:
        return 0
    if isinstance(refine, bool):
        return (_EFFORTS[effort][1] if schedule == "paper" else 0) if refine else -1
    return _positive("refine", refine)


class _reporter:
    """Turns the progress argument into a callable or None, and closes the bar however the work ends."""

    def __init__(self, progress: Progress, title: str = "decompose") -> None:
        if progress is not None and not isinstance(progress, bool) and not callable(progress):
            raise TypeError(f"progress is {progress!r}, expected True, False, None or a callable")
        self._progress = progress
        self._title = title
        self._bar: Any = None

    def __enter__(self) -> Callable[[int, int], object] | None:
        if self._progress is not True:
            return self._progress or None
        from tqdm.auto import tqdm  # only where a bar is asked for

        self._bar = tqdm(total=None, unit="step", unit_scale=True, desc=self._title)

        def report(done: int, total: int) -> None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

        return report

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
