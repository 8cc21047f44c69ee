"""Time over the number of blocks, and the memory of one large matrix.

Called by decompose.py; as a program it is the child that compresses one matrix and reports its own peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

import bqq
from bench.machine import ROOT
from bench.time_steps import timed


def measure(size: int, p: int, effort: str, threads: int, progress: bool = False) -> dict[str, object]:
    """One square matrix of normal numbers in a process of its own: a row of decompose_scaling.csv."""
    command = [sys.executable, "-m", "bench.measure_scaling", str(size), "--p", str(p), "--effort", effort]
    command += ["--threads", str(threads), *(["--progress"] if progress else [])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, object] = json.loads(done.stdout)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return row


def resident_bytes(peak: bool) -> int:
    """Memory in use now or at most. ru_maxrss would begin with that of the process that started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    name = "VmHWM:" if peak else "VmRSS:"
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", type=int)
    parser.add_argument("--p", type=int, default=2)
    parser.add_argument("--effort", default="default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    bqq.decompose(np.eye(16), 1, steps=5, threads=args.threads)  # threads and code are there before memory is counted
    before = resident_bytes(peak=False)
    W = np.random.default_rng(0).standard_normal((args.size, args.size), np.float32)
    found = []
    wall, cpu = timed(
        lambda: found.append(
            bqq.decompose(
                W, args.p, patch=128, effort=args.effort, threads=args.threads, progress=args.progress or None
            )
        )
    )
    peak = resident_bytes(peak=True)
    (q,) = found
    blocks = q.grid[0] * q.grid[1]
    row = {"size": args.size, "p": args.p, "patch": q.patch[0], "blocks": blocks, "effort": args.effort}
    row |= {"threads": args.threads, "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
    row |= {"ms_per_block": round(1000 * wall / blocks, 2), "cpu_ms_per_block": round(1000 * cpu / blocks, 2)}
    row |= {"mse": round(q.mse(W), 5), "input_mb": round(W.nbytes / 1e6, 1)}
    row["peak_over_input"] = round((peak - before) / W.nbytes, 2)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
