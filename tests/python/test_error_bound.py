"""error_bound: it bounds, it is the error of a matrix one can build, it refuses what it must."""

from __future__ import annotations

import numpy as np
import pytest

import bqq
from conftest import torch_randn
from test_bad_input import BAD_MATRICES, HUGE, TYPES, check


def gaussian():
    return torch_randn(1, 48, 40)


def distance():
    points = np.random.default_rng(2).uniform(0, 100, (44, 2))
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def low_rank():
    rng = np.random.default_rng(3)
    return rng.standard_normal((30, 4)) @ rng.standard_normal((4, 50))


def heavy_tailed():
    return np.random.default_rng(4).standard_t(3, (40, 36))


MATRICES = [gaussian, distance, low_rank, heavy_tailed]


def stack_of_signs(W, l):
    """The feasible point as a matrix of the format: c (2Y-1)(2Z-1)."""
    U, sigma, V = np.linalg.svd(np.asarray(W, np.float32).astype(float), full_matrices=False)
    Y, Z = (U[:, :l] >= 0).astype(np.uint8), (V[:l] >= 0).astype(np.uint8)
    B = np.asarray((2.0 * Y - 1) @ (2.0 * Z - 1), float)
    c = ((U[:, :l] * sigma[:l]) @ V[:l] * B).sum() / (B**2).sum()
    return bqq.Matrix.from_factors(Y[None], Z[None], [4 * c, -2 * c, -2 * c, c * l])


@pytest.mark.parametrize("make", MATRICES)
@pytest.mark.parametrize("l", [2, 9, 20])
def test_a_search_ends_below_it(make, l):
    W = make()
    norm = np.linalg.norm(W)
    loose, tight = bqq.error_bound(W, l), bqq.error_bound(W, l, tight=True)
    assert bqq.decompose(W, 1, l).error(W) * norm <= tight <= loose
    assert tight <= norm * (1 + 1e-12)


@pytest.mark.parametrize("make", MATRICES)
@pytest.mark.parametrize("l", [1, 3, 17])
def test_it_is_the_error_of_a_matrix_of_signs(make, l):
    W = make()
    q, norm = stack_of_signs(W, l), np.linalg.norm(W)
    error = q.error(W) * norm
    assert bqq.error_bound(W, l, tight=True) <= error * (1 + 1e-5)
    assert error <= bqq.error_bound(W, l) * (1 + 1e-5)
    sigma = np.linalg.svd(W, compute_uv=False)
    U, s, V = np.linalg.svd(W, full_matrices=False)
    expected = np.sqrt((sigma[l:] ** 2).sum()) + np.linalg.norm((U[:, :l] * s[:l]) @ V[:l] - q.reconstruct())
    assert bqq.error_bound(W, l) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, -3.0, 1e30])
def test_exact_for_signs_of_rank_one(scale):
    rng = np.random.default_rng(5)
    W = scale * np.outer(rng.choice([-1, 1], 12), rng.choice([-1, 1], 9))
    for tight in (False, True):
        assert bqq.error_bound(W, 1, tight=tight) <= 1e-6 * np.linalg.norm(W)


def test_zero_matrix_and_smallest_shapes():
    assert bqq.error_bound(np.zeros((4, 3)), 2) == 0
    assert bqq.error_bound([[-5.0]], 1) == pytest.approx(0)
    assert bqq.error_bound(np.ones((1, 6)), 1, tight=True) == pytest.approx(0, abs=1e-6)


def test_scale_transpose_and_dtype():
    W = gaussian()
    value = bqq.error_bound(W, 7)
    assert type(value) is float
    assert bqq.error_bound(W.T, 7) == pytest.approx(value)
    assert bqq.error_bound(4 * W.astype(np.float64), 7) == pytest.approx(4 * value)
    assert bqq.error_bound(W.astype(np.float16), 7) == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize(("error", "words", "matrix"), BAD_MATRICES)
def test_bad_matrix(error, words, matrix):
    check(error, words, bqq.error_bound, matrix, 1)


@pytest.mark.parametrize("l", [0, -1, 7, HUGE])
def test_l_out_of_range(l):
    check(ValueError, ["l", l], bqq.error_bound, np.ones((8, 6)), l)


@pytest.mark.parametrize("l", [*TYPES, None], ids=str)
def test_l_is_no_integer(l):
    check(TypeError, ["l"], bqq.error_bound, np.ones((8, 6)), l)
