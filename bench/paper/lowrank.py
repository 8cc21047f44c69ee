"""Products of two thin factors: truncated SVD, SVD with quantised factors, LPLR. Each takes (W, bits)."""

from __future__ import annotations

import numpy as np

from bench.coded import Array, Coded, budget, bytes_of, mse
from bqq._baselines import uniform_quantisation

LIMITS = 16  # bytes of the clip limits of two quantised factors


def svd(W: Array, bits: int) -> Coded | None:
    """Float32 factors of the largest rank that takes no more bytes than BQQ."""
    m, n = W.shape
    rank = budget(m, n, bits) // (4 * (m + n))
    if rank < 1:
        return None
    left, right = _factors(W, rank)
    return Coded(left @ right, 4 * rank * (m + n))


def svd_uniform(W: Array, bits: int, width: int) -> Coded | None:
    """Factors in ``width`` bits, uniformly quantised, of the largest rank that takes no more bytes than BQQ."""
    m, n = W.shape
    rank = 8 * (budget(m, n, bits) - LIMITS) // (width * (m + n))
    if rank < 1:
        return None
    left, right = _factors(W, min(rank, m, n))
    What = uniform_quantisation(left, width) @ uniform_quantisation(right, width)
    return Coded(What, bytes_of(width * left.shape[1] * (m + n)) + LIMITS)


def lplr(W: Array, bits: int, tries: int = 5) -> Coded:
    """LPLR (Saha, Srivastava and Pilanci 2023): quantise a sketch U S Q, solve the other factor for it, quantise that.

    Rank m n / (m + n), truncated, at ``bits`` bits an entry: about ``bits`` bits per element of W. Q is a random
    rotation, the best of a few: without it the columns differ by orders of magnitude, and one pair of clip limits does
    not fit them all.
    """
    m, n = W.shape
    rank = max(1, m * n // (m + n))
    rng, (US, _) = np.random.default_rng(0), _factors(W, rank)
    found = []
    for _ in range(tries):
        left = uniform_quantisation(US @ np.linalg.qr(rng.standard_normal((rank, rank)))[0], bits)
        right = uniform_quantisation(np.linalg.lstsq(left, W, rcond=None)[0], bits)
        found.append(left @ right)
    return Coded(min(found, key=lambda What: mse(What, W)), bytes_of(bits * rank * (m + n)) + LIMITS)


def _factors(W: Array, rank: int) -> tuple[Array, Array]:
    """U S (m, rank) and V^T (rank, n) of the best approximation of that rank."""
    U, S, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :rank] * S[:rank], Vt[:rank]
