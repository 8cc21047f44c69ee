"""The product from bit planes against the dense float32 product of NumPy's BLAS, interleaved in one process.

    python bench/bench_matmul.py [--shapes 4096x4096,...] [--p 2] [--batch 1,4,16,64] [--patch 128] [--threads 1]

Set OPENBLAS_NUM_THREADS (or your BLAS's variable) to the same number of threads. Planes are random bits: speed does not
depend on their values.
"""

from __future__ import annotations

import argparse

import numpy as np

import bqq
from machine import describe, interleaved, write_csv


def random_planes(rng: np.random.Generator, m: int, n: int, p: int, patch: int) -> bqq.Matrix:
    rows, cols = min(m, patch), min(n, patch)
    J, K, l = m // rows, n // cols, max(1, round(rows * cols / (rows + cols)))
    Y = rng.integers(0, 2, (J, K, p, rows, l), dtype=np.uint8)
    Z = rng.integers(0, 2, (J, K, p, l, cols), dtype=np.uint8)
    return bqq.Matrix.from_factors(Y, Z, rng.normal(0, 0.1, (J, K, 3 * p + 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="384x384,1536x384,4096x4096")
    parser.add_argument("--p", type=int, default=2)
    parser.add_argument("--batch", default="1,4,16,64")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for shape in args.shapes.split(","):
        m, n = map(int, shape.split("x"))
        q = random_planes(rng, m, n, args.p, args.patch)
        W = q.reconstruct()
        for batch in map(int, args.batch.split(",")):
            X = rng.standard_normal((n, batch)).astype(np.float32)
            out, dense = np.empty((m, batch), np.float32), np.empty((m, batch), np.float32)
            jobs = {
                "bqq": lambda q=q, X=X, out=out: bqq.matmul(q, X, out, threads=args.threads),
                "numpy": lambda W=W, X=X, dense=dense: np.matmul(W, X, dense),
            }
            seconds = interleaved(jobs, args.rounds)
            row: dict[str, object] = {"shape": shape, "p": args.p, "patch": args.patch}
            row |= {"batch": batch, "threads": args.threads}
            row |= {f"{name}_us": f"{1e6 * value:.1f}" for name, value in seconds.items()}
            row["speedup"] = f"{seconds['numpy'] / seconds['bqq']:.2f}"
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
