"""Rows encoded with the codebook of a matrix: their error against the matrix's own, and microseconds a row.

    python -m bench.encode [--cases random,distance,photo] [--bits 1,2,3] [--threads N] [--csv FILE]

``own``: mean squared error of the rows the matrix was made of, encoded again, over that of the matrix. ``new``: the
matrix is made of every other row and the rest is encoded, over the error of the matrix. us: CPU time of a row.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Literal

import numpy as np

import bqq
from bench.machine import describe, write_csv
from bench.matrices import DATA, Options, cases

EFFORTS: tuple[Literal["fast", "default", "best"], ...] = ("fast", "default", "best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="random,student,distance,photo", help="comma-separated")
    parser.add_argument("--bits", default="1,2,3", help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    rows: list[dict[str, object]] = []
    for case in cases(args.cases.split(","), Options(data=args.data)):
        W = np.asarray(case.W, np.float32)
        for p in map(int, args.bits.split(",")):
            side = max(W.shape)
            whole, half = (bqq.decompose(w, p, patch=side, threads=args.threads) for w in (W, W[::2]))
            for effort in EFFORTS:
                start = time.process_time()
                again = bqq.encode(whole, W, effort=effort, threads=args.threads)
                seconds = time.process_time() - start
                new = bqq.encode(half, W[1::2], effort=effort, threads=args.threads)
                rows.append(
                    {
                        "matrix": case.name,
                        "shape": "x".join(map(str, W.shape)),
                        "bits": p,
                        "effort": effort,
                        "own": f"{again.mse(W) / whole.mse(W):.4f}",
                        "new": f"{new.mse(W[1::2]) / half.mse(W[::2]):.3f}",
                        "us": f"{1e6 * seconds / len(W):.0f}",
                    }
                )
                print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
