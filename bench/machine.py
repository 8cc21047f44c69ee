"""What every benchmark prints and writes: the machine, the versions, medians of interleaved runs, a CSV file."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

import bqq

ROOT = Path(__file__).resolve().parents[1]


@cache
def commit() -> str:
    """Of this checkout, with "+" if tracked files differ from it; empty where there is no git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


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
    machine, earlier = read_csv(path)
    if machine != describe():
        print(f"{path}: from another machine or other versions, replaced")
        return rows
    new = {tuple(str(row[key]) for key in keys) for row in rows}
    return [*(dict[str, object](row) for row in earlier if tuple(row.get(key, "") for key in keys) not in new), *rows]


def read_csv(path: Path) -> tuple[str, list[dict[str, str]]]:
    """The machine and the rows of a file of :func:`write_csv`, also of one from before rows had a commit."""
    machine, *lines = path.read_text().splitlines()
    return machine.lstrip("# "), [{"commit": ""} | row for row in csv.DictReader(lines)]


def write_csv(path: str | os.PathLike[str], rows: Iterable[Mapping[str, object]], quiet: bool = False) -> None:
    """The machine in the first line, then the rows, with the commit that measured each: this one if it names none."""
    rows = [{"commit": commit()} | dict(row) for row in rows]
    columns = [*dict.fromkeys(name for row in rows for name in row if name != "commit"), "commit"]
    with open(path, "w", newline="") as file:
        file.write(f"# {describe()}\n")
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    if not quiet:
        print(f"wrote {path}")
