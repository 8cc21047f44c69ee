"""Matrices with an order of their rows or columns and with entries; other scales on the same bits."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import dense, random_matrix, same

EXTRAS = ["", "c", "r", "e", "ce", "rce"]

dressed = st.builds(
    lambda m, n, J, K, p, extras, seed: random_matrix(m, n, J=J, K=K, p=p, l=5, seed=seed, extras=extras),
    st.sampled_from([3, 20, 41]),
    st.sampled_from([5, 19, 33]),
    *[st.sampled_from([1, 3])] * 2,
    st.integers(1, 3),
    st.sampled_from(EXTRAS),
    st.integers(0, 99),
)


@settings(max_examples=60, deadline=None)
@given(q=dressed, batch=st.sampled_from([1, 2, 5, 17, 40, 70]), precision=st.sampled_from(["float32", "fast"]))
def test_products(q, batch, precision):
    W, rng = dense(q), np.random.default_rng(batch)
    (m, n), bound = q.shape, 2e-5 if precision == "float32" else 0.05
    X, Xt = rng.standard_normal((n, batch)) + 1, rng.standard_normal((batch, m)) - 1
    for Y, expected in (
        (bqq.matmul(q, X, precision=precision), W @ X),
        (bqq.matmul(Xt, q, precision=precision), Xt @ W),
        (bqq.matmul(q.T, Xt.T, precision=precision), W.T @ Xt.T),
        (bqq.matmul(X.T, q.T, precision=precision), X.T @ W.T),
        (bqq.matmul(q, X.astype("f4"), precision=precision, threads=3), W @ X),
        (bqq.matmul(q, np.asfortranarray(X.astype("f2")), precision=precision), W @ X.astype("f2")),
    ):
        assert Y.shape == expected.shape
        rounding = 1e-3 if Y.dtype == np.float16 else 0
        assert np.linalg.norm(Y - expected) <= (bound + rounding) * np.linalg.norm(expected) + 1e-12


@settings(max_examples=60, deadline=None)
@given(q=dressed)
def test_other_forms(q):
    W = dense(q)
    m, n = q.shape
    close = {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(q.reconstruct(), W, **close)
    np.testing.assert_allclose(np.asarray(q.T), W.T, **close)
    assert same(q.T.T, q)
    assert q.T.entries[2].size == q.entries[2].size
    for again in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q), q.with_scales(q.scales)):
        assert same(again, q)
        assert again.nbytes == q.nbytes
    transposed = pickle.loads(pickle.dumps(q.T))
    assert same(transposed, q.T)
    np.testing.assert_allclose(dense(transposed), W.T, **close)
    V = np.random.default_rng(0).standard_normal((m, n)).astype("f4")
    assert q.mse(V) == pytest.approx(((V - W) ** 2).mean())
    assert q.error(V) == pytest.approx(np.linalg.norm(V - W) / np.linalg.norm(V))
    short = q.prefix(1)
    np.testing.assert_allclose(short.reconstruct(), dense(short), **close)
    np.testing.assert_array_equal(short.entries[2], q.entries[2])
    np.testing.assert_array_equal(short.col_order, q.col_order)
    doubled = q.T.with_scales(2 * q.T.scales)
    rows, cols, values = q.entries
    once = np.zeros((m, n))
    once[rows, cols] = values
    np.testing.assert_allclose(doubled.reconstruct(), (2 * (W - once) + once).T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("scales", ["float32", "float16"])
@pytest.mark.parametrize("extras", EXTRAS)
def test_files(tmp_path, extras, scales):
    path = tmp_path / "x.safetensors"
    q = random_matrix(20, 33, J=2, K=3, p=2, extras=extras)
    bqq.save(path, {"w": q, "t": q.T, "plain": random_matrix(3, 4)}, scales=scales)
    loaded = bqq.load(path)
    if scales == "float32":
        assert same(loaded["w"], q)
        assert same(loaded["t"], q.T)
    with bqq.open(path) as file:
        mapped = file["w"]
        assert file.sizes["w"] == (
            q.nbytes if scales == "float32" else q.nbytes - 2 * (q.scales.size + q.entries[2].size)
        )
    x = np.ones(33)
    np.testing.assert_array_equal(mapped @ x, loaded["w"] @ x)
    np.testing.assert_array_equal(mapped.reconstruct(), loaded["w"].reconstruct())
    np.testing.assert_allclose(mapped.reconstruct(), dense(q), rtol=1e-2, atol=0.2)
    assert b'"bqq":"1"' in path.read_bytes() if not extras else b'"bqq":"2"' in path.read_bytes()


def test_a_pickle_from_before_there_were_extras():
    q = random_matrix(5, 7)
    function, arguments = q.__reduce__()[:2]
    assert len(arguments) == 7
    assert same(function(*arguments), q)


def test_what_it_says():
    q = random_matrix(5, 7, extras="ce")
    assert "column order, 5 entries" in repr(q)
    assert "row order, 5 entries" in repr(q.T)
    assert "entr" not in repr(random_matrix(5, 7))
    assert q.row_order is None
    assert q.col_order is not None
    assert sorted(q.col_order) == list(range(7))
    assert not q.col_order.flags.writeable
    plain = random_matrix(5, 7)
    assert q.nbytes == plain.nbytes + 2 * 7 + 8 * 5
    assert q.bits_per_weight == 8 * q.nbytes / 35
    assert q.T.nbytes == q.nbytes


def test_info(tmp_path):
    path = tmp_path / "x.safetensors"
    bqq.save(path, {"w": random_matrix(20, 33, extras="ce"), "v": random_matrix(3, 4), "b": np.ones(3)})
    out = subprocess.run([sys.executable, "-m", "bqq", "info", path], capture_output=True, text=True, check=True).stdout
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert lines["name"].endswith("besides")
    assert lines["w"].endswith("column order, 5 entries")
    bqq.save(path, {"v": random_matrix(3, 4)})
    out = subprocess.run([sys.executable, "-m", "bqq", "info", path], capture_output=True, text=True, check=True).stdout
    assert "besides" not in out


@pytest.mark.parametrize(
    ("extras", "error", "text"),
    [
        ({"col_order": [0, 1, 1]}, ValueError, "col_order is no permutation of 0 to 2"),
        ({"col_order": [0, 1]}, ValueError, "col_order is no permutation of 0 to 2"),
        ({"row_order": [0, 2]}, ValueError, "row_order has 0 to 2, expected 0 to 1"),
        ({"row_order": [0.0, 1.0]}, TypeError, "row_order has dtype float64, expected integers"),
        ({"entries": ([0], [3], [1.0])}, ValueError, r"entries\[1\] has 3 to 3, expected 0 to 2"),
        ({"entries": ([-1], [0], [1.0])}, ValueError, r"entries\[0\] has -1 to -1"),
        ({"entries": ([0, 0], [1, 1], [1.0, 2.0])}, ValueError, "not ascending"),
        ({"entries": ([0], [1], [np.inf])}, ValueError, "not finite"),
        ({"entries": ([0], [1, 2], [1.0])}, ValueError, "expected three arrays of one length"),
    ],
)
def test_bad_extras(extras, error, text):
    q = random_matrix(2, 3)
    with pytest.raises(error, match=text):
        bqq.Matrix.from_factors(q.Y, q.Z, q.scales, **extras)


def test_bad_scales():
    q = random_matrix(4, 6, J=2, p=2)
    with pytest.raises(ValueError, match=r"scales has shape \(7,\), expected \(2, 1, 7\)"):
        q.with_scales(np.ones(7))
    for bad in (np.nan, np.inf, 1e300):
        with pytest.raises(ValueError, match="finite"):
            q.with_scales(np.full((2, 1, 7), bad))


# --- decompose ---


def layer(m=60, n=90, seed=0):
    """A weight with outliers, and the second moment of correlated inputs of unequal size."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n)).astype("f4")
    W.flat[rng.choice(W.size, 6, replace=False)] = 40
    X = 0.5 * rng.standard_normal((800, 40)) @ rng.standard_normal((40, n)) + 0.3 * rng.standard_normal((800, n))
    X *= np.exp(0.3 * rng.standard_normal(n))
    return W, (X.T @ X).astype("f4")


def output_error(W, q, H):
    E = W - q.reconstruct().astype(float)
    return np.einsum("ij,jk,ik", E, H, E) / np.einsum("ij,jk,ik", W, H, W)


QUICK = {"steps": 100, "refine": 100, "patch": 30}


def test_order_and_outliers_lower_the_error():
    W, H = layer()
    errors = {}
    for order in (None, "weight"):
        for outliers in (None, 8.0):
            q = bqq.decompose(W, 2, weight=H, order=order, outliers=outliers, **QUICK)
            errors[order, outliers] = output_error(W, q, H)
            assert (q.col_order is not None) == (order is not None)
            assert q.entries[2].size == (6 if outliers else 0)
    assert errors["weight", 8.0] < 0.9 * errors[None, 8.0]
    assert errors["weight", 8.0] < 0.5 * errors["weight", None]


def test_order_follows_the_weight():
    W, H = layer()
    for weight in (H, np.diag(H).copy()):
        q = bqq.decompose(W, 1, weight=weight, order="weight", **QUICK)
        np.testing.assert_array_equal(q.col_order, np.argsort(-np.diag(H), kind="stable"))


def test_entries_are_the_elements():
    W, _ = layer()
    q = bqq.decompose(W, 2, outliers=8, **QUICK)
    rows, cols, _ = q.entries
    np.testing.assert_array_equal(W[rows, cols], 40)
    np.testing.assert_allclose(q.reconstruct()[rows, cols], 40, rtol=1e-5)
    assert same(bqq.decompose(W, 2, outliers=8, threads=3, **QUICK), q)
    grown = bqq.extend(bqq.decompose(W, 1, outliers=8, **QUICK), W, 2, steps=100, refine=100)
    assert same(grown, q)


def test_encode():
    W, H = layer()
    q = bqq.decompose(W, 2, weight=H, order="weight", outliers=8, steps=100, refine=100, patch=90)
    rows = np.where(W > 30, 0, W)[:5]
    found = bqq.encode(q, rows, weight=H)
    np.testing.assert_array_equal(found.col_order, q.col_order)
    assert found.entries[2].size == 0
    assert output_error(rows, found, H) < 2 * output_error(W, q, H) + 0.2


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"order": "weight"}, ValueError, "order is 'weight', expected None: there is no weight"),
        ({"order": "size"}, ValueError, "order is .size., expected .weight."),
        ({"outliers": 0}, ValueError, "outliers is 0, expected more than 0"),
        ({"outliers": -3.0}, ValueError, "outliers is -3.0"),
        ({"outliers": np.nan}, ValueError, "outliers is nan"),
        ({"outliers": "8"}, TypeError, "outliers is '8', expected a number"),
        ({"outliers": True}, TypeError, "outliers is True, expected a number"),
    ],
)
def test_bad_options(options, error, text):
    with pytest.raises(error, match=text):
        bqq.decompose(np.ones((3, 4)), 1, **options)
