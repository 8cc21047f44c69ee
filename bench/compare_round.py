"""One round of bench.compare in a process of its own: what the bqq that it is given takes, or computes.

python -m bench.compare_round '{"bench": "matmul", "site": DIR or null, "threads": 1, "quick": false}' prints
{row: seconds}, of hashes {row: hash}, and of config what show_config says.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import bqq
from bench import hashes
from bench.inputs import fast_class, random_matrix

Job = Callable[[], object]


def pin(threads: int) -> None:
    """This process to the last so many cores that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def matmul_jobs(threads: int, quick: bool) -> Iterator[tuple[str, Job]]:
    """Products from both sides at both precisions; blocks of 128 where the matrix is larger than 512."""
    shapes = ((96, 64),) if quick else ((384, 384), (1536, 384), (4096, 4096))
    for m, n in shapes:
        J, K = (1, 1) if max(m, n) <= 512 else (m // 128, n // 128)
        rng = np.random.default_rng([m, n])
        l = max(1, round(m // J * (n // K) / (m // J + n // K)))
        for p in (2,) if quick or m < 4096 else (2, 4):
            q = random_matrix(rng, m, n, p, J, K, l)
            for batch in (1, 8) if quick else (1, 4, 16, 64, 256):
                X = rng.standard_normal((n, batch), dtype=np.float32)
                V = rng.standard_normal((batch, m), dtype=np.float32)
                for precision in ("float32", fast_class()):
                    options: Any = {"precision": precision, "threads": threads}
                    name = f"{m}x{n} p={p} batch {batch} {'float32' if precision == 'float32' else 'fast'}"
                    yield f"q @ X {name}", partial(bqq.matmul, q, X, np.empty((m, batch), np.float32), **options)
                    if p == 2 and batch in (1, 16):
                        yield f"X @ q {name}", partial(bqq.matmul, V, q, np.empty((batch, n), np.float32), **options)


def decompose_jobs(threads: int, quick: bool) -> Iterator[tuple[str, Job]]:
    """Searches of every kind, the longest of a second."""
    cases: tuple[tuple[int, int, int, dict[str, Any]], ...] = (
        (64, 64, 1, {"effort": "fast"}),
        (128, 128, 1, {}),
        (128, 128, 2, {"effort": "fast"}),
        (128, 128, 1, {"schedule": "paper", "steps": 2000}),
        (96, 160, 2, {"effort": "fast", "weight": "full"}),
        (384, 384, 1, {"steps": 100, "refine": 200}),
        (512, 512, 1, {"effort": "fast", "patch": 128}),
    )
    if quick:
        cases = ((24, 24, 1, {"steps": 20, "refine": 5}),)
    for m, n, p, given in cases:
        options = dict(given)
        if "weight" in options:
            options["weight"] = hashes.weight(n, 0, options["weight"])
        W = hashes.matrix("gauss", m, n, 0)
        words = " ".join(f"{name}={value}" for name, value in given.items())
        yield f"{m}x{n} p={p} {words}".strip(), partial(bqq.decompose, W, p, threads=threads, **options)


def least_seconds(job: Job, threads: int, budget: float) -> float:
    """The shortest of a few calls within about so many seconds: CPU time on one thread, wall time on more."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = time.perf_counter()
    job()
    repeats = int(np.clip(1e-3 / max(1e-7, time.perf_counter() - start), 1, 1000))  # of a millisecond at least
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 2 or time.perf_counter() - begun < budget:
        start = clock()
        for _ in range(repeats):
            job()
        found.append((clock() - start) / repeats)
    return min(found)


def main() -> None:
    asked = json.loads(sys.argv[1])
    site, threads, quick = asked["site"], asked["threads"], asked["quick"]
    where = Path(bqq.__file__).resolve()
    if site is not None and Path(site).resolve() not in where.parents:
        raise SystemExit(f"import bqq finds {where} (an editable install?), not that of {site}")
    if asked["bench"] == "config":
        print(json.dumps(bqq.show_config("dict")))
        return
    if asked["bench"] == "hashes":
        print(json.dumps(dict(hashes.lines(quick))))
        return
    pin(threads)
    jobs = matmul_jobs if asked["bench"] == "matmul" else decompose_jobs
    budget = 0.0 if quick else 0.03
    print(json.dumps({name: least_seconds(job, threads, budget) for name, job in jobs(threads, quick)}))


if __name__ == "__main__":
    main()
