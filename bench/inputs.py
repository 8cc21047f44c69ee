"""Inputs of the benchmarks that any version of bqq can be given, through its public functions alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import bqq


@cache
def fast_class() -> Any:
    """The name of the precision class below float32: "fast", of older versions "int8"."""
    q = random_matrix(np.random.default_rng(0), 8, 8, 1, 1, 1, 4)
    names: tuple[Any, ...] = ("fast", "int8")
    for name in names:
        try:
            bqq.matmul(q, np.ones(8, np.float32), precision=name)
            return name
        except ValueError:
            continue
    raise AssertionError("no precision class but float32")


def random_matrix(rng: np.random.Generator, m: int, n: int, p: int, J: int, K: int, l: int) -> bqq.Matrix:
    """Random bits and scales in J x K equal blocks, zero where padded: speed does not depend on them."""
    rows, cols = -(-m // J), -(-n // K)
    Y = rng.integers(0, 2, (J, K, p, rows, l), dtype=np.uint8)
    Z = rng.integers(0, 2, (J, K, p, l, cols), dtype=np.uint8)
    Y[-1, :, :, m - (J - 1) * rows :] = 0
    Z[:, -1, ..., n - (K - 1) * cols :] = 0
    return bqq.Matrix.from_factors(Y, Z, rng.normal(0, 0.1, (J, K, 3 * p + 1)).astype(np.float32), (m, n))
