"""What a cell can measure on a matrix: functions of W, a progress report and settings that give plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

import bqq
from bench.coded import Array, bqq_bytes, mse, rank_of
from bench.machine import interleaved
from bench.time_steps import timed

from . import anneal
from .baselines import BASELINES
from .cells import Report, Result

METHODS: dict[str, dict[str, Any]] = {
    "paper": {"schedule": "paper"},
    "fast": {"effort": "fast"},
    "default": {},
    "best": {"effort": "best"},
}


def baseline(W: Array, report: Report, method: str, bits: int) -> Result:
    """One of baselines.BASELINES; mse and bytes are None where nothing fits into the bytes."""
    coded = BASELINES[method](W, bits)
    return {"mse": mse(coded.What, W) if coded else None, "bytes": coded.bytes if coded else None}


def stacks(
    W: Array,
    report: Report,
    method: str,
    counts: list[int],
    scale: float = 1,
    steps: int | None = None,
    seed: int = 0,
    threads: int = 1,
) -> Result:
    """BQQ with several numbers of stacks in one greedy run: rows of p, l, mse, bytes, seconds so far, scales.

    ``scale`` is the paper's l-scale. One block up to 512 x 512, the default blocks beyond. ``bytes`` is the paper's
    account, ``stored`` what bqq stores, padding included. Scales of the first block.
    """
    layout = bqq.decompose(W, 1, 1, steps=1, refine=False)  # only to ask which blocks are the default
    (rows, cols), blocks = layout.patch, layout.grid[0] * layout.grid[1]
    l = rank_of(rows, cols, scale)
    options = {"steps": steps, "seed": seed, "threads": threads, **METHODS[method]}
    found: list[bqq.Matrix] = []
    wall = cpu = 0.0
    result = []
    for p in counts:
        done = found[-1].p if found else 0

        def progress(step: int, total: int, done: int = done, p: int = p) -> None:
            report(int(1000 * (done + (p - done) * step / max(total, 1))), 1000 * counts[-1])

        def job(p: int = p, progress: Any = progress) -> None:
            if found:
                found.append(bqq.extend(found[-1], W, p, progress=progress, **options))
            else:
                found.append(bqq.decompose(W, p, l, progress=progress, **options))

        seconds = timed(job)
        wall, cpu = wall + seconds[0], cpu + seconds[1]
        q = found[-1]
        row: Result = {"p": p, "l": l, "mse": q.mse(W), "bytes": bqq_bytes(rows, cols, p, l, blocks)}
        row |= {"stored": q.nbytes, "seconds": round(wall, 4), "cpu_seconds": round(cpu, 4)}
        row["scales"] = [round(float(a), 6) for a in q.scales[0, 0]]
        result.append(row)
    return {"rows": result, "blocks": blocks}


def planned(W: Array, report: Report, bits: int, seed: int = 0, threads: int = 1) -> Result:
    """bqq.plan for the bytes that ``bits`` stacks of l-scale 1 take, then decompose with its default effort.

    The plan keeps to these bytes with the padding that bqq stores; ``bytes`` are without, as everywhere. Where not even
    one stack fits mse and bytes are None.
    """
    layout = bqq.decompose(W, 1, 1, steps=1, refine=False)
    (rows, cols), blocks = layout.patch, layout.grid[0] * layout.grid[1]
    allowed = bqq_bytes(rows, cols, bits, rank_of(rows, cols), blocks)
    common: dict[str, Any] = {"seed": seed, "threads": threads}
    try:
        plan = bqq.plan(W, 8 * allowed / W.size, **common, progress=lambda done, of: report(done, 2 * of))
    except ValueError:
        return {"mse": None, "bytes": None}
    options: dict[str, Any] = plan._asdict()
    q = bqq.decompose(W, **options, **common, progress=lambda done, of: report(of + done, 2 * of))
    (rows, cols), blocks = q.patch, q.grid[0] * q.grid[1]
    return {"mse": q.mse(W), "bytes": bqq_bytes(rows, cols, q.p, q.l, blocks), "stored": q.nbytes, **options}


def annealed(W: Array, report: Report, p: int, steps: int, joint: bool, seed: int = 0) -> Result:
    """The published descent of anneal.py, greedy or joint, at l-scale 1."""
    What = anneal.decompose(W, p, rank_of(*W.shape), steps, joint, seed, report)
    return {"mse": mse(What, W)}


def bound(W: Array, report: Report, scale: float) -> Result:
    """Upper bounds from singular vectors for one stack, as mean squared errors: the paper's, and the tighter one."""
    m, n = W.shape
    l = rank_of(m, n, scale)
    values = (bqq.error_bound(W, l, tight=tight) ** 2 / W.size for tight in (False, True))
    return {"l": l, **dict(zip(("paper", "tight"), values, strict=True))}


def product(W: Array, report: Report, p: int, batch: int, threads: int, rounds: int) -> Result:
    """Seconds of ``q @ X`` against NumPy's float32 product, taking turns; what a product moves and does.

    The bits are those of one step: time does not depend on them.
    """
    q = bqq.decompose(W, p, steps=1, refine=False)
    dense = W.astype(np.float32)
    X = np.random.default_rng(0).standard_normal((W.shape[1], batch)).astype(np.float32)
    out = np.empty((W.shape[0], batch), np.float32)

    def repeated(job: Any) -> Any:
        once = min(timed(job)[0] for _ in range(3))
        count = max(1, min(1000, int(2e-3 / max(once, 1e-7))))

        def loop() -> None:
            for _ in range(count):
                job()

        return loop, count

    jobs = {
        "numpy": lambda: np.matmul(dense, X, out=out),
        "float32": lambda: bqq.matmul(q, X, out=out, threads=threads),
        "fast": lambda: bqq.matmul(q, X, out=out, threads=threads, precision="fast"),
    }
    loops = {name: repeated(job) for name, job in jobs.items()}
    medians = interleaved({name: loop for name, (loop, _) in loops.items()}, rounds)
    m, n = W.shape
    cost = bqq.cost(q, batch)
    return {
        **{f"us_{name}": round(1e6 * medians[name] / loops[name][1], 3) for name in jobs},
        "l": q.l,
        "bytes": cost["bytes"],
        "weight_bytes": q.nbytes,
        "bit_additions": cost["bit_operations"],
        "dense_bytes": 4 * (m * n + (m + n) * batch),
        "dense_weight_bytes": 4 * m * n,
        "dense_multiply_adds": m * n * batch,
    }
