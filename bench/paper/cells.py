"""Cells: single measurements, keyed by their settings and kept in one file, so that no run does one twice."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import bqq
from bench.machine import commit, cpu_name
from bench.matrices import Case

Result = dict[str, Any]
Report = Callable[[int, int], object]
Measure = Callable[..., Result]


class Cell(NamedTuple):
    """``measure(W, report=..., **settings)`` of one matrix."""

    measure: Measure
    case: Case
    settings: Mapping[str, Any]
    weight: float = 1  # of the work, for the progress bar

    @property
    def key(self) -> str:
        """The same on every run with the same matrix, settings, solver and instruction set."""
        matrix = f"{self.case.key} {self.case.fingerprint}"
        parts = {"measure": self.measure.__name__, "matrix": matrix, "bqq": _library(), **self.settings}
        if "threads" in self.settings:  # its time is what is measured
            parts["machine"] = cpu_name()
        return json.dumps(parts, sort_keys=True)


@cache
def _library() -> str:
    """Version, instruction set, and what the solver makes of a few small matrices: another solver measures again."""
    config = bqq.show_config("dict")
    assert config is not None
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (40, 2))
    kinds = (
        rng.standard_normal((32, 40)),
        rng.standard_t(3, (40, 32)),
        rng.exponential(size=(48, 32)),
        np.sqrt(((points[:, None] - points) ** 2).sum(-1)),
    )
    made = hashlib.sha256()
    for W in kinds:
        for settings in ({"effort": "fast"}, {"effort": "default"}, {"schedule": "paper", "steps": 200}):
            made.update(bqq.decompose(W, 2, threads=1, **settings).reconstruct().tobytes())
    made.update(bqq.decompose(kinds[0], 1, l=36, threads=1).reconstruct().tobytes())  # wide l has rules of its own
    return f"{config['version']} {config['isa']} {made.hexdigest()[:12]}"


class Store:
    """The finished cells of a folder: ``cells.jsonl``, a line each, written as they finish."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "cells.jsonl"
        self._found: dict[str, Result] = {}
        self._commits: dict[str, str] = {}
        text = self._path.read_text("utf-8") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                cell = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off in the middle of a line: measured again
            key = json.dumps(cell["key"], sort_keys=True)
            self._found[key], self._commits[key] = cell["result"], cell.get("commit", "")
        if text and not text.endswith("\n"):
            with open(self._path, "a", encoding="utf-8") as file:
                file.write("\n")

    def get(self, cell: Cell) -> Result | None:
        return self._found.get(cell.key)

    def commits(self, cells: Iterable[Cell]) -> str:
        """Those at which the cells were measured, as far as it is known."""
        return " ".join(sorted({self._commits.get(cell.key, "") for cell in cells} - {""}))

    def run(self, cells: Iterable[Cell], title: str, until: float = float("inf"), jobs: int = 1) -> int:
        """Measure those that are missing, `jobs` at once, beginning none after the time.monotonic() ``until``.

        Returns how many are left."""
        from tqdm.auto import tqdm

        missing = {cell.key: cell for cell in cells if cell.key not in self._found}
        if not missing:
            return 0
        waiting, pending = iter(missing.items()), dict[Future[Result], str]()
        done, parts = 0.0, dict[str, float]()  # weights: of finished cells, and of those under way
        cancelled = threading.Event()

        def measured(key: str, cell: Cell) -> Result:
            def report(part: int, whole: int) -> None:
                if cancelled.is_set():
                    raise KeyboardInterrupt
                parts[key] = cell.weight * part / max(whole, 1)

            start = time.perf_counter()
            result = cell.measure(cell.case.W, report=report, **cell.settings)
            result.setdefault("seconds", round(time.perf_counter() - start, 4))
            return result

        total = sum(cell.weight for cell in missing.values())
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        with tqdm(total=total, desc=title, bar_format=layout) as bar, ThreadPoolExecutor(jobs) as pool:
            try:
                while True:
                    while len(pending) < jobs and time.monotonic() <= until and (item := next(waiting, None)):
                        key, cell = item
                        parts[key] = 0
                        pending[pool.submit(measured, key, cell)] = key
                        words = " ".join(f"{name}={value}" for name, value in cell.settings.items())
                        bar.set_postfix_str(f"{cell.case.key} {words}"[:70])
                    if not pending:
                        break
                    for finished in wait(pending, timeout=0.2, return_when=FIRST_COMPLETED).done:
                        key = pending.pop(finished)
                        self._put(key, finished.result())
                        done += missing[key].weight
                        del parts[key]
                    bar.n = min(done + sum(parts.values()), total)  # by update() it could end a rounding above
                    bar.refresh()
            except BaseException:
                cancelled.set()
                raise
        return sum(key not in self._found for key in missing)

    def _put(self, key: str, result: Result) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": json.loads(key), "commit": commit(), "result": result}) + "\n")
        self._found[key], self._commits[key] = result, commit()
