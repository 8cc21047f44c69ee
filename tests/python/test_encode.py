"""bqq.encode: new rows, Z and scales of a matrix as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bqq
from conftest import random_matrix, same

Array = npt.NDArray[np.float64]


def rows_of_rank(count: int, n: int, seed: int) -> Array:
    """Rows near a plane of six dimensions, which is the same for every seed."""
    basis = np.random.default_rng(0).standard_normal((6, n))
    rng = np.random.default_rng([1, seed])
    return rng.standard_normal((count, 6)) @ basis + 0.1 * rng.standard_normal((count, n))


@pytest.fixture(scope="module")
def q() -> bqq.Matrix:
    return bqq.decompose(rows_of_rank(120, 70, 0), 3, 16, patch=120, effort="fast")


@pytest.mark.parametrize("n", [64, 150])
def test_the_rows_it_was_made_of(n: int) -> None:
    """As good as the matrix itself, within 1 %."""
    W = rows_of_rank(100, n, 0)
    q = bqq.decompose(W, 2, patch=100)
    again = bqq.encode(q, W)
    assert (again.shape, again.p, again.l, again.grid) == (q.shape, q.p, q.l, q.grid)
    assert again.error(W) <= 1.01 * q.error(W)
    assert np.array_equal(again.Z, q.Z)
    assert np.array_equal(again.scales, q.scales)


def test_new_rows_are_found_in_the_same_terms(q: bqq.Matrix) -> None:
    """Much better than the bits of other rows, and products work."""
    new = rows_of_rank(33, 70, 1)
    e = bqq.encode(q, new)
    assert (e.shape, e.grid, e.device) == ((33, 70), q.grid, "cpu")
    assert e.error(new) < 2 * q.error(rows_of_rank(120, 70, 0))
    x = np.random.default_rng(2).standard_normal(70)
    np.testing.assert_allclose(e @ x, e.reconstruct() @ x, rtol=1e-3, atol=1e-3)


def test_a_row_depends_on_itself_alone(q: bqq.Matrix) -> None:
    new = rows_of_rank(9, 70, 2)
    whole = bqq.encode(q, new, threads=2)
    assert same(whole, bqq.encode(q, new.astype(np.float32).tolist(), threads=1))
    for part in (slice(0, 1), slice(4, 9)):
        assert np.array_equal(bqq.encode(q, new[part]).Y, whole.Y[..., part, :])


def test_effort_and_seed(q: bqq.Matrix) -> None:
    new = rows_of_rank(60, 70, 3)
    fast, best = (bqq.encode(q, new, effort=effort).error(new) for effort in ("fast", "best"))
    assert best <= fast
    assert abs(bqq.encode(q, new, seed=2**64 - 1).error(new) / bqq.encode(q, new).error(new) - 1) < 0.05


@pytest.mark.parametrize("whole", [False, True])
def test_weight_lowers_the_output_error(q: bqq.Matrix, whole: bool) -> None:
    new = rows_of_rank(40, 70, 4)
    X = np.random.default_rng(5).standard_normal((200, 70)) * np.where(np.arange(70) % 7, 0.3, 5)
    H = X.T @ X
    H = H if whole else np.diag(np.diag(H))

    def output_error(weight: Any) -> float:
        E = bqq.encode(q, new, weight=weight, damping=0.001).reconstruct() - new
        return float(np.trace(E @ H @ E.T))

    assert output_error(H if whole else np.diag(H)) < 0.9 * output_error(None)


def test_progress_counts_rows(q: bqq.Matrix) -> None:
    calls: list[tuple[int, int]] = []
    bqq.encode(q, rows_of_rank(12, 70, 5), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bqq.encode(q, rows_of_rank(12, 70, 5), progress=stop)


@pytest.mark.parametrize(
    ("rows", "more", "error", "text"),
    [
        (np.ones((3, 69)), {}, ValueError, r"rows has shape \(3, 69\), expected 70 columns as q has"),
        (np.ones(70), {}, ValueError, "rows has 1 dimensions"),
        (np.ones((0, 70)), {}, ValueError, "rows is empty"),
        (np.full((2, 70), np.nan), {}, ValueError, r"rows\[0, 0\] is nan"),
        (np.ones((2, 70), complex), {}, TypeError, "rows has dtype complex128"),
        (np.ones((2, 70)), {"effort": "slow"}, ValueError, "effort is 'slow', expected 'fast', 'default' or 'best'"),
        (np.ones((2, 70)), {"seed": -1}, ValueError, "seed is -1"),
        (np.ones((2, 70)), {"threads": 0}, ValueError, "threads is 0"),
        (np.ones((2, 70)), {"weight": np.ones(5)}, ValueError, r"weight has shape \(5,\), expected \(70, 70\) or"),
        (np.ones((2, 70)), {"damping": -1}, ValueError, "damping is -1"),
        (np.ones((2, 70)), {"progress": 3}, TypeError, "progress is 3"),
    ],
)
def test_bad_input(q: bqq.Matrix, rows: Any, more: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bqq.encode(q, rows, **more)


def test_bad_matrices() -> None:
    with pytest.raises(ValueError, match=r"q has 2 block rows, expected 1: decompose with patch of at least m"):
        bqq.encode(random_matrix(8, 5, J=2), np.ones((3, 5)))
    with pytest.raises(TypeError, match=r"q is ndarray, expected a bqq\.Matrix"):
        bqq.encode(np.ones((3, 5)), np.ones((3, 5)))
