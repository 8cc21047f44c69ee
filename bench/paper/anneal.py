"""The published descent in NumPy for stacks annealed together: what the choice of one stack after the other costs.

The same code runs greedily (p times one stack) and jointly (once p stacks), so that only the choice differs. All stacks
of a joint run are independent bits of one mean-field energy, |X - M|^2 + variance with M the sum of the stacks' means;
their 3p+1 scales are solved together in every step. Schedule as in the paper: T from 0.2 to 0.005, eta 0.06, zeta 4,
the matrix divided by its range. Float32, normal equations in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

T_INIT, T_FIN, ETA, ZETA = 0.2, 0.005, 0.06, 4.0
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Report = Callable[[int, int], object]


class Stacks:
    """p stacks on their way from random values to bits: y (m, p*l), z (p*l, n), in [0, 1]."""

    def __init__(self, X: npt.ArrayLike, p: int, l: int, rng: np.random.Generator) -> None:
        self.X = np.asarray(X, np.float32)
        self.p, self.l = p, l
        m, n = self.X.shape
        self.y_old = rng.random((m, p * l), np.float32)
        self.z_old = rng.random((p * l, n), np.float32)
        self.y = self.y_old - np.float32(ETA) * (self.y_old - np.float32(0.5))
        self.z = self.z_old - np.float32(ETA) * (self.z_old - np.float32(0.5))
        self.scales = self.solve(self.y, self.z)

    def step(self, T: float) -> None:
        y, z, eta, zeta, half = self.y, self.z, np.float32(ETA), np.float32(ZETA), np.float32(0.5)
        gy, gz = self.gradients(y + zeta * (y - self.y_old), z + zeta * (z - self.z_old), self.scales)
        y_new = np.clip(2 * y - self.y_old - eta * (gy + np.float32(T) * (y - half)), 0, 1)
        z_new = np.clip(2 * z - self.z_old - eta * (gz + np.float32(T) * (z - half)), 0, 1)
        self.y_old, self.y, self.z_old, self.z = y, y_new, z, z_new
        self.scales = self.solve(y_new, z_new)

    def atoms(self, scales: Doubles) -> tuple[Floats, Floats, Floats, np.float32]:
        """r, s, t of each of the p*l inner indices, and u."""
        r, s, t = (np.repeat(scales[i:-1:3], self.l).astype(np.float32) for i in range(3))
        return r, s, t, np.float32(scales[-1])

    def mean(self, y: Floats, z: Floats, scales: Doubles) -> Floats:
        r, s, t, u = self.atoms(scales)
        found: Floats = (y * r) @ z + (y @ s)[:, None] + t @ z + u
        return found

    def gradients(self, y: Floats, z: Floats, scales: Doubles) -> tuple[Floats, Floats]:
        m, n = self.X.shape
        r, s, t, _ = self.atoms(scales)
        R = self.X - self.mean(y, z, scales)
        cy, cy2, cz, cz2 = y.sum(0), (y * y).sum(0), z.sum(1), (z * z).sum(1)
        phi2 = r * r * cz2 + 2 * r * s * cz + n * s * s
        psi2 = r * r * cy2 + 2 * r * t * cy + m * t * t
        gy = (1 - 2 * y) * phi2 - 2 * (R @ (r[:, None] * z + s[:, None]).T) + (r * r + 2 * r * t) * (cz - cz2)
        gz = (1 - 2 * z) * psi2[:, None] - 2 * ((r * y + t).T @ R) + ((r * r + 2 * r * s) * (cy - cy2))[:, None]
        return gy, gz

    def solve(self, y: Floats, z: Floats) -> Doubles:
        """r_0, s_0, t_0, r_1, ..., u that minimise the energy for these y, z."""
        X, p, (m, n) = self.X, self.p, self.X.shape
        ys, zs = y.reshape(m, p, -1).transpose(1, 0, 2), z.reshape(p, -1, n)
        products = ys @ zs  # (p, m, n)
        flat = products.reshape(p, -1)
        sy, sz = ys.sum(2).astype(float), zs.sum(1).astype(float)  # (p, m), (p, n)
        cy, cy2, cz, cz2 = (a.astype(float) for a in (ys.sum(1), (ys * ys).sum(1), zs.sum(2), (zs * zs).sum(2)))
        S = (cy * cz).sum(1)
        A, b = np.zeros((3 * p + 1, 3 * p + 1)), np.zeros(3 * p + 1)
        A[0:-1:3, 0:-1:3] = flat @ flat.T + np.diag(S - (cy2 * cz2).sum(1))
        A[0:-1:3, 1:-1:3] = products.sum(2) @ sy.T + np.diag(S - (cy2 * cz).sum(1))
        A[0:-1:3, 2:-1:3] = products.sum(1) @ sz.T + np.diag(S - (cy * cz2).sum(1))
        A[1:-1:3, 1:-1:3] = n * (sy @ sy.T + np.diag((cy - cy2).sum(1)))
        A[1:-1:3, 2:-1:3] = np.outer(sy.sum(1), sz.sum(1))
        A[2:-1:3, 2:-1:3] = m * (sz @ sz.T + np.diag((cz - cz2).sum(1)))
        A[1:-1:3, 0:-1:3] = A[0:-1:3, 1:-1:3].T
        A[2:-1:3, 0:-1:3] = A[0:-1:3, 2:-1:3].T
        A[2:-1:3, 1:-1:3] = A[1:-1:3, 2:-1:3].T
        A[-1, 0:-1:3], A[-1, 1:-1:3], A[-1, 2:-1:3], A[-1, -1] = S, n * sy.sum(1), m * sz.sum(1), m * n
        A[:, -1] = A[-1]
        b[0:-1:3], b[1:-1:3], b[2:-1:3] = flat @ X.ravel(), sy @ X.sum(1), sz @ X.sum(0)
        b[-1] = X.sum()
        unit = 1 / np.sqrt(np.maximum(A.diagonal(), 1e-30))
        ridge = 1e-8 * np.eye(len(b))  # a stack that is still uniform makes the equations singular
        solution: Doubles = unit * np.linalg.solve(unit[:, None] * A * unit + ridge, unit * b)
        return solution


def decompose(
    W: npt.ArrayLike, p: int, l: int, steps: int, joint: bool, seed: int = 0, report: Report | None = None
) -> Floats:
    """The dense (m, n) matrix of p stacks of l, found with p*steps steps of one stack or ``steps`` steps of p stacks.

    After rounding all 3p+1 scales are solved for the bits, in either case.
    """
    W = np.asarray(W, np.float32)
    rng = np.random.default_rng(seed)
    residual, Y, Z = W, [], []
    runs = 1 if joint else p
    for run in range(runs):
        spread = np.ptp(residual) or np.float32(1)
        stacks = Stacks(residual / spread, p if joint else 1, l, rng)
        for i in range(steps):
            stacks.step(T_INIT + (T_FIN - T_INIT) * i / max(steps - 1, 1))
            if report is not None and i % 100 == 99:
                report(run * steps + i + 1, runs * steps)
        Y.append((stacks.y > 0.5).astype(np.float32))
        Z.append((stacks.z > 0.5).astype(np.float32))
        residual = residual - spread * stacks.mean(Y[-1], Z[-1], stacks.solve(Y[-1], Z[-1]))
    whole = Stacks(W, p, l, rng)
    y, z = np.concatenate(Y, 1), np.concatenate(Z, 0)
    return whole.mean(y, z, whole.solve(y, z))
