"""The experiments: which cells each needs, and the rows of its table once they are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any, Protocol

import numpy as np

from bench.coded import rank_of
from bench.matrices import Case
from bench.published import DECAY, REVIEW, TABLE_S4

from .baselines import BASELINES
from .cells import Cell, Result, Store
from .measures import annealed, baseline, bound, planned, product
from .run import LARGE, SMALL, Run, reviewed

Row = dict[str, Any]


class Experiment(Protocol):
    """``timed``: its figures are times, so that nothing else should run beside it."""

    title: str
    timed: bool

    def cells(self, run: Run) -> Iterator[Cell]: ...

    def rows(self, run: Run, store: Store) -> Iterator[Row]: ...


def _results(store: Store, cells: Iterable[Cell]) -> list[Result]:
    return [result for cell in cells if (result := store.get(cell)) is not None]


def _spread(errors: list[float]) -> Row:
    return {"mse": median(errors), "mse_low": min(errors), "mse_high": max(errors), "seeds": len(errors)}


def _chain_rows(store: Store, cells: list[Cell]) -> dict[int, Row]:
    """By number of stacks: medians over the cells, which differ in their seeds."""
    results = _results(store, cells)
    found: dict[int, Row] = {}
    for same in zip(*(result["rows"] for result in results), strict=True):
        first = same[0]
        row = {key: first[key] for key in ("p", "l", "bytes", "stored", "scales")} | _spread([r["mse"] for r in same])
        row |= {name: median(r[name] for r in same) for name in ("seconds", "cpu_seconds")}
        found[first["p"]] = row
    return found


def _published(pair: tuple[float, float] | None, mse: float | None) -> Row:
    """MSE and KB as printed, and how many times the printed MSE ours is."""
    if pair is None:
        return {"published_mse": "", "published_kb": "", "over_published": ""}
    over = 1000 * mse / pair[0] if mse is not None else ""
    return {"published_mse": pair[0] / 1000, "published_kb": pair[1], "over_published": over}


class Errors:
    """(a) Error over size: every method on every matrix, whole and as the reviews cut it."""

    title = "Error over size"
    timed = False

    def _cases(self, run: Run) -> dict[str, tuple[Case, bool, bool]]:
        """By key: the case, is it whole, is it as reviewed."""
        found = {case.key: (case, True, False) for case in run.cases}
        for case in run.cases:
            cut = reviewed(case)
            if cut is not None:
                found[cut.key] = (cut, cut.key in found, True)
        return found

    def _baseline(self, case: Case, method: str, bits: int) -> Cell:
        large = case.W.size > LARGE and method.startswith("vq")
        return Cell(baseline, case, {"method": method, "bits": bits}, 20 if large else 0.1 * case.W.size / SMALL)

    def _planned(self, run: Run, case: Case, bits: int) -> Cell:
        weight = 3 * bits * min(case.W.size, LARGE) / SMALL
        return Cell(planned, case, {"bits": bits, "seed": 0}, weight)

    def cells(self, run: Run) -> Iterator[Cell]:
        for case, whole, _ in self._cases(run).values():
            for bits in run.bits:
                for method in BASELINES:
                    yield self._baseline(case, method, bits)
                if whole and run.ours == "default":
                    yield self._planned(run, case, bits)
            for method in run.methods_of(case):
                yield from (run.chain(case, method, seed=seed) for seed in run.seeds_of(case, method))

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for case, whole, review in self._cases(run).values():
            for bits in run.bits:
                for method, row in self._methods(run, case, bits, store):
                    ours = method.startswith("bqq")
                    row = {"matrix": case.name, "key": case.key, "bits": bits, "method": method, **row}
                    row |= {"whole": whole, "reviewed": review, "of_paper": case.same}
                    row["bits_per_weight"] = 8 * row["bytes"] / case.W.size if row["bytes"] else ""
                    s4 = TABLE_S4.get((case.kind, bits, 1)) if ours and whole else None
                    cut = REVIEW.get((case.kind, bits, "bqq" if ours else method)) if review else None
                    row |= _published(s4, row["mse"])
                    row |= {f"review_{k}": v for k, v in _published(cut, row["mse"]).items()}
                    yield row

    def _methods(self, run: Run, case: Case, bits: int, store: Store) -> Iterator[tuple[str, Row]]:
        for method in BASELINES:
            for found in _results(store, [self._baseline(case, method, bits)]):
                yield method, {**found, "mse_low": found["mse"], "mse_high": found["mse"], "seeds": 1}
        for found in _results(store, [self._planned(run, case, bits)]):
            extra = f"p={found['p']} l={found['l']} patch={found['patch']}" if found["mse"] else ""
            row = {"mse_low": found["mse"], "mse_high": found["mse"], "seeds": 1, "note": extra}
            yield "bqq_plan", {key: found[key] for key in ("mse", "bytes", "seconds")} | row
        for method in run.methods_of(case):
            chain = [run.chain(case, method, seed=seed) for seed in run.seeds_of(case, method)]
            row = _chain_rows(store, chain).get(bits, {})
            if row:
                keep = ("mse", "bytes", "seconds", "mse_low", "mse_high", "seeds")
                yield f"bqq_{method}", {key: row[key] for key in keep}


class LScale:
    """(b) Many thin stacks or few wide ones: Table S.4."""

    title = "Stacks against inner dimension"
    timed = False

    def _methods(self, run: Run, case: Case) -> list[str]:
        """The published schedule where there is a published figure, and what stands for bqq."""
        return [method for method in ("paper", run.ours) if method == run.ours or case.kind]

    def cells(self, run: Run) -> Iterator[Cell]:
        for case in run.cases:
            if case.W.size <= LARGE:
                for method in self._methods(run, case):
                    for scale in run.scales:
                        yield from (run.chain(case, method, scale, seed) for seed in run.seeds_of(case, method))

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for case in run.cases:
            for method in self._methods(run, case) if case.W.size <= LARGE else ():
                for scale in run.scales:
                    chain = [run.chain(case, method, scale, seed) for seed in run.seeds_of(case, method)]
                    for p, found in _chain_rows(store, chain).items():
                        row = {"matrix": case.name, "bits": p * scale, "p": p, "l_scale": scale, "l": found["l"]}
                        row |= {"method": method, "bytes": found["bytes"], "stored": found["stored"]}
                        row |= {key: found[key] for key in ("mse", "mse_low", "mse_high", "seeds", "seconds")}
                        yield row | _published(TABLE_S4.get((case.kind, p, scale)), found["mse"])


class Decay:
    """(c) How the scales fall from stack to stack."""

    title = "Decay of the scales"
    timed = False

    def cells(self, run: Run) -> Iterator[Cell]:
        for case in run.cases:
            for method in run.methods_of(case) if case.W.size <= LARGE else ():
                yield run.chain(case, method)

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for cell in self.cells(run):
            for result in _results(store, [cell]):
                scales = result["rows"][-1]["scales"]
                for i in range(len(scales) // 3):
                    r, s, t = scales[3 * i : 3 * i + 3]
                    row = {"matrix": cell.case.name, "method": cell.settings["method"], "stack": i + 1}
                    row |= {"r": r, "s": s, "t": t}
                    yield row | {f"published_{k}": DECAY[k][i] if i < 6 else "" for k in "rst"}


class Steps:
    """(d) Error over the number of steps, and over seconds."""

    title = "Error over steps and seconds"
    timed = True

    def cells(self, run: Run) -> Iterator[Cell]:
        for case in run.cases:
            if case.W.size > 224 * 224:
                continue
            for seed in range(run.seeds if case.W.size <= SMALL else 1):
                for steps in run.steps:
                    yield run.chain(case, "paper", seed=seed, steps=steps, threads=1, counts=[1, 2])
                for method in ("fast", "default", "best"):
                    yield run.chain(case, method, seed=seed, threads=1, counts=[1, 2])

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        groups: dict[tuple[str, str, int], list[Cell]] = {}
        for cell in self.cells(run):
            key = (cell.case.name, cell.settings["method"], cell.settings["steps"] or 0)
            groups.setdefault(key, []).append(cell)
        for (matrix, method, steps), cells in groups.items():
            for p, found in _chain_rows(store, cells).items():
                row = {"matrix": matrix, "p": p, "method": method, "steps": steps or "", "seconds": found["seconds"]}
                row |= {key: found[key] for key in ("cpu_seconds", "mse", "mse_low", "mse_high", "seeds")}
                yield row | _published(TABLE_S4.get((cells[0].case.kind, p, 1)), found["mse"])


class Joint:
    """(e) One stack after the other or all at once, with the same number of stack-steps."""

    title = "Greedy against joint stacks"
    timed = False

    def cells(self, run: Run) -> Iterator[Cell]:
        for case in run.cases:
            if case.W.size > SMALL:
                continue
            for p in (2, 3):
                for steps in run.joint_steps:
                    for joint in (False, True):
                        settings = {"p": p, "steps": steps, "joint": joint, "seed": 0}
                        yield Cell(annealed, case, settings, p * steps / 2500)

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for cell in self.cells(run):
            for result in _results(store, [cell]):
                settings = {name: cell.settings[name] for name in ("p", "steps")}
                choice = "joint" if cell.settings["joint"] else "greedy"
                row = {"matrix": cell.case.name, **settings, "stacks": choice}
                yield row | {"mse": result["mse"], "seconds": result["seconds"]}


class Histograms:
    """(f) How values and singular values are distributed."""

    title = "Values and singular values"
    timed = False

    def cells(self, run: Run) -> Iterator[Cell]:
        yield from ()

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for case in run.cases:
            counts, edges = np.histogram(np.clip(case.W, -5, 5), 51, (-5, 5), density=True)
            for density, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
                row = {"matrix": case.name, "of": "value", "x": (low + high) / 2, "y": density}
                yield row | {"kurtosis": (case.W**4).mean(), "largest": np.max(np.abs(case.W))}
            sigma = np.linalg.svd(case.W, compute_uv=False)
            energy = 1 - np.cumsum(sigma**2) / (sigma**2).sum()
            for i, (value, left) in enumerate(zip(sigma, energy, strict=True)):
                row = {"matrix": case.name, "of": "singular value", "x": (i + 1) / sigma.size, "y": value / sigma[0]}
                yield row | {"energy_left": max(left, 0.0)}


class Bound:
    """(g) What the signs of singular vectors promise for one stack, and what the search reaches."""

    title = "The bound from singular vectors"
    timed = False
    scales = (0.25, 0.5, 1, 1.5, 2)

    def _cells(self, run: Run, case: Case, scale: float) -> tuple[Cell, Cell]:
        return Cell(bound, case, {"scale": scale}, 0.1), run.chain(case, run.ours, scale, counts=[1])

    def _usable(self, run: Run) -> Iterator[tuple[Case, float]]:
        for case in run.cases:
            m, n = case.W.shape
            for scale in self.scales:
                if m * n <= LARGE and scale in run.scales and rank_of(m, n, scale) <= min(m, n):
                    yield case, scale

    def cells(self, run: Run) -> Iterator[Cell]:
        for case, scale in self._usable(run):
            yield from self._cells(run, case, scale)

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for case, scale in self._usable(run):
            results = _results(store, self._cells(run, case, scale))
            if len(results) == 2:
                limits, found = results[0], results[1]["rows"][0]
                row = {"matrix": case.name, "l_scale": scale, "l": limits["l"], "bound": limits["paper"]}
                row |= {"tight_bound": limits["tight"], "mse": found["mse"]}
                yield row | {"mse_over_bound": found["mse"] / limits["paper"]}


class Inference:
    """(h) What a product with the compressed matrix moves, does and takes."""

    title = "Cost of a product"
    timed = True

    def cells(self, run: Run) -> Iterator[Cell]:
        for case in run.cases:
            for p in run.bits:
                for batch in run.batches:
                    settings = {"p": p, "batch": batch, "threads": 1, "rounds": run.rounds}
                    yield Cell(product, case, settings)

    def rows(self, run: Run, store: Store) -> Iterator[Row]:
        for cell in self.cells(run):
            for result in _results(store, [cell]):
                m, n = cell.case.W.shape
                row = {
                    "matrix": cell.case.name,
                    "m": m,
                    "n": n,
                    "p": cell.settings["p"],
                    "batch": cell.settings["batch"],
                }
                row |= {key: value for key, value in result.items() if key != "seconds"}
                row["additions_over_dense"] = result["bit_additions"] / result["dense_multiply_adds"]
                row["bytes_below_dense"] = result["dense_bytes"] / result["bytes"]
                for kind in ("float32", "fast"):
                    row[f"faster_{kind}"] = result["us_numpy"] / result[f"us_{kind}"]
                yield row


EXPERIMENTS: dict[str, Experiment] = {
    "errors": Errors(),
    "lscale": LScale(),
    "decay": Decay(),
    "steps": Steps(),
    "joint": Joint(),
    "histograms": Histograms(),
    "bound": Bound(),
    "inference": Inference(),
}
