"""Exhaustive search: of plain codes, and of a compressed matrix as it stands."""

from __future__ import annotations

from typing import Any

import numpy as np

import bqq
from bqq import _check
from bqq.ann._codec import METRICS, Codec, Floats, Metric, rows_of
from bqq.ann._index import Ids, Index

_BATCH_FLOATS = 1 << 24  # products of a batch of queries


def search(a: Any, *args: Any, **kwargs: Any) -> tuple[Floats, Ids]:
    """The k nearest of each query, exhaustively.

    ``search(codec, codes, Q, k, *, ids=None, coarse=None, rescore=None, threads=None)``
        Among codes of a :class:`Codec`, (N, code_size), whose ids are 0 to N - 1. They are packed anew by each call:
        for more than one, use an :class:`Index`, whose :meth:`Index.search` says what the arguments are.
    ``search(q, Q, k, *, metric="ip", threads=None)``
        Among the rows of a :class:`bqq.Matrix`, (N, d), by products of its bit planes. ``"ip"`` ranks as ``q @ Q.T``;
        ``"l2"`` and ``"cosine"`` need the norms of its rows, one pass over the matrix. Ties by id, k > N as in
        :meth:`Index.search`.

    Returns
    -------
    distances, ids : (queries, k) float32 and int64, best first
    """
    if isinstance(a, bqq.Matrix):
        return _search_matrix(a, *args, **kwargs)
    if isinstance(a, Codec):
        return _search_codes(a, *args, **kwargs)
    raise TypeError(f"search takes a bqq.ann.Codec and codes, or a bqq.Matrix, got {type(a).__name__}")


def _search_codes(
    codec: Codec,
    codes: Any,
    Q: Any,
    k: int = 10,
    *,
    ids: Any = None,
    coarse: int | None = None,
    rescore: int | None = None,
    threads: int | None = None,
) -> tuple[Floats, Ids]:
    index = Index(codec)
    index.add_codes(codes)
    return index.search(Q, k, ids=ids, coarse=coarse, rescore=rescore, threads=threads)


def _search_matrix(
    q: bqq.Matrix, Q: Any, k: int = 10, *, metric: Metric = "ip", threads: int | None = None
) -> tuple[Floats, Ids]:
    _check.one_of("metric", metric, METRICS)
    count = _check.positive("k", _check.index("k", k))
    N, d = q.shape
    rows = rows_of("Q", Q, d)
    squares = None if metric == "ip" else q.row_squares(threads=threads)
    distances = np.full((len(rows), count), -np.inf if metric != "l2" else np.inf, np.float32)
    ids = np.full((len(rows), count), -1, np.int64)
    kept, batch = min(count, N), max(1, _BATCH_FLOATS // N)
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        scores = bqq.matmul(part, q.T, threads=threads)  # (batch, N)
        if metric == "cosine":
            norms = np.sqrt(np.asarray(squares)) * np.linalg.norm(part, axis=1, keepdims=True)
            scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 0)
        elif metric == "l2":
            scores = squares - 2 * scores + np.square(part).sum(1, keepdims=True)
        order = scores if metric == "l2" else -scores
        best = _least(order, kept)
        ids[first : first + batch, :kept] = best
        distances[first : first + batch, :kept] = np.take_along_axis(scores, best, 1)
    most = np.finfo(np.float32).max
    return np.clip(distances, 0 if metric == "l2" else -most, most), ids


def _least(order: Floats, k: int) -> Ids:
    """Places of the k least of each row, ascending, ties by place."""
    edge = np.partition(order, k - 1, 1)[:, k - 1 : k] if k < order.shape[1] else order.max(1, keepdims=True)
    best = np.empty((len(order), k), np.int64)
    for i, row in enumerate(order):
        at = np.flatnonzero(row <= edge[i])
        best[i] = at[np.argsort(row[at], kind="stable")[:k]]
    return best
