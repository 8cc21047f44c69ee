"""Tables, pictures and REPORT.md of the cells that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import describe, write_csv

from .cells import Store
from .experiments import EXPERIMENTS
from .plots import draw, having, label, values
from .run import Run

Row = dict[str, Any]
Rows = Sequence[Row]
EQUAL = 1.03  # up to this many times the bytes of BQQ a size counts as equal


def write(folder: Path, run: Run, store: Store) -> None:
    """A CSV file for each experiment, the pictures, and REPORT.md."""
    tables: dict[str, Rows] = {name: list(e.rows(run, store)) for name, e in EXPERIMENTS.items()}
    for name, rows in tables.items():
        if rows:
            stamp = {"commit": store.commits(EXPERIMENTS[name].cells(run))}
            write_csv(folder / f"{name}.csv", [stamp | {key: _cell(row[key]) for key in row} for row in rows])
    try:
        pictures = draw(tables, folder, run.ours)
    except ModuleNotFoundError:
        print("no pictures: pip install matplotlib")
        pictures = []
    (folder / "REPORT.md").write_text("\n".join(_report(run, tables, pictures)) + "\n", "utf-8")
    print(f"wrote {folder / 'REPORT.md'}")


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


# --- parts of the report ---


def _report(run: Run, tables: dict[str, Rows], pictures: Sequence[str]) -> Iterator[str]:
    yield "# The published experiments on matrices, reproduced"
    yield ""
    yield (
        "`python -m bench.paper all --fetch --rd100 rd100.tsp --out DIR` writes this report. MSE is the mean squared "
        "error of an element on matrices of mean 0 and standard deviation 1, **times 1000** in all tables. KB are 1000 "
        "bytes. Sizes of BQQ "
        "are the paper's account: bits of the planes and 3p+1 float32 scales; bqq pads planes to whole bytes "
        "(`stored` in the CSV files). Printed figures are those of BQQ (NeurIPS 2025, arXiv 2510.18650), its appendix "
        "and its public reviews, one run of 50,000 steps each; ratios are ours over printed, below 1 is better. Only "
        "Random and rd100 are the paper's own matrices; on the others a ratio is for orientation."
    )
    yield ""
    yield f"Measured on {describe()}."
    if run.paper_steps != 50_000:
        yield ""
        yield f"A quick run: {run.paper_steps:,} steps of the published schedule instead of 50,000, one seed."
    yield ""
    yield from _provenance(run)
    parts: list[tuple[str, Callable[[Run, Rows], Iterator[str]]]] = [
        ("errors", _errors), ("lscale", _lscale), ("decay", _decay), ("steps", _steps), ("joint", _joint),
        ("histograms", _histograms), ("bound", _bound), ("inference", _inference),
    ]  # fmt: skip
    for name, part in parts:
        yield ""
        yield f"## {EXPERIMENTS[name].title}"
        yield ""
        if not tables[name]:
            yield f"Not measured (`python -m bench.paper {name} --out DIR`; large matrices are left out)."
            continue
        if name in pictures:
            yield from (f"![{EXPERIMENTS[name].title}]({name}.png)", "")
        yield from part(run, tables[name])
        if name == "errors" and "review" in pictures:
            yield from ("", "![Printed and own errors of the comparison in the reviews](review.png)")


def _provenance(run: Run) -> Iterator[str]:
    def of_paper(kind: str, same: bool) -> str:
        return kind if same else f"like {kind}" if kind else "not in the paper"

    body = [[case.name, case.source, of_paper(case.kind, case.same)] for case in run.cases]
    yield from _table(["matrix", "made of", "the paper's"], body)


def _errors(run: Run, rows: Rows) -> Iterator[str]:
    yield (
        "The picture shows the lowest member of each family of baselines. Who has the lowest error, by matrix and "
        f"size; sizes up to {EQUAL:g} times BQQ's count as equal, lower errors at larger sizes are in the last column:"
    )
    yield ""
    yield from _winners(rows)
    for matrix in values(rows, "matrix"):
        here = having(rows, matrix=matrix)
        yield ""
        yield f"### {matrix}"
        yield ""
        yield "MSE x 1000 (KB); bold: lowest at BQQ's size."
        yield ""
        yield from _errors_of(here)


def bqq_size(rows: Rows) -> float:
    """Bytes of BQQ with that many stacks at l-scale 1; infinite if it was not measured."""
    return min((row["bytes"] for row in rows if row["method"] in _LSCALE_1), default=float("inf"))


_LSCALE_1 = ("bqq_paper", "bqq_fast", "bqq_default", "bqq_best")


def lowest(rows: Rows, size: float | None = None) -> Row:
    """Of rows of one matrix and size: the least error within BQQ's bytes, those of ``rows`` unless given."""
    limit = EQUAL * (bqq_size(rows) if size is None else size)
    return min((row for row in rows if row["mse"] is not None and row["bytes"] <= limit), key=lambda row: row["mse"])


def _winners(rows: Rows) -> Iterator[str]:
    body = []
    for matrix in values(rows, "matrix"):
        for bits in values(rows, "bits"):
            here = having(rows, matrix=matrix, bits=bits)
            ours = [row for row in here if row["method"].startswith("bqq")]
            if not ours:
                continue
            first = lowest(here)
            best = lowest(ours)
            other = lowest([row for row in here if row not in ours], bqq_size(here))
            larger = [
                f"{label(row['method'])} {_milli(row['mse'])}, +{100 * row['bytes'] / bqq_size(here) - 100:.0f} %"
                for row in here
                if row["mse"] is not None and row["mse"] < first["mse"] and row is not first
            ]
            body.append([
                matrix, str(bits), f"**{label(first['method'])}**", f"{_milli(best['mse'])} ({label(best['method'])})",
                f"{_milli(other['mse'])} ({label(other['method'])})", f"{best['mse'] / other['mse']:.2f}",
                "; ".join(larger),
            ])  # fmt: skip
    wins = sum(float(row[5]) < 1 for row in body)
    yield f"BQQ has the lowest error in {wins} of {len(body)} cases."
    yield ""
    head = ["matrix", "bits", "lowest", "best BQQ", "best other", "BQQ over other", "lower, but larger"]
    yield from _table(head, body)


def _errors_of(rows: Rows) -> Iterator[str]:
    bits = values(rows, "bits")
    body = []
    for method in values(rows, "method"):
        cells = []
        for b in bits:
            here = having(rows, bits=b)
            row = next(iter(having(here, method=method)), None)
            if row is None or row["mse"] is None:
                cells.append("does not fit" if row else "")
                continue
            text = f"{_milli(row['mse'])} ({row['bytes'] / 1000:.1f})"
            cells.append(f"**{text}**" if row is lowest(here) else text)
        body.append([label(method), *cells])
    for key, name in (("published", "Table S.4: BQQ"), ("review_published", "reviews: ")):
        printed = [row for row in rows if row[f"{key}_mse"]]
        for method in values(printed, "method"):
            if method.startswith("bqq") and method != "bqq_paper":
                continue
            of = {row["bits"]: row for row in having(printed, method=method)}
            text = name if key == "published" else name + label(method).replace("BQQ, published schedule", "BQQ")
            body.append([f"*printed, {text}*", *(_printed(of.get(b), key) for b in bits)])
    yield from _table(["method", *(f"{b} bit{'s' * (b > 1)}" for b in bits)], body)


def _printed(row: Row | None, key: str) -> str:
    """The printed figure, its KB, and how many times it ours is."""
    if row is None:
        return ""
    ratio = row[key.removesuffix("published") + "over_published"]
    over = f"; ours {ratio:.2f}x" if ratio else ""
    return f"{1000 * row[f'{key}_mse']:.4g} ({row[f'{key}_kb']:g}{over})"


def _lscale(run: Run, rows: Rows) -> Iterator[str]:
    yield (
        "Table S.4: at equal bits either p stacks of l-scale 1 or more of less. In brackets KB, then ours over printed."
    )
    for matrix in values(rows, "matrix"):
        here = having(rows, matrix=matrix)
        methods = values(here, "method")
        body = []
        for bits, p, scale in sorted({(row["bits"], row["p"], row["l_scale"]) for row in here}):
            of = {row["method"]: row for row in having(here, p=p, l_scale=scale)}
            first = next(iter(of.values()))
            printed = (
                f"{1000 * first['published_mse']:.4g} ({first['published_kb']:g})" if first["published_mse"] else ""
            )
            if bits > max(run.bits) or (not printed and any(row["published_mse"] for row in here)):
                continue
            cells = [_measured(of.get(method)) for method in methods]
            body.append([f"{bits:g}", str(p), f"{scale:g}", printed, *cells])
        yield ""
        yield f"### {matrix}"
        yield ""
        yield from _table(["bits", "p", "l-scale", "printed", *(label(f"bqq_{method}") for method in methods)], body)
    yield ""
    yield from _verdict(run, rows)


def _measured(row: Row | None) -> str:
    if row is None:
        return ""
    over = f"; {row['over_published']:.2f}x" if row["over_published"] else ""
    return f"{_milli(row['mse'])} ({row['bytes'] / 1000:.1f}{over})"


def _verdict(run: Run, rows: Rows) -> Iterator[str]:
    """Are the printed figures of the paper's own matrices met?"""
    for matrix in (case.name for case in run.cases if case.same):
        printed = [row for row in rows if row["matrix"] == matrix and row["published_mse"]]
        met = {
            (row["p"], row["l_scale"])
            for row in printed
            if (row["method"] == "paper" and row["over_published"] <= 1.03)
            or (row["method"] == run.ours and round(1000 * row["mse"], 1) <= round(1000 * row["published_mse"], 1))
        }
        keys = sorted({(row["p"], row["l_scale"]) for row in printed})
        missed = [f"p = {p}, l-scale {scale:g}" for p, scale in keys if (p, scale) not in met]
        yield (
            f"{matrix}: {len(met)} of {len(keys)} printed errors of Table S.4 are met within 3 % by the published "
            f"schedule, or not exceeded by bqq ({run.ours}) to the printed digit"
            + (f"; not met: {', '.join(missed)}." if missed else ".")
        )
        yield ""


def _decay(run: Run, rows: Rows) -> Iterator[str]:
    yield (
        "Scales of six greedy stacks after the joint solve, seed 0. Signs are a matter of choice (a plane and its "
        "complement are the same matrix). The reviews print one sequence without naming the matrix."
    )
    yield ""
    body = []
    for matrix in values(rows, "matrix"):
        for method in values(rows, "method"):
            of = having(rows, matrix=matrix, method=method)
            if of:
                body.append(
                    [matrix, label(f"bqq_{method}"), *(f"{r['r']:.2g} / {r['s']:.2g} / {r['t']:.2g}" for r in of)]
                )
    first = having(rows, matrix=rows[0]["matrix"], method=rows[0]["method"])
    body.append(["*printed*", "", *("{published_r:g} / {published_s:g} / {published_t:g}".format(**r) for r in first)])
    yield from _table(["matrix", "method", *(f"stack {row['stack']}: r / s / t" for row in first)], body)


def _steps(run: Run, rows: Rows) -> Iterator[str]:
    yield "MSE x 1000 (seconds on one thread); medians over seeds."
    yield ""
    keys = list(dict.fromkeys((row["method"], row["steps"]) for row in rows))
    body = []
    for matrix in values(rows, "matrix"):
        for p in values(rows, "p"):
            found = {(r["method"], r["steps"]): r for r in having(rows, matrix=matrix, p=p)}
            printed = next(iter(found.values()))["published_mse"]
            cells = [f"{_milli(found[k]['mse'])} ({found[k]['seconds']:.2g})" if k in found else "" for k in keys]
            body.append([matrix, str(p), *cells, f"{1000 * printed:.4g}" if printed else ""])
    names = [f"{steps:,} steps" if steps else f"bqq, {method}" for method, steps in keys]
    yield from _table(["matrix", "p", *names, "printed"], body)


def _joint(run: Run, rows: Rows) -> Iterator[str]:
    yield (
        "The published descent on all stacks at once against one stack after the other, same NumPy program, same "
        "number of stack-steps; MSE x 1000 (seconds)."
    )
    yield ""
    steps = values(rows, "steps")
    body = []
    for matrix in values(rows, "matrix"):
        for p in values(rows, "p"):
            for choice in ("greedy", "joint"):
                of = {row["steps"]: row for row in having(rows, matrix=matrix, p=p, stacks=choice)}
                cells = [f"{_milli(of[s]['mse'])} ({of[s]['seconds']:.2g})" if s in of else "" for s in steps]
                body.append([matrix, str(p), choice, *cells])
    yield from _table(["matrix", "p", "stacks", *(f"{s:,} steps" for s in steps)], body)


def _histograms(run: Run, rows: Rows) -> Iterator[str]:
    body = []
    for matrix in values(rows, "matrix"):
        value = having(rows, matrix=matrix, of="value")[0]
        energy = [row["energy_left"] for row in having(rows, matrix=matrix, of="singular value")]
        left = [energy[max(0, round(share * len(energy)) - 1)] for share in (0.01, 0.1, 0.25, 0.5)]
        body.append([matrix, f"{value['kurtosis']:.3g}", f"{value['largest']:.3g}", *(f"{100 * x:.3g}" for x in left)])
    yield "Kurtosis is 3 for a Gaussian. Energy: share of the squares left without the largest singular values."
    yield ""
    shares = ("1 %", "10 %", "25 %", "50 %")
    head = [
        "matrix",
        "kurtosis",
        "largest value",
        *(f"energy left without {share} of the values, %" for share in shares),
    ]
    yield from _table(head, body)


def _bound(run: Run, rows: Rows) -> Iterator[str]:
    yield "One stack, seed 0. The bound holds for the best bits there are; a search should end below it. MSE x 1000."
    yield ""
    body = [
        [r["matrix"], f"{r['l_scale']:g}", str(r["l"]), *(_milli(r[k]) for k in ("bound", "tight_bound", "mse")),
         f"{r['mse_over_bound']:.3g}"]
        for r in rows
    ]  # fmt: skip
    head = [
        "matrix",
        "l-scale",
        "l",
        "bound of the paper",
        "its matrix, best factor",
        f"bqq ({run.ours})",
        "over bound",
    ]
    yield from _table(head, body)


def _inference(run: Run, rows: Rows) -> Iterator[str]:
    yield (
        "`q @ X` from the bit planes against NumPy's float32 product, one thread, medians of turns. Additions are "
        "conditional, one for each bit of a plane and column; dense is one multiply-add for each element and column. "
        "Speed: NumPy's time over bqq's, float32 class / fast class, by batch."
    )
    yield ""
    batches = values(rows, "batch")
    body = []
    for matrix in values(rows, "matrix"):
        for p in values(rows, "p"):
            of = {row["batch"]: row for row in having(rows, matrix=matrix, p=p)}
            if of:
                any_row = next(iter(of.values()))
                speeds = [
                    f"{of[b]['faster_float32']:.2f} / {of[b]['faster_fast']:.2f}" if b in of else "" for b in batches
                ]
                sizes = f"{any_row['weight_bytes'] / 1000:.1f} ({any_row['dense_weight_bytes'] / 1000:.0f})"
                body.append([matrix, str(p), f"{any_row['additions_over_dense']:.2f}", sizes, *speeds])
    head = ["matrix", "p", "additions over dense multiply-adds", "KB of weights (float32)"]
    yield from _table([*head, *(f"batch {batch}" for batch in batches)], body)
    one = [row["faster_float32"] for row in rows if row["batch"] == 1]
    if one:
        yield ""
        yield f"Batch 1, float32 class: {min(one):.2f} to {max(one):.2f} times NumPy's speed, median {median(one):.2f}."


def _milli(mse: float) -> str:
    return f"{1000 * mse:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in [head, ["---"] * len(head), *rows]:
        yield "| " + " | ".join(cells) + " |"
