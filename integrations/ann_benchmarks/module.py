"""Vector codes of bqq in ann-benchmarks: this folder as ann_benchmarks/algorithms/bqq there."""

from __future__ import annotations

from typing import Any

import numpy as np
from ann_benchmarks.algorithms.base.module import BaseANN

from bqq import ann

METRICS = {"euclidean": "l2", "angular": "cosine"}


class Bqq(BaseANN):
    """Exhaustive search of codes; with ``exact`` the best of them are compared as the vectors they came from."""

    def __init__(self, metric: str, code_size: int) -> None:
        if metric not in METRICS:
            raise NotImplementedError(f"bqq does not do {metric}, only {' and '.join(METRICS)}")
        self._metric, self._code_size = metric, code_size
        self.set_query_arguments(0, 0)

    def fit(self, X: Any) -> None:
        vectors = np.ascontiguousarray(X, np.float32)
        self._index = ann.Index(ann.train(vectors, self._code_size, metric=METRICS[self._metric]))
        self._index.add(vectors)
        if self._metric == "angular":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-30))
        self._vectors = vectors

    def set_query_arguments(self, coarse: int, exact: int) -> None:
        """coarse: stages that are scanned first, 0: all; exact: how many are compared as vectors, 0: none."""
        self._coarse, self._exact = coarse, exact
        self.name = f"bqq(code_size={self._code_size}, coarse={coarse}, exact={exact})"

    def query(self, v: Any, n: int) -> Any:
        return self._search(np.asarray(v, np.float32)[None], n, threads=1)[0]

    def batch_query(self, X: Any, n: int) -> None:
        self.res = self._search(np.asarray(X, np.float32), n, threads=None)

    def _search(self, Q: Any, n: int, threads: int | None) -> list[Any]:
        stages = min(self._coarse, len(self._index.codec.stages)) or None
        _, ids = self._index.search(Q, max(n, self._exact), coarse=stages, threads=threads)
        found = [row[row >= 0] for row in ids]
        if not self._exact:
            return found
        return [row[np.argsort(self._distances(q, row), kind="stable")[:n]] for q, row in zip(Q, found, strict=True)]

    def _distances(self, q: Any, ids: Any) -> Any:
        near = self._vectors[ids]
        if self._metric == "angular":
            return -(near @ q)
        difference = near - q
        return np.einsum("ij,ij->i", difference, difference)

    def done(self) -> None:
        self._index = self._vectors = None
