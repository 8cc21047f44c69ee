"""The product from bit planes against other products, interleaved in one process.

    OPENBLAS_NUM_THREADS=1 python -m bench.matmul --csv FILE --plot FILE
    ... --shapes 4096x4096 --p 1,2,3,4 --batch 1,4,16,64,256 --patch 32,64,128,256 --threads 2 --cache hot,cold

Set OPENBLAS_NUM_THREADS (or your BLAS's variable) to the same number of threads. Planes are random bits: speed does not
depend on their values. "hot" repeats one matrix; "cold" rotates through copies of more than --cold-megabytes, as a
network of many layers does. Times are medians; on a loaded machine trust the CPU times and the ratios, which are to
NumPy's product in the same run. What an earlier run wrote to the CSV file and this one did not measure stays there.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import bqq
from bench.machine import describe, with_earlier, write_csv
from bench.peers import PEERS, Floats, available
from bench.plot_speeds import draw
from bqq import _core
from bqq._matrix import Matrix

Row = dict[str, object]
BITS = {"2-bit": 2, "4-bit": 4, "int8": 8, "bfloat16": 16, "Q2_K": 3, "TQ2_0": 2, "Q4_0": 5}  # others: 32


def random_planes(rng: np.random.Generator, m: int, n: int, p: int, patch: int) -> bqq.Matrix:
    a = _core.layout(m, n, p, 0, patch)

    def plane(rows: int, bits: int) -> np.ndarray:
        packed = rng.integers(0, 256, (a["J"], a["K"], p, rows, -(-bits // 8)), dtype=np.uint8)
        if bits % 8:
            packed[..., -1] &= (1 << bits % 8) - 1
        return packed

    Y, Z = plane(a["rows"], a["l"]), plane(a["l"], a["cols"])
    if a["J"] * a["rows"] != m or a["K"] * a["cols"] != n:
        raise SystemExit(f"{m}x{n} does not fall into whole blocks of {patch}")
    scales = rng.normal(0, 0.1, (a["J"], a["K"], 3 * p + 1)).astype(np.float32)
    return Matrix(_core.Matrix(m, n, Y, Z, scales))


def measure(
    jobs: Mapping[str, Callable[[], object]], threads: int, seconds: float, hot: bool
) -> dict[str, tuple[float, float]]:
    """Median wall and CPU microseconds of each job; they take turns in slices of about a millisecond, after a call that
    fills the caches if `hot`."""
    clock = time.thread_time if threads == 1 else time.process_time
    repeats = {}
    for name, job in jobs.items():
        job()
        start = time.perf_counter()
        job()
        repeats[name] = max(1, min(200, int(1e-3 / max(1e-7, time.perf_counter() - start))))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    begun = time.perf_counter()
    while len(samples[next(iter(jobs))]) < 5 or time.perf_counter() - begun < seconds:
        for name, job in jobs.items():
            if hot:
                job()
            wall, cpu = time.perf_counter(), clock()
            for _ in range(repeats[name]):
                job()
            samples[name].append(
                (1e6 * (time.perf_counter() - wall) / repeats[name], 1e6 * (clock() - cpu) / repeats[name])
            )
    return {name: (median(w for w, _ in s), median(c for _, c in s)) for name, s in samples.items()}


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def rotate(jobs: list[Callable[[], object]]) -> Callable[[], object]:
    for job in jobs:  # what is made on first use is not the product's time
        job()
    turn = itertools.cycle(jobs)
    return lambda: next(turn)()


def bqq_job(q: bqq.Matrix, X: Floats, precision: Any, threads: int) -> Callable[[], object]:
    out = np.empty((q.shape[0], X.shape[1]), np.float32)
    return lambda: bqq.matmul(q, X, out, precision=precision, threads=threads)


def run(args: argparse.Namespace, rng: np.random.Generator, usable: list[str]) -> list[Row]:
    rows: list[Row] = []
    for shape, cache, batch in itertools.product(args.shapes, args.cache, args.batch):
        m, n = map(int, shape.split("x"))
        X = rng.standard_normal((n, batch), dtype=np.float32)
        jobs: dict[str, Callable[[], object]] = {}

        def copies(nbytes: int, cold: bool = cache == "cold") -> int:
            return 1 + int(args.cold_megabytes * 1e6 // nbytes) if cold else 1

        W = rng.standard_normal((m, n), dtype=np.float32)
        for name in usable:
            bits = BITS.get(name.split()[-1], 32)
            dense = [W] + [W.copy() for _ in range(copies(m * n * bits // 8) - 1)]
            try:
                jobs[name] = rotate([PEERS[name](w, X, args.threads) for w in dense])
            except ValueError as error:
                print(f"{shape}: no {name} ({error})")
        for p, patch in itertools.product(args.p, args.patch):
            q = random_planes(rng, m, n, p, patch)
            all_q = [q] + [copy.copy(q) for _ in range(copies(q.nbytes) - 1)]
            for precision in args.precision:
                jobs[f"bqq {precision} p={p} patch={patch or 'default'}"] = rotate(
                    [bqq_job(q, X, precision, args.threads) for q in all_q]
                )
        times = measure(jobs, args.threads, args.seconds, cache == "hot")
        base = times["numpy float32"]
        for name, (wall, cpu) in times.items():
            threads = f"{args.threads} beside {args.busy}" if args.busy else args.threads
            row: Row = {"shape": shape, "batch": batch, "threads": threads, "cache": cache, "method": name}
            row |= {"wall_us": f"{wall:.1f}", "cpu_us": f"{cpu:.1f}"}
            row |= {"speedup": f"{base[0] / wall:.2f}", "cpu_speedup": f"{base[1] / cpu:.2f}"}
            rows.append(row)
        print(f"\n{shape}, batch {batch}, {args.threads} thread(s), {cache}")
        for name, (wall, cpu) in sorted(times.items(), key=lambda item: item[1][0]):
            print(f"  {name:28} {wall:10.1f} us  cpu {cpu:10.1f} us  {base[0] / wall:6.2f}x numpy", flush=True)
    return rows


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=words, default=words("384x384,1536x384,4096x4096,11008x4096,4096x11008"))
    parser.add_argument("--p", type=numbers, default=[2])
    parser.add_argument("--batch", type=numbers, default=numbers("1,4,16,64,256"))
    parser.add_argument("--patch", type=numbers, default=[0], help="largest block side; 0: the library's choice")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="beside N processes that use a core each")
    parser.add_argument("--cache", type=words, default=["hot"], metavar="hot,cold")
    parser.add_argument("--cold-megabytes", type=float, default=200)
    parser.add_argument("--precision", type=words, default=words("float32,fast"))
    parser.add_argument("--peers", type=words, default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=2, help="for each shape and batch")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    usable, absent = available(list(dict.fromkeys(["numpy float32", *args.peers])))
    for name, reason in absent.items():
        print(f"absent: {name} ({reason})")
    with beside(args.busy):
        rows = run(args, np.random.default_rng(0), usable)
    if args.csv:
        rows = with_earlier(args.csv, rows, ("shape", "batch", "threads", "cache", "method"))
        write_csv(args.csv, rows)
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
