"""Error and time of every method on one matrix: the rows of decompose.csv."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import bqq
from bench.coded import mse
from bench.matrices import Array, Case
from bench.scalar import lloyd_max, uniform
from bench.time_steps import Seconds, TorchSteps, timed

EFFORTS: dict[str, dict[str, Any]] = {effort: {"effort": effort} for effort in ("fast", "default", "best")}
# between the efforts, where the time to the published error is looked for
CURVE: dict[str, dict[str, Any]] = {
    f"{steps} and {sweeps} steps": {"steps": steps, "refine": sweeps}
    for steps, sweeps in ((300, 5000), (300, 8000), (300, 10_000), (500, 10_000), (500, 12_000))
}
FULL = 50_000  # steps of a published run


@dataclass
class Settings:
    bits: Sequence[int] = (1, 2, 3)
    threads: Sequence[int] = (1, 2)
    seeds: int = 3
    curve: bool = True
    paper_steps: int = FULL
    torch: bool = True
    torch_timing: int = 2000
    torch_steps: int = 0


def rows_of_case(case: Case, settings: Settings) -> Iterator[dict[str, object]]:
    """One row per bits, method and number of threads."""
    yield from _scalar_rows(case, settings.bits)
    for threads in settings.threads:
        for bits in settings.bits:
            yield from _our_rows(case, bits, threads, settings)
    if settings.paper_steps:
        yield from _paper_rows(case, settings)
    if settings.torch:
        for threads in settings.threads:
            yield from _torch_rows(case, threads, settings)


def _row(case: Case, bits: int, method: str, mse: str, threads: int | str = "", **more: object) -> dict[str, object]:
    published = case.paper.get(bits)
    row: dict[str, object] = {"matrix": case.name, "bits": bits, "method": method, "threads": threads}
    row |= {"seconds": "", "cpu_seconds": "", "mse": mse, "mse_low": "", "mse_high": "", "bits_per_weight": ""}
    row |= {"paper_mse": published or "", "over_paper": f"{float(mse) / published:.3f}" if published and mse else ""}
    row |= {
        "paper_matrix": "same" if case.same else "of its kind" if case.paper else "",
        "source": case.source,
        "note": "",
    }
    return row | more


def _scalar_rows(case: Case, bits: Sequence[int]) -> Iterator[dict[str, object]]:
    for b in bits:
        for method, quantised in (("uniform", uniform(case.W, b)), ("lloyd_max", lloyd_max(case.W, b))):
            yield _row(case, b, method, f"{mse(quantised.What, case.W):.5f}", bits_per_weight=b)


def _our_rows(case: Case, bits: int, threads: int, settings: Settings) -> Iterator[dict[str, object]]:
    """Methods take turns seed by seed, so that a loaded moment hits all of them."""
    methods = EFFORTS | CURVE if case.same and settings.curve else EFFORTS
    found: dict[str, list[tuple[float, Seconds, float]]] = {method: [] for method in methods}
    for seed in range(settings.seeds):
        for method, options in methods.items():
            found[method].append(_run(case.W, bits, threads, seed=seed, **options))
    for method, runs in found.items():
        errors = [mse for mse, _, _ in runs]
        yield _row(
            case,
            bits,
            method,
            f"{median(errors):.5f}",
            threads,
            seconds=f"{median(t[0] for _, t, _ in runs):.3f}",
            cpu_seconds=f"{median(t[1] for _, t, _ in runs):.3f}",
            mse_low=f"{min(errors):.5f}",
            mse_high=f"{max(errors):.5f}",
            bits_per_weight=f"{runs[0][2]:.3f}",
            note=f"{settings.seeds} seed{'s' * (settings.seeds > 1)}",
        )


def _run(W: Array, bits: int, threads: int, **options: Any) -> tuple[float, Seconds, float]:
    found: list[bqq.Matrix] = []
    seconds = timed(lambda: found.append(bqq.decompose(W, bits, threads=threads, **options)))
    return found[0].mse(W), seconds, found[0].bits_per_weight


def _paper_rows(case: Case, settings: Settings) -> Iterator[dict[str, object]]:
    """Stack after stack of one run: the schedule is greedy, so that p stacks and one more are p + 1 stacks."""
    steps, threads = settings.paper_steps, settings.threads[0]
    options: dict[str, Any] = {"schedule": "paper", "steps": steps, "threads": threads}
    grown: list[bqq.Matrix] = []
    wall = cpu = 0.0
    for bits in sorted(settings.bits):

        def grow(p: int = bits) -> None:
            grown.append(bqq.extend(grown[-1], case.W, p, **options) if grown else bqq.decompose(case.W, p, **options))

        seconds = timed(grow)
        wall, cpu = wall + seconds[0], cpu + seconds[1]
        yield _row(
            case,
            bits,
            "paper",
            f"{grown[-1].mse(case.W):.5f}",
            threads,
            seconds=f"{wall:.3f}",
            cpu_seconds=f"{cpu:.3f}",
            bits_per_weight=f"{grown[-1].bits_per_weight:.3f}",
            note=f"schedule='paper', {steps} steps, 1 seed",
        )


def _torch_rows(case: Case, threads: int, settings: Settings) -> Iterator[dict[str, object]]:
    q = bqq.decompose(case.W, 1, steps=1, refine=False)
    (rows, cols), blocks = q.patch, q.grid[0] * q.grid[1]
    block = case.W[:rows, :cols]
    baseline = TorchSteps(block, q.l, threads)
    ours: list[float] = []
    turns, chunk = 10, max(1, settings.torch_timing // 10)
    for turn in range(turns + 1):  # the first warms up
        baseline.turn(chunk if turn else max(1, chunk // 10), keep=turn > 0)
        pace = _run(block, 1, threads, schedule="paper", steps=2 * chunk)[1]
        ours += [pace[0] / (2 * chunk)] if turn else []
    wall, cpu, used = baseline.step()
    plural = "s" * (used > 1)
    text = f"{1e6 * wall:.0f} us a step with {used} thread{plural}, {wall / median(ours):.1f} times ours"
    text += f", {baseline.measured} steps measured"
    for bits in settings.bits:
        if settings.torch_steps and threads == settings.threads[0] and blocks == 1:
            yield _full_torch_row(case, bits, used, q.l, settings.torch_steps, text)
            continue
        yield _row(
            case,
            bits,
            "torch",
            "",
            threads,
            seconds=f"{wall * FULL * bits * blocks:.2f}",
            cpu_seconds=f"{cpu * FULL * bits * blocks:.2f}",
            note=f"extrapolated to {FULL} steps, {text}",
        )


def _full_torch_row(case: Case, bits: int, threads: int, l: int, steps: int, text: str) -> dict[str, object]:
    import torch

    from bench.torch_amfd import decompose

    torch.set_num_threads(threads)
    found: list[Any] = []
    wall, cpu = timed(lambda: found.append(decompose(case.W, bits, l, steps)))
    mse = f"{((found[0] - case.W) ** 2).mean():.5f}"
    seconds = {"seconds": f"{wall:.2f}", "cpu_seconds": f"{cpu:.2f}"}
    return _row(case, bits, "torch", mse, threads, **seconds, note=f"{steps} steps run, {text}")
