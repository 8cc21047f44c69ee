"""bqq.ann: codecs, search, indexes, files, and what bad input is told."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from bqq import ann

Floats = npt.NDArray[np.float32]
METRICS: list[Any] = ["l2", "ip", "cosine"]


def clustered(count: int, d: int, seed: int = 0) -> Floats:
    """Around 20 centres, with a spectrum that falls."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99)
    scale = np.arange(1, d + 1) ** -0.5
    at = centres.standard_normal((20, d))[rng.integers(0, 20, count)]
    return ((at + 0.6 * rng.standard_normal((count, d))) * scale).astype(np.float32)


@pytest.fixture(scope="module")
def X() -> Floats:
    return clustered(4000, 32)


@pytest.fixture(scope="module")
def Q() -> Floats:
    return clustered(40, 32, seed=1)


@pytest.fixture(scope="module")
def codec(X: Floats) -> ann.Codec:
    return ann.train(X, 12, effort="fast")


def exact(X: Floats, Q: Floats, k: int, metric: str) -> npt.NDArray[np.int64]:
    x, q = X.astype(np.float64), Q.astype(np.float64)
    if metric == "cosine":
        x, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, q))
    scores = -(q @ x.T) if metric != "l2" else (x**2).sum(1) - 2 * (q @ x.T)
    return np.argsort(scores, axis=1, kind="stable")[:, :k]


def overlap(a: Any, b: Any) -> float:
    return float(np.mean([len(set(x) & set(y)) / len(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]))


@pytest.mark.parametrize("metric", METRICS)
def test_recall(X: Floats, Q: Floats, metric: Any) -> None:
    codec = ann.train(X, 16, metric=metric, effort="fast")
    index = ann.Index(codec)
    index.add(X)
    distances, ids = index.search(Q, 10)
    assert overlap(ids, exact(X, Q, 10, metric)) > 0.75
    assert overlap(ids, exact(codec.decode(codec.encode(X)), Q, 10, metric)) > 0.9  # the norm is rounded
    assert (np.diff(distances, axis=1) >= 0).all() if metric == "l2" else (np.diff(distances, axis=1) <= 0).all()
    if metric == "cosine":
        assert np.abs(distances).max() <= 1.1
        assert overlap(index.search(Q * 1000, 10)[1], ids) > 0.99


def test_better_than_a_product_quantizer_of_4_bits(X: Floats, Q: Floats) -> None:
    faiss = pytest.importorskip("faiss")
    peer = faiss.ProductQuantizer(32, 16, 4)  # 8 bytes
    peer.train(X)
    theirs = overlap(exact(peer.decode(peer.compute_codes(X)), Q, 10, "l2"), exact(X, Q, 10, "l2"))
    codec = ann.train(X, 8)
    ours = overlap(ann.search(codec, codec.encode(X), Q, 10)[1], exact(X, Q, 10, "l2"))
    assert ours > theirs + 0.05


def test_one_way_or_another(X: Floats, Q: Floats, codec: ann.Codec) -> None:
    codes = codec.encode(X)
    index, other = ann.Index(codec), ann.Index(codec)
    index.add(X)
    other.add_codes(codes)
    D, I = ann.search(codec, codes, Q, 7)
    for found in (index.search(Q, 7), other.search(Q, 7), index.search(Q, 7, threads=1)):
        np.testing.assert_array_equal(found[0], D)
        np.testing.assert_array_equal(found[1], I)
    np.testing.assert_array_equal(index.codes(I[0]), codes[I[0]])
    np.testing.assert_array_equal(index.reconstruct(I[0]), codec.decode(codes[I[0]]))
    np.testing.assert_array_equal(codec.encode(X), codes)
    np.testing.assert_array_equal(codec.encode(X[100:103]), codes[100:103])


def test_distances_are_those_of_decoded_vectors(X: Floats, Q: Floats, codec: ann.Codec) -> None:
    codes = codec.encode(X)
    D, I = ann.search(codec, codes, Q, 3)
    decoded = codec.decode(codes)[I]
    _, _, _, _, step = codec._core.parts()
    true = ((decoded - Q[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(D, true, atol=0.51 * step + 1e-4 * true.max())
    assert (D >= 0).all()


def test_prefix_and_coarse(X: Floats, Q: Floats) -> None:
    codec = ann.train(X, 16, effort="fast")
    assert sum(codec.stages) == 15
    assert len(codec.stages) > 1
    first = codec.prefix(1)
    assert first.code_size == codec.stages[0] + 1
    np.testing.assert_array_equal(first.encode(X)[:, :-1], codec.encode(X)[:, : codec.stages[0]])
    index = ann.Index(codec)
    index.add(X)
    assert overlap(index.search(Q, 10, coarse=1)[1], index.search(Q, 10)[1]) > 0.8
    assert overlap(index.search(Q, 10, coarse=1, rescore=4000)[1], index.search(Q, 10, rescore=4000)[1]) == 1


def test_efforts(X: Floats) -> None:
    codec = ann.train(X, 8)
    errors = [float(((codec.decode(codec.encode(X, effort=e)) - X) ** 2).sum()) for e in ("fast", "default", "best")]
    assert errors[0] > errors[1] > errors[2]


def test_same_for_a_seed(X: Floats) -> None:
    a, b, c = (ann.train(X[:1000], 6, effort="fast", seed=s, threads=t) for s, t in ((1, 1), (1, 2), (2, 1)))
    assert a == b
    assert a != c
    assert repr(a) == "bqq.ann.Codec(d=32, code_size=6, metric='l2', stages=[5])"


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    N=st.integers(1, 60),
    d=st.integers(1, 40),
    size=st.integers(2, 12),
    metric=st.sampled_from(METRICS),
    kind=st.sampled_from(["normal", "equal", "integers", "float64", "strided", "constant columns", "zeros"]),
)
def test_any_shape(N: int, d: int, size: int, metric: Any, kind: str) -> None:
    X: Any = np.random.default_rng(N * 100 + d).standard_normal((N, d)).astype(np.float32)
    if kind == "equal":
        X[:] = X[0]
    elif kind == "integers":
        X = (100 * X).astype(np.int16)
    elif kind == "float64":
        X = X.astype(np.float64)
    elif kind == "strided":
        X = np.repeat(X, 2, axis=1)[::-1, ::2]
    elif kind == "constant columns":
        X[:, ::2] = 3
    elif kind == "zeros":
        X[:] = 0
    codec = ann.train(X, size, metric=metric, effort="fast")
    index = ann.Index(codec)
    index.add(X)
    D, I = index.search(X[:3], N + 2)
    assert np.isfinite(codec.decode(codec.encode(X))).all()
    assert not np.isnan(D).any()
    assert (np.sort(I[:, :N], axis=1) == np.arange(N)).all()
    assert (I[:, N:] == -1).all()
    assert len(index) == N


def test_ids(X: Floats, Q: Floats, codec: ann.Codec) -> None:
    index = ann.Index(codec)
    index.add(X[:10], ids=range(100, 110))
    index.add(X[10:12])
    assert index.ids.tolist() == [*range(100, 110), 110, 111]
    assert 105 in index
    assert 5 not in index
    assert len(index) == 12
    assert index.remove([105, 105, 3]) == 1
    assert 105 not in index.search(Q, 12)[1]
    only = index.search(Q, 3, ids=[101, 111, 12345])[1]
    assert set(only.ravel().tolist()) == {101, 111, -1}
    assert (index.search(Q, 3, ids=[])[1] == -1).all()
    with pytest.raises(ValueError, match=r"ids\[1\] is 101, which the index has already"):
        index.add(X[:2], ids=[7, 101])
    with pytest.raises(ValueError, match=r"ids\[0\] is 7, which is not there"):
        index.reconstruct([7])
    assert len(index) == 11


def test_removing_and_adding_many_loses_none(codec: ann.Codec) -> None:
    N = 100_000
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (N, codec.code_size), dtype=np.uint8)
    index = ann.Index(codec)
    index.add_codes(codes)
    order = rng.permutation(N)
    assert index.remove(order) == N
    assert len(index) == 0
    index.add_codes(codes[order], ids=order)
    assert sorted(index.ids.tolist()) == list(range(N))
    np.testing.assert_array_equal(index.codes(np.arange(N)), codes)


@pytest.mark.parametrize("metric", METRICS)
def test_range_search(X: Floats, Q: Floats, metric: Any) -> None:
    codec = ann.train(X, 8, metric=metric, effort="fast")
    index = ann.Index(codec)
    index.add(X)
    D, I = index.search(Q, len(X), rescore=len(X))
    radius = float(D[0, 50])
    limits, distances, ids = index.range_search(Q, radius)
    inside = radius > D if metric == "l2" else radius < D
    assert np.diff(limits).tolist() == inside.sum(1).tolist()
    np.testing.assert_array_equal(ids, I[inside])
    np.testing.assert_array_equal(distances, D[inside])
    assert index.range_search(Q[:0], radius)[0].tolist() == [0]
    few = index.range_search(Q, radius, ids=I[0, :5])[2]
    assert set(few.tolist()) <= set(I[0, :5].tolist())


def test_nothing(X: Floats, Q: Floats, codec: ann.Codec) -> None:
    index = ann.Index(codec)
    D, I = index.search(Q, 3)
    assert (I == -1).all()
    assert (np.finfo(np.float32).max == D).all()
    index.add(X[:0])
    index.add_codes(np.empty((0, codec.code_size), np.uint8))
    assert len(index) == 0
    assert index.remove([]) == 0
    assert index.search(Q[:0], 3)[0].shape == (0, 3)
    assert codec.encode(X[:0]).shape == (0, 12)
    assert codec.decode(codec.encode(X[:0])).shape == (0, 32)


def test_a_matrix_is_searched_as_it_stands(Q: Floats) -> None:
    W = clustered(300, 32, seed=5)
    q = bqq.decompose(W, 2, patch=300, effort="fast")
    scores = (q @ Q.T).T
    D, I = ann.search(q, Q, 10)
    np.testing.assert_array_equal(I, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    np.testing.assert_array_equal(D, np.take_along_axis(scores, I, 1))
    dense = q.reconstruct()
    for metric in METRICS:
        assert overlap(ann.search(q, Q, 5, metric=metric)[1], exact(dense, Q, 5, metric)) > 0.99
    np.testing.assert_allclose(q.row_squares(), (dense.astype(np.float64) ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(q.T.row_squares(), (dense.astype(np.float64) ** 2).sum(0), rtol=1e-5)
    l2 = ann.search(q, dense[:5], 1, metric="l2")
    assert l2[1].ravel().tolist() == [0, 1, 2, 3, 4]
    assert (l2[0] >= 0).all()
    more = bqq.encode(q, clustered(50, 32, seed=6))
    assert ann.search(more, Q, 60)[1].shape == (40, 60)
    assert (ann.search(more, Q, 60)[1][:, 50:] == -1).all()


def test_binary_codes_reach_a_product_quantizer(Q: Floats) -> None:
    """Rows encoded with bqq.encode, 8 bytes, rank about as well as PQ of 4 bits does."""
    faiss = pytest.importorskip("faiss")
    X = clustered(1500, 32, seed=3)
    q = bqq.decompose(X[:500], 2, l=32, patch=500, effort="fast")
    rows = bqq.encode(q, X, effort="fast")
    ours = overlap(ann.search(rows, Q, 10, metric="l2")[1], exact(X, Q, 10, "l2"))
    peer = faiss.ProductQuantizer(32, 16, 4)
    peer.train(X[:500])
    theirs = overlap(exact(peer.decode(peer.compute_codes(X)), Q, 10, "l2"), exact(X, Q, 10, "l2"))
    assert ours > theirs - 0.1


def test_files(tmp_path: Path, X: Floats, Q: Floats, codec: ann.Codec) -> None:
    codec.save(tmp_path / "codec.safetensors")
    assert ann.load(tmp_path / "codec.safetensors") == codec
    index = ann.Index(codec)
    index.add(X, ids=np.arange(len(X)) * 3)
    index.remove([0, 300])
    path = tmp_path / "index.safetensors"
    index.save(path)
    opened = ann.open(path)
    for a, b in zip(opened.search(Q, 9), index.search(Q, 9), strict=True):
        np.testing.assert_array_equal(a, b)
    assert opened.codec == codec == ann.load(path)
    opened.add(X[:1])
    opened.save(path)  # over the file that is mapped
    assert len(ann.open(path)) == len(opened) == len(X) - 1
    assert "index.ids" in bqq.load(path)
    with pytest.raises(bqq.FormatError, match="without codes"):
        ann.open(tmp_path / "codec.safetensors")
    bqq.save(tmp_path / "other.safetensors", {"a": X})
    with pytest.raises(bqq.FormatError, match="no codec"):
        ann.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        ann.open(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == ["codec.safetensors", "index.safetensors", "other.safetensors"]


def test_cut_files(tmp_path: Path, X: Floats, codec: ann.Codec) -> None:
    index = ann.Index(codec)
    index.add(X[:70])
    path = tmp_path / "index.safetensors"
    index.save(path)
    whole = path.read_bytes()
    for at in np.linspace(0, len(whole) - 1, 25, dtype=int):
        path.write_bytes(whole[:at])
        with pytest.raises((bqq.FormatError, OSError)):
            ann.open(path)
        damaged = bytearray(whole)
        damaged[at] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(bqq.FormatError):
            ann.open(path)


def test_progress(X: Floats, codec: ann.Codec) -> None:
    calls: list[tuple[int, int]] = []
    codec.encode(X, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(X), len(X))
    calls.clear()
    ann.train(X[:500], 4, effort="fast", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        ann.train(X, 16, progress=stop)
    index = ann.Index(codec)
    with pytest.raises(Stop):
        index.add(X, progress=stop)
    assert len(index) == 0


def test_readers_beside_a_writer(X: Floats, Q: Floats, codec: ann.Codec) -> None:
    index = ann.Index(codec)
    index.add(X[:100])
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            ids = index.search(Q, 5, threads=1)[1]
            if not ((ids >= 0) & (ids < len(X))).all():
                wrong.append(ids)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for first in range(100, 2000, 100):
        index.add(X[first : first + 100], effort="fast", threads=1)
        index.remove([first - 50])
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(index) == 2000 - 19


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda X, c: ann.train(X[0], 4), ValueError, "X has 1 dimensions"),
    (lambda X, c: ann.train(X[:0], 4), ValueError, "X is empty"),
    (lambda X, c: ann.train(X * np.nan, 4), ValueError, r"X\[0, 0\] is nan"),
    (lambda X, c: ann.train(X.astype(complex), 4), TypeError, "complex"),
    (lambda X, c: ann.train(X, 1), ValueError, "code_size is 1, expected 2 to 512"),
    (lambda X, c: ann.train(X, 513), ValueError, "code_size is 513"),
    (lambda X, c: ann.train(X, 4.5), TypeError, "code_size is 4.5, expected an integer"),
    (lambda X, c: ann.train(X, 4, metric="l1"), ValueError, "metric is 'l1', expected 'l2', 'ip' or 'cosine'"),
    (lambda X, c: ann.train(X, 4, effort="much"), ValueError, "effort is 'much'"),
    (lambda X, c: ann.train(X * 1e20, 4), ValueError, "at most 1e15"),
    (lambda X, c: ann.train(X * 1e-20, 4), ValueError, "scale it"),
    (lambda X, c: c.encode(X[:, :5]), ValueError, r"X has shape \(4000, 5\), expected \(N, 32\)"),
    (lambda X, c: c.decode(X), TypeError, "codes has dtype float32, expected uint8"),
    (lambda X, c: c.decode(np.zeros((3, 4), np.uint8)), ValueError, r"codes has shape \(3, 4\), expected \(N, 12\)"),
    (lambda X, c: c.prefix(0), ValueError, "k is 0, expected 1 to"),
    (lambda X, c: ann.Index("codec"), TypeError, "codec is str"),
    (lambda X, c: ann.Index(c).add(X, ids=[1, 2]), ValueError, r"ids has shape \(2,\), expected \(4000,\)"),
    (lambda X, c: ann.Index(c).add(X[:2], ids=[1.0, 2.0]), TypeError, "ids has dtype float64, expected integers"),
    (lambda X, c: ann.Index(c).add(X[:2], ids=[1, -2]), ValueError, r"ids\[1\] is -2, expected 0 to"),
    (lambda X, c: ann.Index(c).add(X[:2], ids=[3, 3]), ValueError, r"ids\[1\] is 3, which"),
    (lambda X, c: ann.Index(c).search(X, 0), ValueError, "k is 0, expected 1 or more"),
    (lambda X, c: ann.Index(c).search(X, 5, rescore=3), ValueError, "rescore is 3, expected k, 5, or more"),
    (lambda X, c: ann.Index(c).search(X, 5, coarse=9), ValueError, "coarse is 9, expected 0 to"),
    (lambda X, c: ann.Index(c).range_search(X, float("nan")), ValueError, "radius is not a number"),
    (lambda X, c: ann.Index(c).range_search(X, "1"), TypeError, "radius is '1', expected a number"),
    (lambda X, c: ann.search(X, X, 3), TypeError, "search takes a bqq.ann.Codec and codes, or a bqq.Matrix"),
]


@pytest.mark.parametrize("at", range(len(BAD)))
def test_bad_input(X: Floats, codec: ann.Codec, at: int) -> None:
    call, error, text = BAD[at]
    with pytest.raises(error, match=text):
        call(X, codec)
