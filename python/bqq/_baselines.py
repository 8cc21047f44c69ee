"""What BQQ is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


def uniform_quantisation(W: npt.NDArray[Any], bits: int, grid: int = 100) -> _Floats:
    """W on 2**bits equally spaced levels, between the best of grid x grid pairs of clip limits.

    The upper limits run from the mean to the maximum, the lower ones from the minimum to the mean.
    """
    w = np.asarray(W, np.float64)
    low, high = _best_limits(w, bits, grid)
    step = (high - low) / (2**bits - 1)
    if step == 0:
        return np.full_like(w, low)
    levels = np.clip(np.rint((w - low) / step), 0, 2**bits - 1)
    return np.asarray(low + step * levels)


def uniform_bytes(size: int, bits: int) -> int:
    """Bytes of a matrix of ``size`` elements: bits of all elements and two float32 limits."""
    return -(-size * bits // 8) + 8


def _best_limits(w: _Floats, bits: int, grid: int) -> tuple[float, float]:
    """The pair of clip limits with the least squared error.

    On sorted values every level owns a run, so prefix sums give a pair's error exactly without
    quantising the matrix.
    """
    mean = float(w.mean())
    values = np.sort(w, axis=None) - mean
    sums = np.concatenate([[0.0], np.cumsum(values)])
    highs = np.linspace(0.0, values[-1], grid)[:, None]
    index = np.arange(2**bits)
    best = (np.inf, 0.0, 0.0)
    for low in np.linspace(values[0], 0.0, grid):
        levels = low + (highs - low) * (index / index[-1])
        cuts = np.searchsorted(values, (levels[:, 1:] + levels[:, :-1]) / 2)
        edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=((0, 0), (0, values.size)))
        counts, totals = np.diff(edges), np.diff(sums[edges])
        errors = (levels * (counts * levels - 2 * totals)).sum(axis=1)
        k = int(errors.argmin())
        best = min(best, (float(errors[k]), float(low), float(highs[k, 0])))
    return best[1] + mean, best[2] + mean
