"""Vector codes beside what else can be installed, at equal bytes: recall, queries a second, training, encoding.

    python -m bench.ann [--sets sift,glove,minilm,fashion,wordllama,clustered] [--bytes 16,32,64] [--seeds 3]
                        [--peers all|none|NAME,NAME] [--csv FILE]

Exhaustive search, one thread, times of the processor, searches of ours and of FAISS's fast scan in turns. bytes: all
that is stored for a vector, norms and factors counted. recall: of the true 10 nearest by L2, how many are among the 10
found; recall1: the true nearest is. `bqq.Matrix`: rows of a compressed matrix as they stand, Z binary, no norm stored.
Packages: see bench/ann_sets.py for the sets, bench/ann_peers.py for the peers. Pictures: python -m bench.plot_ann.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bqq
from bench.ann_peers import faiss, fast_scan, limited, peers, row, timed
from bench.ann_sets import SETS, Vectors, load
from bench.machine import describe, with_earlier, write_csv
from bench.matrices import DATA, Missing
from bqq import ann

ROUNDS = 7
KEYS = ("set", "method", "bytes", "seed")


def ours(name: str, v: Vectors, size: int, seed: int) -> Iterator[dict[str, object]]:
    """Our codes, and FAISS's fast scan at as many bytes in turns with them."""
    codec, train_s = timed(lambda: ann.train(v.train, size, seed=seed, threads=1))
    codes, encode_s = timed(lambda: codec.encode(v.base, threads=1))
    part = v.base[:10000]
    fast_s = timed(lambda: codec.encode(part, effort="fast", threads=1))[1]
    index = ann.Index(codec)
    index.add_codes(codes)
    peer = fast_scan(v.base.shape[1], size)
    peer_train = timed(lambda: peer.train(v.train))[1]
    peer_encode = timed(lambda: peer.add(v.base))[1]
    jobs: dict[str, Callable[[], Any]] = {
        "bqq": lambda: index.search(v.queries, 10, threads=1)[1],
        "PQ4fs": lambda: peer.search(v.queries, 10)[1],
    }
    if len(codec.stages) > 1:
        jobs["bqq coarse=1"] = lambda: index.search(v.queries, 10, coarse=1, threads=1)[1]
    if len(codec.stages) > 2:
        jobs["bqq coarse=2"] = lambda: index.search(v.queries, 10, coarse=2, threads=1)[1]
    found = {key: job() for key, job in jobs.items()}
    times: dict[str, list[float]] = {key: [] for key in jobs}
    for _ in range(ROUNDS):
        for key, job in jobs.items():
            times[key].append(timed(job)[1])
    for key, ids in found.items():
        start = {"set": name, "method": key, "bytes": size + ("coarse" in key), "seed": seed}
        seconds = float(np.median(times[key]))
        if key == "PQ4fs":
            yield start | row(v, ids, seconds, peer_encode, peer_train)
        else:
            yield start | row(v, ids, seconds, encode_s, train_s) | {"fast_encode_s": f"{len(part) / fast_s:.0f}"}


def matrix(name: str, v: Vectors, size: int) -> dict[str, object]:
    """Y of 8 size bits a row, Z of the training rows."""
    l = 8 * size // (p := max(1, 8 * size // v.base.shape[1]))
    trained, train_s = timed(lambda: bqq.decompose(v.train, p, l=l, patch=max(v.train.shape), threads=1))
    q, encode_s = timed(lambda: bqq.encode(trained, v.base, threads=1))
    ann.search(q, v.queries, 10, metric="l2", threads=1)
    (_, ids), search_s = timed(lambda: ann.search(q, v.queries, 10, metric="l2", threads=1))
    return {"set": name, "method": "bqq.Matrix", "bytes": size, "seed": 0} | row(v, ids, search_s, encode_s, train_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument("--bytes", default="16,32,64", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", default="all", help="comma-separated, all or none: PQ4fs is always there")
    parser.add_argument("--matrix", action="store_true", help="rows of a bqq.Matrix, too: minutes at 32 bytes")
    parser.add_argument("--limit", type=int, default=600, metavar="SECONDS", help="of the processor, for each peer")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="written after each set and size; other rows stay")
    args = parser.parse_args()
    print(describe(), f"; FAISS {faiss().__version__}, {faiss().get_compile_options().strip()}")
    rows: list[dict[str, object]] = []

    def keep(new: dict[str, object]) -> None:
        rows.append(new)
        print("  ".join(f"{key} {value}" for key, value in new.items()), flush=True)
        if args.csv:
            write_csv(args.csv, with_earlier(args.csv, rows, KEYS), quiet=True)

    for name in args.sets.split(","):
        try:
            v = load(name, args.data)
        except Missing as missing:
            print(missing)
            continue
        print(name, v.base.shape, flush=True)
        sizes = [int(size) for size in args.bytes.split(",")]
        for size in sizes:
            for seed in range(args.seeds):
                for found in ours(name, v, size, seed):
                    keep(found)
            if args.matrix:
                keep(matrix(name, v, size))
        for size in [*sizes, 0]:
            for method in peers(name, v.base.shape[1], size):
                if args.peers == "all" or method in args.peers.split(","):
                    keep(limited(name, args.data, size, method, args.limit))


if __name__ == "__main__":
    main()
