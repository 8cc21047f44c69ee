"""Draws the pictures of the documentation with bqq itself.

python docs/pictures.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import bqq

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def smooth(n: int) -> Any:
    i, j = np.mgrid[0:n, 0:n] / n
    return (np.sin(6 * i + 3 * j) + np.cos(9 * i * j) + 0.3 * np.sin(25 * j)).astype(np.float32)


def rounded(W: Any, bits: int) -> Any:
    """Each element rounded to one of 2^bits values, evenly from the least to the greatest."""
    low, step = W.min(), (W.max() - W.min()) / (2**bits - 1)
    return low + step * np.round((W - low) / step)


def anatomy(path: Path) -> None:
    """W, its approximations, and the factors of the first stack."""
    W = smooth(96)
    q = bqq.decompose(W, p=3)
    figure, axes = plt.subplots(2, 4, figsize=(6.6, 4.2))
    limits = {"vmin": W.min(), "vmax": W.max(), "cmap": "viridis"}
    for axis, image, title in zip(
        axes[0],
        [W, *(q.prefix(k).reconstruct() for k in (1, 2, 3))],
        ["W", *(f"p = {k}: {100 * q.prefix(k).error(W):.1f} %" for k in (1, 2, 3))],
        strict=True,
    ):
        axis.imshow(image, **limits)
        axis.set_title(title, fontsize=11)
    Y, Z = q.Y[0, 0, 0], q.Z[0, 0, 0]
    for axis, image, title in ((axes[1, 0], Y, f"Y, 96 x {q.l}"), (axes[1, 1], Z, f"Z, {q.l} x 96")):
        axis.imshow(image, cmap="gray_r", interpolation="nearest")
        axis.set_title(title, fontsize=11)
    axes[1, 2].imshow(Y.astype(int) @ Z, cmap="viridis")
    axes[1, 2].set_title("Y Z", fontsize=11)
    for axis in axes.flat[:7]:
        axis.set_xticks([])
        axis.set_yticks([])
    bits = (1, 2, 3)
    size = np.linalg.norm(W)
    last = axes[1, 3]
    last.semilogy(bits, [q.prefix(k).error(W) for k in bits], "o-", label="bqq")
    last.semilogy(bits, [np.linalg.norm(W - rounded(W, k)) / size for k in bits], "s--", label="rounding")
    last.set_xlabel("bits")
    last.set_title("error", fontsize=11)
    last.legend(fontsize=9)
    last.set_xticks(bits)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def choosing(path: Path) -> None:
    """Error over bits for three l-scales, on noise and on a smooth matrix."""
    noise = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
    figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.2))
    for axis, W, title in ((axes[0], noise, "Gaussian noise, 96 x 96"), (axes[1], smooth(96), "smooth, 96 x 96")):
        for scale, mark in ((0.5, "o-"), (1, "s-"), (2, "^-")):
            l = round(48 * scale)
            made = [bqq.decompose(W, p, l, effort="fast") for p in range(1, int(4 / scale) + 1) if p * scale >= 0.99]
            spread = W.var()
            axis.semilogy(
                [q.bits_per_weight for q in made], [q.mse(W) / spread for q in made], mark, label=f"l-scale {scale:g}"
            )
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("bits per element")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("squared error / variance")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    anatomy(folder / "anatomy.png")
    choosing(folder / "choosing.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
