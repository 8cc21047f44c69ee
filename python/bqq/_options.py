"""The options of the core, from what Python callers write: strings become enums, None its defaults.

Ranges are the core's to check, unless a number has another meaning there than in Python.
"""

from __future__ import annotations

from typing import Any, Literal

from bqq import _arrays, _check, _core

Schedule = Literal["adaptive", "paper"]
Effort = Literal["fast", "default", "best"]
Precision = Literal["float32", "fast"]
Order = Literal["weight"]

_SCHEDULES = {"adaptive": _core.Schedule.adaptive, "paper": _core.Schedule.paper}
# "default" is a keyword of C++
_EFFORTS = {"fast": _core.Effort.fast, "default": _core.Effort.standard, "best": _core.Effort.best}
_ORDERS = {"weight": _core.Order.weight}
_PRECISIONS = {"float32": _core.Precision.float32, "fast": _core.Precision.fast}
_MATMUL_OPTIONS: dict[tuple[int | None, str], _core.MatmulOptions] = {}
_REFINE = {None: 0, True: _core.REFINE_OF_EFFORT, False: -1}


def decompose_options(
    columns: int,
    *,
    weight: Any,
    damping: float,
    effort: str,
    seed: int,
    threads: int | None,
    l: int | None = None,
    patch: int | None = None,
    schedule: str = "adaptive",
    steps: int | None = None,
    refine: bool | int | None = None,
    order: str | None = None,
    outliers: float | None = None,
) -> _core.DecomposeOptions:
    """Options of a search for a matrix of so many columns; without progress."""
    options = _core.DecomposeOptions()
    options.l = _check.positive("l", l)
    options.patch = _check.positive("patch", patch)
    options.effort = _EFFORTS[_check.one_of("effort", effort, _EFFORTS)]
    options.schedule = _SCHEDULES[_check.one_of("schedule", schedule, _SCHEDULES)]
    options.steps = _check.positive("steps", steps)
    if refine is None or isinstance(refine, bool):
        options.refine = _REFINE[refine]
    else:
        options.refine = _check.positive("refine", refine)
    options.weight = _arrays.as_weight(weight, columns)
    options.damping = _check.damping(damping) or -1  # none there
    if order is not None:
        options.order = _ORDERS[_check.one_of("order", order, _ORDERS)]
        if weight is None:
            raise ValueError(f"order is {order!r}, expected None: there is no weight")
    options.outliers = _check.outliers(outliers)
    options.seed = _check.seed(seed)
    options.threads = _check.threads(threads)
    return options


def code_options(effort: str, *, seed: int = 0, threads: int | None = None) -> _core.DecomposeOptions:
    """Options of vector codes; without progress."""
    options = _core.DecomposeOptions()
    options.effort = _EFFORTS[_check.one_of("effort", effort, _EFFORTS)]
    options.seed = _check.seed(seed)
    options.threads = _check.threads(threads)
    return options


def matmul_options(threads: int | None, precision: str) -> _core.MatmulOptions:
    """Options of a product: the same object for the same values. A product may take a few microseconds."""
    known = type(precision) is str and (threads is None or type(threads) is int)
    options = _MATMUL_OPTIONS.get((threads, precision)) if known else None
    if options is None:
        options = _core.MatmulOptions()
        options.threads = _check.threads(threads)
        options.precision = _PRECISIONS[_check.one_of("precision", precision, _PRECISIONS)]
        if known:
            _MATMUL_OPTIONS[threads, precision] = options
    return options
