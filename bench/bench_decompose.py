"""Error at equal bits and time to get there: the three efforts, the published schedule, and scalar quantisers.

    python bench/bench_decompose.py [--bits 1,2,3] [--paper-steps 50000] [--csv FILE] [--rd100 FILE]

MSE on matrices standardised to mean 0 and standard deviation 1. Uniform quantisation: 2^b levels with a grid-searched
clipping range. Lloyd-Max: the best 2^b free levels. Both store b bits an element plus their levels.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bqq
from bqq._baselines import uniform_quantisation
from machine import describe, write_csv

Array = npt.NDArray[np.float64]


def torch_randn(seed: int, m: int, n: int) -> Array:
    """torch.manual_seed(seed); torch.randn(m, n) on a CPU: the paper's Random matrix is seed 1, 128 x 128."""
    draws = np.random.RandomState(seed).randint(0, 2**32, m * n, dtype=np.uint64)
    uniform = (draws & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    u = uniform.reshape(-1, 2, 8)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, 0])), np.float32(2 * np.pi) * u[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return pairs.reshape(m, n).astype(np.float64)


def distances(points: Array) -> Array:
    return np.floor(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)) + 0.5)


def read_tsp(path: str) -> Array:
    rows = [line.split() for line in Path(path).read_text().splitlines()]
    return np.array([[float(a) for a in r[1:]] for r in rows if len(r) == 3 and r[0].isdigit()])


def photo() -> Array:
    from matplotlib import cbook
    from PIL import Image

    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        return np.asarray(image.convert("RGB"))[:, :, 0].astype(np.float64)


def matrices(rd100: str | None) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    points = read_tsp(rd100) if rd100 else rng.uniform(0, 1000, (100, 2))
    return {
        "Gaussian 128x128": torch_randn(1, 128, 128),
        "Distance 100x100": distances(points),
        "Photo 224x224": photo()[50:274, 150:374],
        "Student-t(3) 96x160": rng.standard_t(3, (96, 160)),
    }


def standardise(W: Array) -> Array:
    return (W - W.mean()) / W.std(ddof=1)


def lloyd_max(W: Array, bits: int, rounds: int = 500) -> float:
    """MSE of the best 2^bits free levels, by Lloyd's iteration from quantiles."""
    x = np.sort(W.ravel())
    levels = np.quantile(x, (np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(rounds):
        edges = np.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
        parts = np.split(x, edges)
        levels = np.array([p.mean() if p.size else c for p, c in zip(parts, levels, strict=True)])
    return float(sum(((p - c) ** 2).sum() for p, c in zip(parts, levels, strict=True)) / x.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="1,2,3", help="comma-separated")
    parser.add_argument("--paper-steps", type=int, default=50_000, help="0 leaves it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rd100", metavar="FILE", help="TSPLIB file with the points of Distance")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    rows: list[dict[str, object]] = []
    for name, matrix in matrices(args.rd100).items():
        W = standardise(matrix)
        for bits in map(int, args.bits.split(",")):
            uniform = float(((uniform_quantisation(W, bits) - W) ** 2).mean())
            row: dict[str, object] = {"matrix": name, "bits": bits, "uniform_mse": f"{uniform:.5f}"}
            row["lloyd_max_mse"] = f"{lloyd_max(W, bits):.5f}"
            runs: dict[str, dict[str, object]] = {e: {"effort": e} for e in ("fast", "default", "best")}
            if args.paper_steps:
                runs["paper"] = {"schedule": "paper", "steps": args.paper_steps}
            for label, options in runs.items():
                start = time.perf_counter()
                q = bqq.decompose(W, bits, threads=args.threads, **options)
                row[f"{label}_seconds"] = f"{time.perf_counter() - start:.2f}"
                row[f"{label}_mse"] = f"{q.mse(W):.5f}"
                row["bqq_bits_per_weight"] = f"{q.bits_per_weight:.3f}"
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
