"""Quantisers of vectors: k-means over rows, the E8 lattice over eight elements. Each takes (W, bits)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from bench.coded import Array, Coded, bytes_of
from bench.scalar import scalar_codebook
from bqq._baselines import uniform_quantisation


def kmeans_rows(W: Array, bits: int, width: int = 32) -> Coded | None:
    """Each row becomes the nearest of C centroids of ``width`` bits an entry (32: float32; less: uniform).

    C and the bytes as the paper counts them: C = m (n bits - 4) / (width n) truncated, whole bytes per index, and 8
    bytes for the clip limits of quantised centroids.
    """
    from sklearn.cluster import KMeans

    m, n = W.shape
    count = min(m * (n * bits - 4) // (width * n), len(np.unique(W, axis=0)))
    if count < 1:
        return None
    fitted = KMeans(count, n_init=1, random_state=0).fit(W)
    centroids = fitted.cluster_centers_
    if width < 32:
        centroids = uniform_quantisation(centroids, width)
    index = m * bytes_of(int(np.ceil(np.log2(count)))) if count > 1 else 0
    return Coded(centroids[fitted.labels_], index + bytes_of(count * n * width) + (8 if width < 32 else 0))


def e8(W: Array, bits: int, scale_bits: int = 1) -> Coded:
    """Runs of eight elements as multiples of the 240 shortest vectors of E8, ``bits`` levels on what is left.

    A level takes the root of best cosine (8 bits) and one of 2**scale_bits scales, fitted to the level (Lloyd-Max) and
    stored as float32: 1 + scale_bits/8 bits per element and level. One scale per level at scale_bits 0. The last run
    is filled with zeros.
    """
    roots = e8_roots()
    unit = roots / np.sqrt(2)
    count = -(-W.size // 8)
    left = np.zeros((count, 8))
    left.reshape(-1)[: W.size] = np.asarray(W, np.float64).ravel()
    total = np.zeros_like(left)
    for _ in range(bits):
        cosines = left @ unit.T
        best = cosines.argmax(axis=1)
        levels, edges = scalar_codebook(cosines[np.arange(count), best], 2**scale_bits)
        scale = levels[np.searchsorted(edges, cosines[np.arange(count), best])]
        part = scale[:, None] * unit[best]
        left, total = left - part, total + part
    size = bytes_of(bits * (count * (8 + scale_bits) + 32 * 2**scale_bits))
    return Coded(total.ravel()[: W.size].reshape(W.shape), size)


def e8_roots() -> Array:
    """(240, 8): the vectors of squared length 2; 112 of two +-1, 128 of eight +-1/2 with an even number of minus."""
    roots = []
    for (i, j), signs in product(combinations(range(8), 2), product((-1.0, 1.0), repeat=2)):
        root = np.zeros(8)
        root[[i, j]] = signs
        roots.append(root)
    halves = [np.array(signs) for signs in product((-0.5, 0.5), repeat=8)]
    return np.array(roots + [half for half in halves if (half < 0).sum() % 2 == 0])
