"""How one layer is compressed or tried, as a job that may run elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

import bqq

_AHEAD = 16  # jobs handed to an executor at a time: their weights are in memory
_SEARCH = {"steps": 100, "refine": 1000}  # bench.models.minilm --effort: error against time
_TRIAL = {"steps": 100, "refine": 100}
_ROWS = 256  # of a trial
_Array = np.ndarray[Any, Any]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Recipe:
    """The options of a run that its layers depend on."""

    bits: float
    patch: int | None
    effort: str | None
    guide: bool
    mixed: bool
    propagate: bool
    order: bool
    outliers: float | None
    tune: int  # steps
    seed: int
    threads: int | None = field(repr=False)  # the bits do not depend on it
    correct: int = field(repr=False)  # epochs; what comes before does not depend on them

    def decompose(self, W: _Array, H: _Array | None) -> bqq.Matrix:
        """Within about `bits` bits; order and outliers come on top."""
        how: dict[str, Any] = {"seed": self.seed, "threads": self.threads, "outliers": self.outliers}
        how |= {"effort": self.effort} if self.effort else _SEARCH
        if H is not None:
            how |= {"weight": H, "order": "weight" if self.order else None}
        if self.bits == int(self.bits):
            return bqq.decompose(W, int(self.bits), patch=self.patch, **how)
        chosen = bqq.plan(W, self.bits, weight=H, patch=self.patch, seed=self.seed, threads=self.threads)
        return bqq.decompose(W, **chosen._asdict(), **how)

    def trial(self, W: _Array, H: _Array) -> tuple[_Array, _Array, int, float]:
        """Some rows of W, drawn at random, at about `bits` bits: their places, what they are off by, the number of
        stacks, and what one of all of W takes per weight."""
        rows = np.sort(np.random.default_rng(self.seed).choice(len(W), min(len(W), _ROWS), replace=False))
        p = max(1, round(self.bits))
        whole = bqq.decompose(np.zeros_like(W), p, patch=self.patch, weight=H, steps=1, refine=False)
        how: dict[str, Any] = {"seed": self.seed, "threads": self.threads, "outliers": self.outliers, **_TRIAL}
        how |= {"patch": max(whole.patch), "weight": H, "order": "weight" if self.order else None}
        q = bqq.decompose(W[rows], p, **how)
        return rows, W[rows] - q.reconstruct(), p, whole.bits_per_weight / p


def run_jobs(executor: Any, jobs: Iterable[tuple[_T, Callable[..., _R], tuple[Any, ...]]]) -> Iterator[tuple[_T, _R]]:
    """What each job is about and what its function makes of its arguments, in the order of the jobs, which are drawn as
    they are needed."""
    if executor is None:
        for about, function, args in jobs:
            yield about, function(*args)
        return
    waiting: deque[tuple[_T, Any]] = deque()
    try:
        for about, function, args in jobs:
            waiting.append((about, executor.submit(function, *args)))
            if len(waiting) >= _AHEAD:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenExecutor as error:
        raise RuntimeError("executor is broken, a worker has died; with resume= finished layers are kept") from error
    finally:
        for _, future in waiting:
            future.cancel()


def _result(item: tuple[_T, Any]) -> tuple[_T, Any]:
    about, future = item
    return about, future.result()
