"""One budget of bits for many matrices, spent where it lowers the output error most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bqq import _arrays, _check
from bqq._options import Effort
from bqq._plan import _COUPLED_SIDES, Plan, _budget, _filling, _some_rows, _Steps
from bqq._progress import Progress, reporter

_EFFORT: Effort = "fast"
_SHARES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the budget, tried for each matrix


def plan_many(
    matrices: Mapping[str, Any],
    bits: float = 2.0,
    *,
    weights: Mapping[str, Any] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = None,
) -> dict[str, Plan]:
    """A :class:`Plan` for each of many matrices, all together within ``bits`` bits per element.

    What is made small is the sum over the matrices of their relative output errors ``tr(E H E^T) / tr(W H W^T)``. Each
    matrix is tried at half to twice the budget; bits then go, step by step, to the one whose error falls most by them.

    Parameters
    ----------
    matrices : name -> (m, n) array, as the W of :func:`decompose`
    bits : budget of bits per element over all of them, as in :func:`plan`
    weights : name -> weight as in :func:`decompose`; matrices without one count all errors alike
    seed, threads, progress : as in :func:`decompose`

    Returns
    -------
    dict
        Name -> Plan, with ``mse`` the relative output error of the trial. The bits of all, weighted by the elements,
        are at most ``bits``, and within 1 % of it unless no matrix gains by more.

    Raises
    ------
    ValueError, TypeError
        As :func:`plan`; no matrices; weights of names that are no matrices.

    Notes
    -----
    Trials take ``effort="fast"`` on some rows of each matrix, all its columns, in blocks of 96 to 192.

    >>> plans = bqq.plan_many(weights, 2.0)
    >>> q = {name: bqq.decompose(W, **plans[name]._asdict()) for name, W in weights.items()}
    """
    budget, number = _budget(bits), _check.seed(seed)
    if not isinstance(matrices, Mapping) or not matrices:
        raise ValueError("matrices is empty or no mapping, expected names and arrays")
    if unknown := sorted(set(weights or {}) - set(matrices)):
        raise ValueError(f"weights has {unknown[0]!r}, which is none of the matrices")
    dense = {name: _arrays.as_float32_matrix(f"matrices[{name!r}]", W) for name, W in matrices.items()}
    metrics = {name: _arrays.as_weight((weights or {}).get(name), W.shape[1]) for name, W in dense.items()}
    ladders = {name: _ladder(W.shape, budget) for name, W in dense.items()}
    options = {"effort": _EFFORT, "seed": number, "threads": threads}
    with reporter(progress, "plan") as report:
        steps = _Steps(report, sum(map(len, ladders.values())))
        for name, ladder in ladders.items():
            window = _some_rows(dense[name], metrics[name], ladder, number)
            for choice in ladder:
                choice.mse = window.error(choice, options, steps.next()) / window.power
    sizes = {name: W.size for name, W in dense.items()}
    chosen = _spend(sizes, ladders, budget)
    for name in sorted(sizes, key=lambda name: -sizes[name]):  # what is left, less than a rung of the smallest
        left = budget * sum(sizes.values()) - sum(sizes[key] * plan.bits_per_weight for key, plan in chosen.items())
        if left <= 0.005 * budget * sum(sizes.values()):
            break
        m, n = dense[name].shape
        more = _filling(m, n, chosen[name].bits_per_weight + left / sizes[name], list(_COUPLED_SIDES))
        window = _some_rows(dense[name], metrics[name], more, number)
        for choice in more:
            choice.mse = window.error(choice, options, None) / window.power
        chosen[name] = min([chosen[name], *more], key=lambda choice: choice.mse)
    return chosen


def _ladder(shape: tuple[int, int], budget: float) -> list[Plan]:
    """What is tried for a matrix, by rising bits: at each share of the budget the p nearest to it."""
    rungs: dict[float, Plan] = {}
    for share in _SHARES:
        choices = _filling(*shape, min(share * budget, 64.0), list(_COUPLED_SIDES))
        if choices:
            nearest = min(choices, key=lambda choice: abs(choice.p - share * budget))
            rungs[nearest.bits_per_weight] = nearest
    if not rungs:
        raise ValueError(f"bits is {budget}, too few for one stack with l = 1 of a {shape[0]} x {shape[1]} matrix")
    return [rungs[bits] for bits in sorted(rungs)]


def _spend(sizes: dict[str, int], ladders: dict[str, list[Plan]], budget: float) -> dict[str, Plan]:
    """Greedy on the lower convex hulls of error over bits; what is left goes to rungs that the hulls skip."""
    hulls = {name: _hull(ladder) for name, ladder in ladders.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    left = budget * sum(sizes.values()) - sum(sizes[name] * plan.bits_per_weight for name, plan in chosen.items())
    if left < 0:
        raise ValueError(f"bits is {budget}, expected at least {budget - left / sum(sizes.values()):.4g} here")
    for rungs in (hulls, ladders):
        while True:
            best, gain = None, 0.0
            for name, plan in chosen.items():
                for step in rungs[name]:
                    cost = sizes[name] * (step.bits_per_weight - plan.bits_per_weight)
                    if 0 < cost <= left and (plan.mse - step.mse) / cost > gain:
                        best, gain = (name, step, cost), (plan.mse - step.mse) / cost
            if best is None:
                break
            chosen[best[0]] = best[1]
            left -= best[2]
    return chosen


def _hull(ladder: list[Plan]) -> list[Plan]:
    """Those that no two others beat between them."""
    hull = ladder[:1]
    for plan in ladder[1:]:
        if plan.mse >= hull[-1].mse:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], plan):
            hull.pop()
        hull.append(plan)
    return hull


def _slope(a: Plan, b: Plan) -> float:
    return (a.mse - b.mse) / (b.bits_per_weight - a.bits_per_weight)
