"""Which stacks, inner dimension and blocks to spend a budget of bits on."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _check, _core
from bqq._api import decompose
from bqq._options import Effort
from bqq._progress import Progress, Report, reporter

_Floats = npt.NDArray[np.float32]
_L_SCALES = (2.0, 1.5, 1.0, 0.75, 0.5, 0.25)  # of the l that makes one stack cost one bit per element
_WHOLE = 512  # up to this side the whole matrix is a candidate block
_SIDES = (256, 128)
_COUPLED_SIDES = range(96, 193, 4)  # with an (n, n) weight: bqq::decompose takes one of 96 to 192 there too
_SAMPLE = 2**16  # elements of the trials, at least one block
_EFFORT: Effort = "fast"  # of the trials
_MOST_BITS, _MOST_STACKS, _MOST_L = 64, 64, 65535


class _Choice(NamedTuple):
    p: int
    l: int
    patch: int


class Plan(_Choice):
    """(p, l, patch) for :func:`decompose`, and what to expect of them.

    A named tuple of three: ``bqq.decompose(W, **plan._asdict())``, ``p, l, patch = plan``.

    Attributes
    ----------
    bits_per_weight : what the matrix will take, to the byte: equals :attr:`Matrix.bits_per_weight` of the result
    mse : mean squared error of an element in the trial runs; ``effort="default"`` usually ends below it
    """

    bits_per_weight: float = math.nan
    mse: float = math.nan

    def __repr__(self) -> str:
        return (
            f"Plan(p={self.p}, l={self.l}, patch={self.patch}, "
            f"bits_per_weight={self.bits_per_weight:.4g}, mse={self.mse:.4g})"
        )


def plan(
    W: Any,
    bits: float = 2.0,
    *,
    weight: Any = None,
    patch: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> Plan:
    """The p, l and patch that store W with the least error in at most ``bits`` bits per element, by trial runs.

    A stack costs l (rows + cols) bits in a block, so a budget buys few stacks of large l or many of small l. With
    the l-scale ``l (rows + cols) / (rows cols)`` the paper finds (its Table S.4): on noise and network weights p
    stacks of l-scale 1 are best or nearly so; on smooth matrices (photos, distances) at about 1 bit, and on photos at
    any rate, twice the stacks of l-scale 1/2 have up to a third less error. Fractional budgets are as good as whole
    ones: 1.5 bits may become one stack of l-scale 3/2 or two of 3/4.

    Parameters
    ----------
    W : (m, n) array of real numbers, as in :func:`decompose`
    bits : budget of bits per element, up to 64, for planes, padding and float32 scales together; what an order of the
        columns and entries take comes on top
    weight : as in :func:`decompose`, in whose metric the least error is looked for. With one of shape (n, n) blocks
        have sides from 96 to 192, as many of them tried as fill the budget best
    patch : largest side of a block; default: the trials choose from 128, 256 beyond 512 x 512 or up to
        256 x 256, and the whole matrix up to 512 x 512
    seed, threads, progress : as in :func:`decompose`; the plan depends on W, bits, patch, seed and the instruction set

    Returns
    -------
    Plan
        A named tuple (p, l, patch) with attributes ``bits_per_weight``, never above ``bits``, and ``mse``; with a
        weight, ``mse`` is ``tr(E H E^T) / (m tr H)``, E = W - W_hat.

    Raises
    ------
    ValueError, TypeError
        W that is not 2-D, empty, not real or not finite; bits out of range, or too few for one stack with l = 1.

    Notes
    -----
    Trials take 1,000 steps and 500 refinement sweeps on the same randomly placed windows of W, 2**16 elements together
    or one block if that is more: l-scales 2, 3/2, 1, 3/4, 1/2, 1/4 with the smallest blocks, the best three with larger
    ones (two beyond 256). Beyond 512 x 512 the time does not depend on m and n; below it is a fraction of
    ``decompose``'s own with one block. Of plans within 1 % of the least error the one with the fewest stacks is taken,
    then the one with the smallest blocks: both are cheaper to find and to multiply with.
    """
    w = _arrays.as_float32_matrix("W", W)
    budget = _budget(bits)
    side, number = _check.positive("patch", patch), _check.seed(seed)
    m, n = w.shape
    metric = _arrays.as_weight(weight, n)
    if metric.ndim == 2 and metric.size:
        return _plan_coupled(w, metric, budget, [side] if side else list(_COUPLED_SIDES), (number, threads, progress))
    sides = [side] if side else _sides(m, n)
    choices = _choices(m, n, budget, sides)
    if not choices and not side:
        sides = [_WHOLE]  # the smallest stack of a larger block costs less per element
        choices = _choices(m, n, budget, sides)
    if not choices:
        _too_few(bits, m, n, sides)
    windows = _windows(w, metric, max(sides), number)
    with reporter(progress, "plan") as report:
        tried = _race(windows, choices, {"effort": _EFFORT, "seed": number, "threads": threads}, report)
    limit = 1.01 * min(choice.mse for choice in tried)
    return min((choice for choice in tried if choice.mse <= limit), key=lambda choice: (choice.p, choice.patch))


def _race(
    windows: list[_Window],
    choices: dict[int, dict[int, Plan]],
    options: dict[str, Any],
    report: Report | None,
) -> list[Plan]:
    """Trials of all numbers of stacks with the smallest blocks, of the best few with larger ones too."""
    smallest = min(choices)
    runs = len(choices[smallest]) + sum(
        min(_finalists(side), len(choices[side])) for side in choices if side != smallest
    )
    steps = _Steps(report, runs * len(windows))
    order, tried = list(choices[smallest]), []
    for side in sorted(choices):
        entered = [choices[side][p] for p in order if p in choices[side]]
        if side != smallest:
            entered = entered[: _finalists(side)]
        for choice in entered:
            errors = [window.error(choice, options, steps.next()) for window in windows]
            choice.mse = sum(errors) / sum(window.norm for window in windows)
        tried += entered
        order = [choice.p for choice in sorted(tried, key=operator.attrgetter("mse"))]
        order = list(dict.fromkeys(order))
    return tried


class _Steps:
    """Progress of a fixed number of trials as one count."""

    _UNITS = 1000  # of a trial

    def __init__(self, report: Report | None, trials: int) -> None:
        self._report, self._total, self._begun = report, trials * self._UNITS, -1

    def next(self) -> Report | None:
        self._begun += 1
        report, total, start = self._report, self._total, self._begun * self._UNITS
        if report is None:
            return None
        return lambda done, steps: report(start + self._UNITS * done // steps, total)


def _budget(bits: Any) -> float:
    try:
        value = float(bits)
    except (TypeError, ValueError):
        raise TypeError(f"bits is {bits!r}, expected a number") from None
    if not 0 < value <= _MOST_BITS:
        raise ValueError(f"bits is {bits}, expected more than 0, at most {_MOST_BITS}")
    return value


def _sides(m: int, n: int) -> list[int]:
    """Largest sides of blocks to try, each of which gives other blocks."""
    longest = max(m, n)
    if longest > _WHOLE:
        return list(_SIDES)
    if longest > _SIDES[0]:
        return [longest, _SIDES[-1]]
    return [longest] + [side for side in _SIDES if side < longest]


def _finalists(side: int) -> int:
    """How many numbers of stacks are tried with blocks of this size if smaller ones have been tried."""
    return 3 if side <= _SIDES[0] else 2


def _choices(m: int, n: int, bits: float, sides: list[int]) -> dict[int, dict[int, Plan]]:
    """For each side that allows one: for each number of stacks the largest l within the budget."""
    stacks = dict.fromkeys(min(max(1, round(bits / scale)), _MOST_STACKS) for scale in _L_SCALES)
    found: dict[int, dict[int, Plan]] = {}
    for side in sides:
        plans = {p: choice for p in stacks if (choice := _fill(m, n, bits, p, side)) is not None}
        if not plans:  # narrow blocks: scales and padding take most of it
            fewer = (_fill(m, n, bits, p, side) for p in range(min(stacks) - 1, 0, -1))
            plans = {choice.p: choice for choice in fewer if choice is not None}
        if plans:
            found[side] = plans
    return found


def _fill(m: int, n: int, bits: float, p: int, side: int) -> Plan | None:
    """p stacks of the largest l within the budget; None if l = 1 is too much."""

    def cost(l: int) -> float:
        return _core.layout(m, n, p, l, side)["bits_per_weight"]

    low, high = 0, _MOST_L + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= bits else (low, middle)
    if low == 0:
        return None
    choice = Plan(p, low, side)
    choice.bits_per_weight = cost(low)
    return choice


class _Window(NamedTuple):
    """A part of W on its own, and the weight of its columns: (n, n), (n,), or none, without elements."""

    W: _Floats
    weight: _Floats

    @property
    def norm(self) -> float:
        """What errors are relative to: elements, weighted."""
        H = self.weight
        return float(len(self.W) * (H.trace() if H.ndim == 2 else H.sum() if H.size else self.W.shape[1]))

    @property
    def power(self) -> float:
        """tr(W H W^T)."""
        return self._in_metric(self.W.astype(np.float64)) or 1.0

    def _in_metric(self, E: npt.NDArray[np.float64]) -> float:
        H = self.weight
        return float(((E @ H if H.ndim == 2 else E * H if H.size else E) * E).sum())

    def error(self, choice: Plan, options: dict[str, Any], progress: Report | None) -> float:
        """tr(E H E^T) of a trial."""
        H = self.weight
        q = decompose(self.W, **choice._asdict(), weight=H if H.size else None, **options, progress=progress)
        if not H.size:
            return q.mse(self.W) * self.W.size
        return self._in_metric((self.W - q.reconstruct(threads=options["threads"])).astype(np.float64))


def _windows(w: _Floats, weight: _Floats, side: int, seed: int) -> list[_Window]:
    """Blocks of the layout with the largest blocks, drawn at random: as many as make up the sample, at least one."""
    m, n = w.shape
    layout = _core.layout(m, n, 1, 1, side)
    rows, cols, J, K = layout["rows"], layout["cols"], layout["J"], layout["K"]
    count = min(J * K, max(1, _SAMPLE // (rows * cols)))
    drawn = np.sort(np.random.default_rng(seed).choice(J * K, count, replace=False))
    return [
        _Window(w[j * rows : (j + 1) * rows, k * cols : (k + 1) * cols], weight[k * cols : (k + 1) * cols])
        for j, k in (divmod(int(b), K) for b in drawn)
    ]


def _plan_coupled(w: _Floats, H: _Floats, bits: float, sides: list[int], how: tuple[int, int | None, Progress]) -> Plan:
    """With a weight that couples the columns: a trial has some rows and all columns."""
    seed, threads, progress = how
    m, n = w.shape
    choices = _filling(m, n, bits, sides)
    if not choices:
        _too_few(bits, m, n, sides)
    window = _some_rows(w, H, choices, seed)
    with reporter(progress, "plan") as report:
        steps = _Steps(report, len(choices))
        options = {"effort": _EFFORT, "seed": seed, "threads": threads}
        for choice in choices:
            choice.mse = window.error(choice, options, steps.next()) / window.norm
    limit = 1.01 * min(choice.mse for choice in choices)
    return min((choice for choice in choices if choice.mse <= limit), key=lambda choice: (choice.p, choice.patch))


def _some_rows(w: _Floats, H: _Floats, choices: list[Plan], seed: int) -> _Window:
    """Enough rows for a trial of any of the choices, drawn at random."""
    m, n = w.shape
    count = min(m, max(_SAMPLE // n, *(choice.patch for choice in choices)))
    return _Window(w[np.sort(np.random.default_rng(seed).choice(m, count, replace=False))], H)


def _filling(m: int, n: int, bits: float, sides: list[int]) -> list[Plan]:
    """Of each number of stacks about `bits`, the largest l and the block side with which it comes closest to the
    budget; near misses, within 1 %, count as hits, and the side nearest to 128 is taken."""
    found = []
    for p in sorted({max(1, min(_MOST_STACKS, round(bits * scale))) for scale in (0.75, 1.0, 1.25, 1.5)}):
        plans = [plan for side in sides if (plan := _fill(m, n, bits, p, side)) is not None]
        if plans:
            full = [plan for plan in plans if plan.bits_per_weight >= 0.99 * bits]
            found.append(
                min(full, key=lambda plan: abs(plan.patch - 128))
                if full
                else max(plans, key=lambda plan: plan.bits_per_weight)
            )
    full = [plan for plan in found if plan.bits_per_weight >= 0.99 * bits]
    return full or found


def _too_few(bits: float, m: int, n: int, sides: list[int]) -> NoReturn:
    least = math.ceil(1e4 * min(_core.layout(m, n, 1, 1, s)["bits_per_weight"] for s in sides)) / 1e4
    raise ValueError(f"bits is {bits}, expected at least {least}: what one stack with l = 1 takes here")
