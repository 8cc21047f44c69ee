"""Checks of plain arguments: errors name the argument, its value and what was expected."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import numpy as np


def index(name: str, value: Any, limit: int | None = 2**63) -> int:
    """An integer, below `limit` in size."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if limit is not None and not -limit <= number < limit:
        raise ValueError(f"{name} is {number}, out of range")
    return number


def positive(name: str, value: int | None) -> int:
    """1 or more; 0 for None, which is how the core is asked for its default."""
    if value is None:
        return 0
    number = index(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}, expected 1 or more")
    return number


def threads(value: int | None) -> int:
    """As `positive`; more than 1024 are 1024."""
    return min(positive("threads", value), 1024)


def seed(value: int) -> int:
    """0 to 2**64 - 1."""
    number = index("seed", value, 2**64)
    if not 0 <= number < 2**64:
        raise ValueError(f"seed is {number}, expected 0 to 2**64 - 1")
    return number


def damping(value: float) -> float:
    """A finite number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)):
        raise TypeError(f"damping is {value!r}, expected a number")
    if not 0 <= value < float("inf"):
        raise ValueError(f"damping is {value}, expected 0 or more")
    return float(value)


def outliers(value: float | None) -> float:
    """A number of standard deviations; 0 for None, which is none."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"outliers is {value!r}, expected a number or None")
    if not 0 < value < float("inf"):
        raise ValueError(f"outliers is {value}, expected more than 0 standard deviations, or None")
    return float(value)


def shape(value: Any) -> tuple[int, int]:
    """Two integers."""
    try:
        m, n = value
    except (TypeError, ValueError):
        raise ValueError(f"shape is {value!r}, expected two integers (m, n)") from None
    return index("shape[0]", m), index("shape[1]", n)


def one_of(name: str, value: Any, names: Collection[str]) -> str:
    """One of these strings."""
    if not isinstance(value, str) or value not in names:
        *most, last = map(repr, names)
        raise ValueError(f"{name} is {value!r}, expected {', '.join(most)}{' or ' if most else ''}{last}")
    return value
