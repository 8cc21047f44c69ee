"""Codes inside stock FAISS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bqq import ann

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'bqq[ann]'")


def rows(count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return (3 + rng.standard_normal((count, 24)) * np.arange(1, 25) ** -0.3).astype(np.float32)


@pytest.fixture(scope="module", params=["l2", "ip", "cosine"])
def made(request: pytest.FixtureRequest) -> Any:
    X = rows(3000, 0)
    codec = ann.train(X, 10, metric=request.param, effort="fast")
    return codec, codec.encode(X), X, rows(30, 1)


def bottom(index: Any) -> Any:
    while hasattr(index, "index"):
        index = faiss.downcast_index(index.index)
    return index


@pytest.mark.parametrize("lists", [None, 16])
def test_same_results(made: Any, lists: int | None, tmp_path: Path) -> None:
    codec, codes, X, Q = made
    index = ann.to_faiss(codec, codes, lists=lists)
    if lists:
        bottom(index).nprobe = lists
    D, I = ann.search(codec, codes, Q, 10, rescore=len(X))
    theirs, ids = index.search(Q, 10)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(I, ids, strict=True)]) > 9.9
    if codec.metric == "cosine":
        theirs = 1 - theirs / 2
    np.testing.assert_allclose(theirs, D, rtol=1e-3, atol=1e-3 * np.abs(D).max())
    faiss.write_index(index, str(tmp_path / "index"))
    again = faiss.read_index(str(tmp_path / "index"))
    if lists:
        bottom(again).nprobe = lists
    np.testing.assert_array_equal(again.search(Q, 10)[1], ids)


def test_reconstruct_and_add(made: Any) -> None:
    codec, codes, X, _ = made
    index = ann.to_faiss(codec, codes)
    np.testing.assert_allclose(index.reconstruct(7), codec.decode(codes[7:8])[0], rtol=1e-4, atol=1e-4)
    index.add(X[:50])
    assert index.ntotal == 3050
    if codec.metric != "ip":  # the largest inner product is rarely that of a vector with itself
        found = index.search(X[:50], 2)[1]
        assert np.mean([bool({i, 3000 + i} & set(row)) for i, row in enumerate(found.tolist())]) > 0.9


@pytest.mark.parametrize("lists", [None, 8])
def test_ids(made: Any, lists: int | None) -> None:
    codec, codes, _, Q = made
    named = ann.to_faiss(codec, codes, ids=np.arange(3000) * 2 + 1, lists=lists)
    plain = ann.to_faiss(codec, codes, lists=lists)
    np.testing.assert_array_equal(named.search(Q, 5)[1], plain.search(Q, 5)[1] * 2 + 1)


def test_bad_input(made: Any) -> None:
    codec, codes, X, _ = made
    with pytest.raises(TypeError, match="codec is ndarray"):
        ann.to_faiss(X, codes)
    with pytest.raises(TypeError, match="codes has dtype float32"):
        ann.to_faiss(codec, X)
    with pytest.raises(ValueError, match="lists is 0, expected 1 or more"):
        ann.to_faiss(codec, codes, lists=0)
    with pytest.raises(ValueError, match=r"ids has shape \(2,\), expected \(3000,\)"):
        ann.to_faiss(codec, codes, ids=[1, 2])
