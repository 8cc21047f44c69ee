"""W_hat one stack can reach at least: the bound from singular vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from bqq import _arrays, _check


def error_bound(W: Any, l: int, *, tight: bool = False) -> float:
    """Upper bound on the least Frobenius error of one stack of inner dimension l (paper: sign-SVD bound).

    With W_l the best approximation of rank l, U and V its singular vectors and ``B = sgn(U) sgn(V)``, the matrix c B
    is one stack (r = 4c, s = t = -2c, u = c l), so

        min ||W - W_hat||_F  <=  ||W - c B||_F  <=  sqrt(sum_{j>l} sigma_j^2) + ||W_l - c B||_F,  c = <W_l, B> / ||B||^2

    A p = 1 result above it is a sign of too short a search. It holds for the optimum: a search may end above it.

    Parameters
    ----------
    W : (m, n) array of real numbers, as in :func:`decompose`; computed in float64
    l : inner dimension of the stack, 1 to min(m, n)
    tight : False for the paper's bound, the right-hand side; True for the middle term with the c that is best for W,
        never larger

    Returns
    -------
    float
        A norm, not squared and not relative: compare with ``q.error(W) * np.linalg.norm(W)`` of a q that is one block
        with p = 1 and the same l.

    Raises
    ------
    ValueError, TypeError
        W that is not 2-D, empty, not real or not finite; l out of range.

    Notes
    -----
    One singular value decomposition: O(m n min(m, n)). Where singular values coincide or vanish, their vectors and
    hence the bound are not unique; each of them is valid.
    """
    w = _arrays.as_float32_matrix("W", W).astype(np.float64)
    rank = _check.index("l", l)
    if not 1 <= rank <= min(w.shape):
        raise ValueError(f"l is {rank}, expected 1 to {min(w.shape)} for a {w.shape[0]} x {w.shape[1]} matrix")
    left, sigma, right = np.linalg.svd(w, full_matrices=False)
    signs = np.where(left[:, :rank] < 0, -1.0, 1.0) @ np.where(right[:rank] < 0, -1.0, 1.0)
    energy = float((signs**2).sum())
    target = w if tight else (left[:, :rank] * sigma[:rank]) @ right[:rank]
    c = float((target * signs).sum()) / energy if energy else 0.0
    tail = 0.0 if tight else float(np.linalg.norm(sigma[rank:]))
    return tail + float(np.linalg.norm(target - c * signs))
