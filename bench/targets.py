"""What the project set out to reach, and whether the figures of a run reach it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]

FASTER_STEP = {  # (size, instruction set): how many times faster than PyTorch a step must be
    (128, "avx2"): 6,
    (128, "avx512"): 10,
    (128, "bf16"): 25,
    (128, "amx"): 25,
    (384, "amx"): 8,
}
PUBLISHED = {1: 0.3253, 2: 0.1053}  # of the Gaussian after 50,000 steps
LIMITS = {
    ("Student-t(3) 96x160", 1): 0.36,
    ("Student-t(3) 96x160", 2): 0.13,
    ("Distance 100x100", 2): 0.0021,
    ("Distance 100x100", 3): 0.00065,
}
EFFORTS = ("fast", "default", "best")


def judge(errors: Rows, steps: Rows, scaling: Rows) -> Iterator[dict[str, object]]:
    """Rows of decompose_targets.csv. Targets whose figures were not measured are left out."""
    yield from _steps(steps)
    yield from _time_to_published(errors)
    yield from _errors(errors)
    yield from _scaling(scaling)


def verdict(target: str, limit: str, value: float, met: bool, how: str = "") -> dict[str, object]:
    return {
        "target": target,
        "limit": limit,
        "value": f"{value:.4g}",
        "verdict": "met" if met else "missed",
        "how": how,
    }


def _steps(rows: Rows) -> Iterator[dict[str, object]]:
    for row in rows:
        limit = FASTER_STEP.get((int(row["size"]), str(row["isa"])))
        if limit and row["times_faster_than_torch"]:
            value = float(row["times_faster_than_torch"])
            name = (
                f"step {row['size']}x{row['size']}, {row['isa']}, {row['threads']} threads, times faster than PyTorch"
            )
            yield verdict(name, f">= {limit}", value, value >= limit, f"{row['cpu_times_less_than_torch']} in CPU time")


def _time_to_published(rows: Rows) -> Iterator[dict[str, object]]:
    """Least seconds of a measured setting whose median error is within 1 % of the published one, against PyTorch."""
    for bits, published in PUBLISHED.items():
        of = [r for r in rows if r["matrix"] == "Gaussian 128x128" and int(r["bits"]) == bits]
        for threads in dict.fromkeys(str(r["threads"]) for r in of if r["method"] == "default"):
            ours = [r for r in of if str(r["threads"]) == threads and _adaptive(r)]
            default = next(r for r in ours if r["method"] == "default")
            if default is next(r for r in of if r["method"] == "default"):
                value = float(default["mse"]) / published
                yield verdict(f"Gaussian, p = {bits}: default over {published}", "<= 1.02", value, value <= 1.02)
            there = [r for r in ours if float(r["mse"]) <= 1.01 * published]
            torch = next((r for r in of if r["method"] == "torch" and str(r["threads"]) == threads), None)
            name = f"Gaussian, p = {bits}, {threads} threads: PyTorch seconds over ours to the published error + 1 %"
            if torch is None:
                continue
            if not there:
                yield verdict(name, ">= 100", 0, False, "not reached by any setting")
                continue
            first = min(there, key=lambda r: float(r["seconds"]))
            ratio = float(torch["seconds"]) / float(first["seconds"])
            cpu = float(torch["cpu_seconds"]) / float(first["cpu_seconds"])
            how = f"{cpu:.1f} in CPU time; {first['method']}: {first['seconds']} s against {torch['seconds']} s; "
            how += str(torch["note"])
            yield verdict(name, ">= 100", ratio, ratio >= 100, how)


def _adaptive(row: dict[str, Any]) -> bool:
    return row["method"] in EFFORTS or str(row["method"]).endswith(" steps")


def _errors(rows: Rows) -> Iterator[dict[str, object]]:
    first = str(next((r["threads"] for r in rows if r["method"] == "default"), ""))
    default = {
        (r["matrix"], int(r["bits"])): r for r in rows if r["method"] == "default" and str(r["threads"]) == first
    }
    full = [r for r in rows if r["method"] == "paper" and " 50000 steps" in str(r["note"])]
    schedule = {(r["matrix"], int(r["bits"])): r for r in full}
    for (matrix, bits), row in default.items():
        value, name = float(row["mse"]), f"{matrix}, p = {bits}: default"
        if row["paper_matrix"] == "same":
            limit = float(row["paper_mse"])
            yield verdict(f"{name} under Table S.4", f"< {limit}", value, value < limit, f"{value / limit:.3f} of it")
        elif (matrix, bits) in schedule:
            limit = float(schedule[matrix, bits]["mse"])
            how = f"{value / limit:.3f} of it; {schedule[matrix, bits]['note']}"
            yield verdict(f"{name} under the published schedule", f"< {limit}", value, value < limit, how)
        if (matrix, bits) in LIMITS and ("Distance" not in matrix or row["paper_matrix"] == "same"):
            bound = LIMITS[matrix, bits]
            yield verdict(name, f"<= {bound}", value, value <= bound)


def _scaling(rows: Rows) -> Iterator[dict[str, object]]:
    for threads in dict.fromkeys(row["threads"] for row in rows):
        curve = [r for r in rows if r["threads"] == threads and r["effort"] == "fast"]
        if len(curve) > 1:
            costs = [float(r["cpu_ms_per_block"]) for r in curve]
            sizes = f"{curve[0]['blocks']} to {curve[-1]['blocks']} blocks, {threads} threads"
            value = max(costs) / min(costs)
            yield verdict(f"CPU time per block, highest over lowest, {sizes}", "<= 1.2", value, value <= 1.2)
    for row in rows:
        if int(row["size"]) >= 4096:
            name = f"{row['size']}x{row['size']}, p = {row['p']}, {row['effort']}, {row['threads']} threads"
            memory, minutes = float(row["peak_over_input"]), float(row["seconds"]) / 60
            yield verdict(f"{name}: peak memory over input", "< 2.5", memory, memory < 2.5)
            yield verdict(f"{name}: minutes", "minutes", minutes, minutes < 60)


def report(rows: Iterable[dict[str, object]]) -> None:
    for row in rows:
        how = f"  ({row['how']})" if row["how"] else ""
        print(f"{row['verdict']:>6}  {row['target']}: {row['value']}, target {row['limit']}{how}")
