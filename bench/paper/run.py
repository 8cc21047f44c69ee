"""What a run covers: matrices and how much work each measurement may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.coded import rank_of
from bench.matrices import Case, standardise
from bench.published import CROPS

from .cells import Cell
from .measures import stacks

COUNTS: dict[float, tuple[int, ...]] = {  # l-scale: numbers of stacks, those of Table S.4 and six for the decay
    0.25: (4, 8, 12, 16),
    0.5: (2, 4, 6, 8),
    1: (1, 2, 3, 4, 6),
    1.5: (1, 2),
    2: (1, 2),
}
BITS = (1, 2, 3, 4)
LARGE = 512 * 512  # elements; beyond, BQQ works in blocks and the published schedule would take hours
SMALL = 128 * 128  # elements; up to here several seeds are affordable
_SECONDS = {"paper": 3.0, "fast": 0.13, "default": 0.9, "best": 3.8}  # a stack of 128 x 128: weights of the bar


@dataclass(frozen=True)
class Run:
    cases: Sequence[Case]
    methods: Sequence[str] = ("paper", "fast", "default", "best")  # of BQQ
    ours: str = "default"  # the method that stands for bqq where only one is shown
    paper_steps: int = 50_000
    seeds: int = 3
    steps: Sequence[int] = (1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)  # experiment "steps"
    joint_steps: Sequence[int] = (1000, 3000, 10_000, 20_000)
    batches: Sequence[int] = (1, 16, 256)
    rounds: int = 21  # of a timing
    scales: Sequence[float] = tuple(COUNTS)
    bits: Sequence[int] = BITS

    def seeds_of(self, case: Case, method: str) -> range:
        """Several where they are cheap."""
        few = case.W.size > SMALL or method == "best"
        return range(1 if few else self.seeds)

    def methods_of(self, case: Case) -> list[str]:
        """The published schedule and the longest search are left out where they would take hours."""
        large = case.W.size > LARGE
        return [method for method in self.methods if not (large and method in ("paper", "best"))]

    def chain(self, case: Case, method: str, scale: float = 1, seed: int = 0, **more: Any) -> Cell:
        """BQQ at an l-scale with all its numbers of stacks."""
        counts = [p for p in COUNTS[scale] if p <= max(self.bits) / scale or (scale == 1 and self._decays(case))]
        settings: dict[str, Any] = {"method": method, "counts": counts, "scale": scale, "seed": seed, **more}
        settings["steps"] = settings.get("steps", self.paper_steps if method == "paper" else None)
        m, n = case.W.shape
        weight = _SECONDS[method] * settings["counts"][-1] * scale * m * n / SMALL
        if method == "paper":
            weight *= rank_of(min(m, 512), min(n, 512)) / 64 * settings["steps"] / 50_000
        return Cell(stacks, case, settings, max(weight, 0.01))

    def _decays(self, case: Case) -> bool:
        return case.W.size <= LARGE and max(self.bits) >= max(BITS)


def reviewed(case: Case) -> Case | None:
    """The matrix as the reviews compare it: its centre, standardised again. None if they do not have its kind."""
    side = CROPS.get(case.kind)
    m, n = case.W.shape
    if side is None or min(m, n) < side:
        return None
    if (m, n) == (side, side):
        return case
    top, left = (m - side) // 2, (n - side) // 2
    W = standardise(case.W[top : top + side, left : left + side])
    name = f"{case.name.rpartition(' ')[0]}, centre {side}x{side}"
    return Case(f"{case.key}_{side}", name, f"centre of {case.source}", W, case.kind, case.same)
