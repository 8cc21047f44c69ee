"""decompose(weight=...): the error that counts is that of the outputs."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bqq
from bqq._options import decompose_options


def second_moment(n: int, seed: int = 0) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((4 * n, n)) @ rng.standard_normal((n, n)) / np.sqrt(n)
    X[:, ::7] *= 4
    return X.T @ X


@pytest.mark.parametrize("patch", [None, 16])
def test_weight_lowers_the_output_error(patch: int | None) -> None:
    W = np.random.default_rng(1).standard_normal((32, 48))
    H = second_moment(48)

    def output_error(weight: Any) -> float:
        E = bqq.decompose(W, 2, patch=patch, weight=weight, effort="fast").reconstruct() - W
        return float(np.trace(E @ H @ E.T))

    plain = output_error(None)
    assert output_error(H) < 0.6 * plain
    assert output_error(np.diag(H)) < 0.9 * plain
    assert output_error(H.astype(np.float32).tolist()) == output_error(H)


def test_weight_and_threads() -> None:
    W = np.random.default_rng(1).standard_normal((40, 40))
    H = second_moment(40)
    one, two = (bqq.decompose(W, 2, patch=16, weight=H, effort="fast", threads=t) for t in (1, 2))
    assert np.array_equal(one.reconstruct(), two.reconstruct())


def test_extend_takes_a_weight() -> None:
    W = np.random.default_rng(1).standard_normal((20, 24))
    H = second_moment(24)
    one = bqq.decompose(W, 1, weight=H, effort="fast")
    assert np.array_equal(
        bqq.extend(one, W, 2, weight=H, effort="fast").Y, bqq.decompose(W, 2, weight=H, effort="fast").Y
    )
    assert not np.array_equal(
        bqq.extend(one, W, 2, effort="fast").Y[:, :, 1], bqq.extend(one, W, 2, weight=H, effort="fast").Y[:, :, 1]
    )


@pytest.mark.parametrize(
    ("weight", "error", "text"),
    [
        (np.eye(3), ValueError, r"weight has shape \(3, 3\), expected \(4, 4\) or \(4,\)"),
        (np.ones(5), ValueError, r"weight has shape \(5,\)"),
        (np.ones((4, 4, 4)), ValueError, "weight has 3 dimensions"),
        (np.diag([1, 1, np.nan, 1]), ValueError, r"weight\[2, 2\] is nan"),
        (np.array([1, np.inf, 1, 1]), ValueError, r"weight\[1\] is inf"),
        (-np.eye(4), ValueError, "not positive semidefinite"),
        (np.eye(4) + np.eye(4, k=1) * 5 + np.eye(4, k=-1) * 5, ValueError, "not positive definite after damping"),
        (np.eye(4) + np.eye(4, k=1), ValueError, r"not symmetric: \[0, 1\]"),
        (np.zeros(4), ValueError, "weight is zero"),
        ("H", TypeError, "weight"),
        (np.eye(4) * 1j, TypeError, "weight"),
    ],
)
def test_bad_weight(weight: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bqq.decompose(np.eye(4), 1, weight=weight)


@pytest.mark.parametrize(
    ("damping", "error"), [(-1, ValueError), (np.nan, ValueError), ("x", TypeError), (True, TypeError)]
)
def test_bad_damping(damping: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="damping is"):
        bqq.decompose(np.eye(4), 1, weight=np.eye(4), damping=damping)


def test_damping_of_zero_is_none() -> None:
    W = np.random.default_rng(1).standard_normal((20, 24))
    H = second_moment(24)
    scales = [bqq.decompose(W, 1, weight=H, damping=d, effort="fast").scales.tobytes() for d in (0, 1e-12, 0.01)]
    assert scales[2] not in scales[:2]
    with pytest.raises(ValueError, match="not positive"):
        bqq.decompose(W, 1, weight=np.diag([1.0] * 23 + [-1e-3]), damping=0)


def test_options_keep_the_weight() -> None:
    """The core only sees an address."""
    kept = decompose_options(3, weight=[1, 2, 3], damping=0, effort="fast", seed=0, threads=None)
    gc.collect()
    np.testing.assert_array_equal(kept.weight, [1, 2, 3])
