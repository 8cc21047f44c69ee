"""Double binary factorisation (Boza and Macko 2025, arXiv 2505.11076): W = diag(a) S diag(m) T diag(b) with signs S, T.

One factor after the other is fitted by ADMM, as there: least squares by turns with the nearest matrix that is signs
times magnitudes of rank one. The inner side k takes k (rows + columns) bits, so any number of bits a weight can be had.
"""

from __future__ import annotations

import torch

_ROUNDS = 120  # over both factors, a step of ADMM in each
_STIFFNESS = 0.1, 1.0  # of ADMM, first and last: shares of the mean diagonal. Of several the best on noise and weights


def double_binary(
    W: torch.Tensor, bits: float, importance: torch.Tensor | None = None, rounds: int = _ROUNDS
) -> tuple[torch.Tensor, float]:
    """W_hat and its bits a weight; importance (n,): mean squares of the inputs. O(rounds k (k^2 + m n)) flop."""
    m, n = W.shape
    k = max(1, int(bits * m * n / (m + n)))
    column = torch.ones(n) if importance is None else importance.clamp(min=1e-8 * float(importance.max())).sqrt()
    target = W * column
    generator = torch.Generator().manual_seed(0)
    B = _nearest(torch.randn(k, n, generator=generator))
    A, _ = _step(target, torch.zeros(m, k), B, torch.zeros(m, k), 1e-3)
    dual_a, dual_b = torch.zeros_like(A), torch.zeros_like(B.T)
    best = torch.inf, A, B
    for i in range(rounds):
        stiff = _STIFFNESS[0] * (_STIFFNESS[1] / _STIFFNESS[0]) ** (i / max(rounds - 1, 1))
        A, dual_a = _step(target, A, B, dual_a, stiff)
        BT, dual_b = _step(target.T, B.T, A.T, dual_b, stiff)
        B = BT.T
        error = float((target - A @ B).square().sum())
        if error < best[0]:
            best = error, A, B
    return best[1] @ best[2] / column, (k * (m + n) + 16 * (m + n + k)) / (m * n)


def _step(
    W: torch.Tensor, A: torch.Tensor, B: torch.Tensor, dual: torch.Tensor, stiff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A of W = A B and its dual variables, from the last ones."""
    gram = B @ B.T
    rho = stiff * float(gram.diagonal().mean())
    factor = torch.linalg.cholesky(gram + rho * torch.eye(len(gram)))
    free = torch.cholesky_solve((W @ B.T + rho * (A - dual)).T, factor).T
    A = _nearest(free + dual)
    return A, dual + free - A


def _nearest(X: torch.Tensor) -> torch.Tensor:
    """Signs times u v^T, u and v >= 0: the leading pair of |X| by power iteration."""
    size, v = X.abs(), X.abs().mean(0)
    for _ in range(4):
        u = size @ v / v.square().sum().clamp(min=1e-30)
        v = size.T @ u / u.square().sum().clamp(min=1e-30)
    return torch.where(X < 0, -1.0, 1.0) * u[:, None] * v
