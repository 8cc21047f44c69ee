"""What every benchmark prints and writes: the machine, the versions, medians of interleaved runs, a CSV file."""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median

import numpy as np

import bqq


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe() -> str:
    config = bqq.show_config("dict")
    assert config is not None
    return (
        f"{cpu_name()}, {os.cpu_count()} cores; bqq {config['version']} ({config['isa']}, "
        f"{config['compiler']}), numpy {np.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}"
    )


def interleaved(jobs: Mapping[str, Callable[[], object]], rounds: int = 9) -> dict[str, float]:
    """Median seconds of each job; the jobs take turns, so that a loaded moment hits all of them."""
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def with_earlier(path: Path, rows: list[dict[str, object]], keys: tuple[str, ...]) -> list[dict[str, object]]:
    """The rows that an earlier run wrote to `path` and that were not measured again, in their order, then the new."""
    if not path.exists():
        return rows
    with open(path, newline="") as file:
        if file.readline() != f"# {describe()}\n":
            print(f"{path}: from another machine or other versions, replaced")
            return rows
        earlier = list(csv.DictReader(file))
    new = {tuple(str(row[key]) for key in keys) for row in rows}
    return [dict(row) for row in earlier if tuple(row[key] for key in keys) not in new] + rows


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, object]]) -> None:
    rows = list(rows)
    with open(path, "w", newline="") as file:
        file.write(f"# {describe()}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {path}")
