"""Quantisers of single elements: uniform, binary coding, Lloyd-Max. Each takes (W, bits)."""

from __future__ import annotations

from itertools import product

import numpy as np

from bench.coded import Array, Coded, bytes_of, mse
from bqq._baselines import uniform_bytes, uniform_quantisation


def uniform(W: Array, bits: int) -> Coded:
    """2**bits equal steps between the best of 100 x 100 pairs of clip limits; two float32 limits are stored."""
    return Coded(uniform_quantisation(W, bits), uniform_bytes(W.size, bits))


def binary_coding(W: Array, bits: int, rounds: int = 15) -> Coded:
    """sum_i a_i B_i with B_i of +-1: greedy start, then rounds of scale solve and exact nearest level.

    Least squares for the scales and nearest of the 2**bits sums for the signs, so the error never rises. No constant.
    Stores ``bits`` float32 scales.
    """
    w = np.asarray(W, np.float64).ravel()
    signs = np.empty((w.size, bits))
    residual = w.copy()
    for i in range(bits):
        signs[:, i] = np.where(residual < 0, -1.0, 1.0)
        residual -= np.abs(residual).mean() * signs[:, i]
    codes = np.array(list(product((-1.0, 1.0), repeat=bits)))
    for _ in range(rounds):
        scales = np.linalg.lstsq(signs.T @ signs, signs.T @ w, rcond=None)[0]
        order = np.argsort(codes @ scales, kind="stable")
        levels = (codes @ scales)[order]
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, w)
        signs = codes[order[nearest]]
    return Coded(levels[nearest].reshape(W.shape), bytes_of(bits * w.size + 32 * bits))


def lloyd_max(W: Array, bits: int) -> Coded:
    """2**bits free levels, stored as float32: Lloyd's iteration, the better of two starts.

    The starts are quantiles and the levels of :func:`uniform`, so the error is never above that of ``uniform``.
    """
    w = np.asarray(W, np.float64)
    quantised = uniform_quantisation(w, bits)
    found = [scalar_codebook(w, 2**bits), scalar_codebook(w, 2**bits, np.unique(quantised))]
    tried = [levels[np.searchsorted(edges, w)] for levels, edges in found]
    return Coded(min(tried, key=lambda What: mse(What, w)), bytes_of(bits * w.size + 32 * 2**bits))


def scalar_codebook(values: Array, count: int, start: Array | None = None, rounds: int = 5000) -> tuple[Array, Array]:
    """At most ``count`` levels of locally least squared error, and the edges between them, both rising.

    Lloyd's iteration from quantiles, or from ``start``, until no value changes its level.
    """
    x = np.sort(values, axis=None)
    sums = np.concatenate([[0.0], np.cumsum(x)])  # of sorted values every level owns a run
    levels = np.quantile(x, (np.arange(count) + 0.5) / count) if start is None else start
    cuts = np.empty(0, np.intp)
    for _ in range(rounds):
        before, cuts = cuts, np.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
        if np.array_equal(before, cuts) and before.size:
            break
        ends = np.concatenate([[0], cuts, [x.size]])
        counts = np.diff(ends)
        levels = np.where(counts, np.diff(sums[ends]) / np.maximum(counts, 1), levels)
    return levels, (levels[1:] + levels[:-1]) / 2
