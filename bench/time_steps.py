"""Cost of one descent step of the published schedule: every instruction set of the build, and PyTorch.

Each instruction set runs in a process of its own (BQQ_ISA); all of them and PyTorch take turns, and medians are taken.
Called by decompose.py; as a program it is the worker: lines "size steps threads" in, "seconds cpu_seconds" out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

import bqq
from bench.machine import ROOT

STEPS = {64: 800, 128: 400, 384: 40}  # of bqq in one turn; PyTorch does an eighth
Seconds = tuple[float, float]  # wall clock, CPU of all threads


def timed(job: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - cpu


def noise(size: int) -> Any:
    return np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)


class Worker:
    """A process of its own that times bqq with one instruction set."""

    def __init__(self, isa: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.time_steps"],
            cwd=ROOT,
            env={**os.environ, "BQQ_ISA": isa},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, size: int, steps: int, threads: int) -> Seconds:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(size, steps, threads, file=self._process.stdin, flush=True)
        wall, cpu = map(float, self._process.stdout.readline().split())
        return wall / steps, cpu / steps

    def close(self) -> None:
        self._process.communicate()


def work() -> None:
    for line in sys.stdin:
        size, steps, threads = map(int, line.split())
        W = noise(size)
        wall, cpu = timed(partial(bqq.decompose, W, 1, schedule="paper", steps=steps, threads=threads))
        print(wall, cpu, flush=True)


class TorchSteps:
    """Steps of the PyTorch baseline on a block, for timing: each number of threads goes on where it was."""

    def __init__(self, W: Any, l: int, threads: int) -> None:
        import torch

        from bench.torch_amfd import Stack

        self._torch = torch
        self._stack = Stack(torch.from_numpy(np.asarray(W, np.float32)), l, torch.Generator().manual_seed(0))
        self._times: dict[int, list[Seconds]] = {count: [] for count in sorted({1, threads})}
        self.measured = 0

    def turn(self, steps: int, keep: bool = True, limit: float = 2.0) -> None:
        """Up to so many steps with each number of threads, fewer if they take longer than limit seconds."""
        for threads, times in self._times.items():
            self._torch.set_num_threads(threads)
            wall, cpu, done = time.perf_counter(), time.process_time(), 0
            while done < steps and (done == 0 or time.perf_counter() - wall < limit):
                self._stack.step()
                done += 1
            if keep:
                times.append(((time.perf_counter() - wall) / done, (time.process_time() - cpu) / done))
                self.measured += done

    def step(self) -> tuple[float, float, int]:
        """Median seconds and CPU seconds of a step, and the threads used: more threads only where they help.

        Small products gain nothing from a second thread, and on a busy machine lose much: a baseline slowed by
        threads nobody would use proves nothing.
        """
        medians = {count: tuple(median(t[i] for t in times) for i in (0, 1)) for count, times in self._times.items()}
        best = min(medians, key=lambda count: medians[count][0])
        return medians[best][0], medians[best][1], best


def have_torch() -> bool:
    try:
        import torch
    except ImportError:
        print("skipped PyTorch: pip install torch", flush=True)
        return False
    return torch is not None


def isas() -> list[str]:
    config = bqq.show_config("dict")
    assert config is not None
    return config["isa_available"].split()


def step_costs(sizes: Sequence[int], threads: int, rounds: int, torch: bool) -> list[dict[str, object]]:
    """Rows of decompose_steps.csv: median microseconds of a step, and how many times PyTorch's that is."""
    rows: list[dict[str, object]] = []
    names = isas()
    workers = [Worker(isa) for isa in names]
    for size in sizes:
        steps = STEPS.get(size, max(10, 400 * 128**3 // size**3))
        baseline = TorchSteps(noise(size), size // 2, threads) if torch else None
        times: dict[str, list[Seconds]] = {name: [] for name in names}
        for turn in range(rounds + 1):  # the first warms up
            for name, worker in zip(names, workers, strict=True):
                found = worker.run(size, steps // 8 if name == "generic" else steps, threads)
                times[name] += [found] if turn else []
            if baseline is not None:
                baseline.turn(max(5, steps // 8), keep=turn > 0)
        medians = {name: (median(w for w, _ in found), median(c for _, c in found)) for name, found in times.items()}
        used = threads
        if baseline is not None:
            *seconds, used = baseline.step()
            medians["PyTorch"] = (seconds[0], seconds[1])
        for name, (wall, cpu) in medians.items():
            row: dict[str, object] = {"size": size, "isa": name, "threads": threads}
            row |= {"step_us": f"{1e6 * wall:.1f}", "step_cpu_us": f"{1e6 * cpu:.1f}"}
            row["times_faster_than_torch"] = f"{medians['PyTorch'][0] / wall:.2f}" if baseline is not None else ""
            row["cpu_times_less_than_torch"] = f"{medians['PyTorch'][1] / cpu:.2f}" if baseline is not None else ""
            row["note"] = f"fastest with {used} thread{'s' * (used > 1)}" if name == "PyTorch" else ""
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)
    for worker in workers:
        worker.close()
    return rows


if __name__ == "__main__":
    work()
