"""Matrices for the tests of engines."""

from __future__ import annotations

import numpy as np

import bqq


def compressed(*shape, seed=0):
    W = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return W, bqq.decompose(W, p=2, steps=50, refine=1)


def calibrated(*shape):
    """As bqq.nn.compress makes them: columns in an order of their own, outliers apart."""
    rng = np.random.default_rng(3)
    W = rng.standard_normal(shape).astype(np.float32)
    W[shape[0] // 2, [1, shape[1] - 1]] = 50, -60
    X = rng.standard_normal((shape[1], 4 * shape[1])) * np.linspace(0.2, 3, shape[1])[:, None]
    q = bqq.decompose(W, p=2, steps=50, refine=1, weight=X @ X.T, order="weight", outliers=8.0)
    assert q.col_order is not None
    assert len(q.entries[2]) == 2
    return W, q
