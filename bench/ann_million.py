"""A million vectors: seconds to train on a sample and to encode, and the memory beyond the vectors and their codes.

    python -m bench.ann_million [--vectors 1000000] [--dimensions 128] [--bytes 16] [--threads N] [--csv FILE]

Vectors around 1000 centres, made chunk by chunk. memory_mb: peak of the process, less what it had with the vectors in
it, less the codes.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from bench.machine import describe, write_csv
from bqq import ann

CHUNK = 50_000


def peak() -> float:
    """Of the process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--bytes", type=int, default=16)
    parser.add_argument("--sample", type=int, default=30_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    rng = np.random.default_rng(0)
    scale = np.arange(1, args.dimensions + 1, dtype=np.float32) ** -0.5
    centres = rng.standard_normal((1000, args.dimensions), np.float32)
    X = np.empty((args.vectors, args.dimensions), np.float32)
    for first in range(0, len(X), CHUNK):
        part = X[first : first + CHUNK]
        rng.standard_normal(out=part, dtype=np.float32)
        part += centres[rng.integers(0, 1000, len(part))]
        part *= scale
    before, start = peak(), time.perf_counter()
    codec = ann.train(X[:: max(1, len(X) // args.sample)], args.bytes, threads=args.threads, progress=True)
    trained = time.perf_counter()
    codes = codec.encode(X, threads=args.threads, progress=True)
    encoded = time.perf_counter()
    row = {
        "vectors": args.vectors,
        "dimensions": args.dimensions,
        "bytes": args.bytes,
        "threads": args.threads or "",
        "train_s": f"{trained - start:.1f}",
        "encode_s": f"{encoded - trained:.1f}",
        "memory_mb": f"{peak() - before - codes.nbytes / 2**20:.0f}",
    }
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    if args.csv:
        write_csv(args.csv, [row])


if __name__ == "__main__":
    main()
