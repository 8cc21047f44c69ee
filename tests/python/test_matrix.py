"""bqq.Matrix: properties, factors, symmetries, transposes, prefixes, copies."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import dense, random_matrix, same

SHAPES = [
    {"m": 1, "n": 1, "p": 1, "l": 1},
    {"m": 7, "n": 5, "p": 2, "l": 3},
    {"m": 30, "n": 41, "p": 3, "l": 17},
    {"m": 13, "n": 20, "J": 3, "K": 3, "p": 2, "l": 9},
    {"m": 65, "n": 8, "J": 5, "K": 1, "p": 4, "l": 64},
]
matrices = pytest.mark.parametrize("q", [random_matrix(**s) for s in SHAPES], ids=repr)


def close(actual, expected, tolerance=1e-6):
    assert np.abs(actual - expected).max() <= tolerance * max(np.abs(expected).max(), 1)


def factors(q):
    return q.Y.copy(), q.Z.copy(), q.scales.astype(np.float64)


@matrices
def test_properties(q):
    (m, n), (rows, cols), (J, K), p, l = q.shape, q.patch, q.grid, q.p, q.l
    assert (rows, cols) == (-(-m // J), -(-n // K))
    assert q.ndim == 2
    assert q.dtype == np.float32
    for array, shape, dtype in (
        (q.Y, (J, K, p, rows, l), np.uint8),
        (q.Z, (J, K, p, l, cols), np.uint8),
        (q.scales, (J, K, 3 * p + 1), np.float32),
    ):
        assert array.shape == shape
        assert array.dtype == dtype
    assert all(type(v) is int for v in (m, n, rows, cols, J, K, p, l, q.nbytes))
    planes = J * K * p * (rows * -(-l // 8) + l * -(-cols // 8))
    assert q.nbytes == planes + 4 * J * K * (3 * p + 1)
    assert q.bits_per_weight == 8 * q.nbytes / (m * n)


def test_repr():
    q = random_matrix(13, 20, J=2, K=3, p=2, l=9)
    assert repr(q) == (
        f"bqq.Matrix(13x20, p=2, l=9, patch=7x7, {q.bits_per_weight:.3g} bits per weight, {q.nbytes} bytes)"
    )


@matrices
def test_reconstruct_is_the_formula(q):
    W = q.reconstruct()
    assert W.dtype == np.float32
    assert W.flags.c_contiguous
    assert W.flags.writeable
    close(W, dense(q))
    W[0, 0] += 1
    assert q.reconstruct()[0, 0] != W[0, 0]


@matrices
def test_from_factors_round_trip(q):
    assert same(bqq.Matrix.from_factors(q.Y, q.Z, q.scales, q.shape), q)
    assert same(bqq.Matrix.from_factors(q.Y.astype(float), q.Z.astype(bool), q.scales.tolist(), q.shape), q)


def test_from_factors_of_one_block():
    q = random_matrix(6, 5, p=2, l=3)
    assert same(bqq.Matrix.from_factors(q.Y[0, 0], q.Z[0, 0], q.scales[0, 0]), q)
    assert same(bqq.Matrix.from_factors(q.Y[0, 0], q.Z[0, 0], q.scales[0, 0], [6, 5]), q)
    flipped = bqq.Matrix.from_factors(q.Y[0, 0, ::-1], q.Z[0, 0, ::-1], q.scales[0, 0])
    np.testing.assert_array_equal(flipped.Y[:, :, ::-1], q.Y)


def test_from_factors_copies():
    Y, Z, scales = np.ones((1, 3, 2)), np.ones((1, 2, 4)), np.ones(4, np.float32)
    q = bqq.Matrix.from_factors(Y, Z, scales)
    before = q.reconstruct()
    Y[:] = Z[:] = scales[:] = 0
    np.testing.assert_array_equal(q.reconstruct(), before)


# --- symmetries (complement, order): the same matrix from other bits ---


@pytest.mark.parametrize("q", [random_matrix(**s) for s in SHAPES if "J" not in s], ids=repr)
@pytest.mark.parametrize("which", ["Y", "Z"])
def test_complement(q, which):
    """Y -> 1-Y with (-r, -s, t+r, u+sl); Z -> 1-Z with (-r, s+r, -t, u+tl)."""
    Y, Z, c = factors(q)
    for i in range(q.p):
        r, s, t = c[0, 0, 3 * i : 3 * i + 3]
        if which == "Y":
            Y[:, :, i] ^= 1
            c[0, 0, 3 * i : 3 * i + 3] = -r, -s, t + r
            c[0, 0, -1] += s * q.l
        else:
            Z[:, :, i] ^= 1
            c[0, 0, 3 * i : 3 * i + 3] = -r, s + r, -t
            c[0, 0, -1] += t * q.l
    other = bqq.Matrix.from_factors(Y, Z, c, q.shape)
    close(other.reconstruct(), q.reconstruct(), 1e-5)
    x = np.random.default_rng(0).standard_normal(q.shape[1])
    close(other @ x, q @ x, 1e-4)


@matrices
def test_order_of_inner_indices_and_stacks(q):
    rng = np.random.default_rng(0)
    Y, Z, c = factors(q)
    inner, stacks = rng.permutation(q.l), rng.permutation(q.p)
    scales = np.concatenate([c[..., :-1].reshape(*q.grid, q.p, 3)[:, :, stacks].reshape(*q.grid, -1), c[..., -1:]], -1)
    other = bqq.Matrix.from_factors(Y[..., inner][:, :, stacks], Z[..., inner, :][:, :, stacks], scales, q.shape)
    close(other.reconstruct(), q.reconstruct())


def test_plus_minus_one_factors():
    """c (2Y-1)(2Z-1) is r = 4c, s = t = -2c, u = cl."""
    q, c = random_matrix(9, 8, l=5), 0.75
    Y, Z = q.Y[0, 0], q.Z[0, 0]
    other = bqq.Matrix.from_factors(Y, Z, [4 * c, -2 * c, -2 * c, 5 * c])
    np.testing.assert_array_equal(other.reconstruct(), c * ((2.0 * Y[0] - 1) @ (2.0 * Z[0] - 1)))


# --- transposes ---


def test_transpose_shares_the_planes():
    """Products of both sides, and what only asks for sizes, make no second set."""
    q = random_matrix(30, 41, J=2, p=3, l=17)
    x, y = np.ones(41, np.float32), np.ones(30, np.float32)
    q @ x, y @ q, q.T @ y, x @ q.T, y.tolist() @ q, q.T.shape, q.T.nbytes, repr(q.T)
    assert q.T._planes is q._planes
    assert q._planes._transpose is None
    assert np.array_equal(q.T.scales[..., 1], q.scales[..., 2].T)
    assert q.T._core is q._planes._transpose


@matrices
def test_transpose(q):
    t = q.T
    assert t.T is q
    assert q.T is t
    assert t.shape == q.shape[::-1]
    assert t.patch == q.patch[::-1]
    assert t.grid == q.grid[::-1]
    assert (t.p, t.l) == (q.p, q.l)
    np.testing.assert_array_equal(t.reconstruct(), q.reconstruct().T)
    np.testing.assert_array_equal(t.Y, q.Z.transpose(1, 0, 2, 4, 3))
    np.testing.assert_array_equal(t.Z, q.Y.transpose(1, 0, 2, 4, 3))
    again = bqq.Matrix.from_factors(t.Y, t.Z, t.scales, t.shape).T
    assert same(again, q)


def test_transposes_are_collected():
    """A matrix and its transpose refer to each other and still go away."""

    def alive():
        gc.collect()
        return sum(type(o) is bqq.Matrix for o in gc.get_objects())

    before = alive()
    for _ in range(10):
        assert random_matrix(5, 5).T.shape == (5, 5)
    assert alive() == before


# --- prefixes ---


@matrices
def test_prefix(q):
    """The first stacks with their own r, s, t; u such that the mean of each block stays."""
    W, (rows, cols) = q.reconstruct().astype(float), q.patch
    for k in range(1, q.p + 1):
        a = q.prefix(k)
        assert (a.p, a.l, a.shape, a.grid, a.patch) == (k, q.l, q.shape, q.grid, q.patch)
        np.testing.assert_array_equal(a.Y, q.Y[:, :, :k])
        np.testing.assert_array_equal(a.Z, q.Z[:, :, :k])
        np.testing.assert_array_equal(a.scales[..., :-1], q.scales[..., : 3 * k])
        V = a.reconstruct().astype(float)
        for j, i in np.ndindex(*q.grid):
            block = np.s_[j * rows : (j + 1) * rows, i * cols : (i + 1) * cols]
            assert V[block].mean() == pytest.approx(W[block].mean(), abs=1e-5 * np.abs(W).max())
    assert same(q.prefix(q.p), q)


def test_prefix_of_a_prefix():
    q = random_matrix(12, 10, J=2, p=4, l=6)
    a, b = q.prefix(3).prefix(1), q.prefix(1)
    np.testing.assert_array_equal(a.Y, b.Y)
    close(a.reconstruct(), b.reconstruct(), 1e-5)
    np.testing.assert_allclose(q.T.prefix(2).reconstruct(), q.prefix(2).T.reconstruct(), atol=1e-5)


# --- error ---


def test_error_and_mse():
    q = random_matrix(9, 8, p=2)
    W = dense(q)
    assert q.error(q.reconstruct()) < 1e-7
    assert q.mse(q.reconstruct()) < 1e-13
    assert q.mse(W + 2) == pytest.approx(4, rel=1e-5)
    assert q.error(W * 2) == pytest.approx(0.5, rel=1e-5)
    assert q.error(np.zeros((9, 8))) == np.inf
    assert isinstance(q.error(W), float)
    zero = bqq.Matrix.from_factors(np.zeros((1, 2, 1)), np.zeros((1, 1, 2)), np.zeros(4))
    assert zero.error(np.zeros((2, 2))) == 0


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30])
def test_error_at_any_magnitude(scale):
    q = bqq.Matrix.from_factors([[[1], [0]]], [[[1, 0]]], [scale, 0, 0, 0])
    assert q.error(np.array([[2 * scale, 0], [0, 0]])) == pytest.approx(0.5, rel=1e-4)


# --- immutable, copied, pickled ---


@matrices
def test_immutable(q):
    before = q.reconstruct()
    for name in ("shape", "p", "l", "patch", "grid", "nbytes", "Y", "Z", "scales", "T", "dtype"):
        with pytest.raises(AttributeError):
            setattr(q, name, None)
    with pytest.raises(AttributeError):
        q.anything = 1
    with pytest.raises(TypeError):
        q[0, 0] = 1
    for array in (q.Y, q.Z, q.scales):
        try:
            array[...] = 0
        except ValueError:
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
    np.testing.assert_array_equal(q.reconstruct(), before)


def test_scales_outlive_the_matrix():
    q = random_matrix(4, 3)
    scales, expected = q.scales, q.scales.copy()
    del q
    gc.collect()
    np.testing.assert_array_equal(scales, expected)


@matrices
def test_copies(q):
    _ = q.T, q @ np.ones(q.shape[1])  # caches do not travel
    duplicates = [copy.copy(q), copy.deepcopy(q)]
    duplicates += [pickle.loads(pickle.dumps(q, v)) for v in range(pickle.HIGHEST_PROTOCOL + 1)]
    for duplicate in duplicates:
        assert type(duplicate) is bqq.Matrix
        assert duplicate is not q
        assert same(duplicate, q)
        np.testing.assert_array_equal(duplicate.reconstruct(), q.reconstruct())
        assert same(duplicate.T, q.T)


def test_pickle_is_small():
    q = random_matrix(256, 256, p=2, l=128)
    assert len(pickle.dumps(q)) < q.nbytes + 1000


@settings(max_examples=60)
@given(data=st.data())
def test_any_matrix(data):
    """Factors in, the same factors and the formula out; transposed twice, nothing changed."""
    m, n, p, l = (data.draw(st.integers(1, hi), name) for name, hi in zip("mnpl", (40, 40, 4, 70), strict=True))
    J, K = (data.draw(st.sampled_from([-(-side // c) for c in range(1, side + 1)])) for side in (m, n))
    q = random_matrix(m, n, J=J, K=K, p=p, l=l, seed=data.draw(st.integers(0, 9)))
    close(q.reconstruct(), dense(q))
    t = bqq.Matrix.from_factors(q.T.Y, q.T.Z, q.T.scales, q.T.shape)
    assert same(t.T, q)
    assert same(pickle.loads(pickle.dumps(q)), q)
    k = data.draw(st.integers(1, p), "k")
    np.testing.assert_allclose(
        q.prefix(k).reconstruct().mean(), q.reconstruct().mean(), atol=1e-4 * np.abs(dense(q)).max()
    )


def test_scipy_takes_it_for_a_linear_operator():
    q = random_matrix(30, 41, p=3, l=17)
    linalg = pytest.importorskip("scipy.sparse.linalg")
    operator, dense = linalg.aslinearoperator(q), q.reconstruct().astype(np.float64)
    x, y = np.ones(q.shape[1]), np.ones((q.shape[0], 3))
    np.testing.assert_allclose(operator @ x, dense @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator.H @ y, dense.T @ y, rtol=1e-4, atol=1e-4)
    largest = linalg.svds(q, k=2, random_state=0)[1].max()
    np.testing.assert_allclose(largest, np.linalg.norm(dense, 2), rtol=1e-4)
