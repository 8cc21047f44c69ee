"""The pictures of ann.csv, a panel for each set: recall over bytes, and queries a second over recall.

python -m bench.plot_ann [bench/results/ann.csv] [bench/results/ann_bytes.png] [bench/results/ann_queries.png]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.machine import ROOT, read_csv

matplotlib.use("Agg")
RESULTS = ROOT / "bench" / "results"
MOST_BYTES = 130  # those of graphs are beside the question

# Okabe and Ito: told apart by all eyes. Families of methods: those of a name and a number of bits are one line.
STYLES = {
    "bqq": ("#0072B2", "o", "-"),
    "bqq coarse=1": ("#0072B2", "o", ":"),
    "bqq.Matrix": ("#000000", "D", "-"),
    "PQ4fs": ("#D55E00", "s", "--"),
    "PQ8": ("#D55E00", "s", ":"),
    "OPQ4fs": ("#8B5A2B", "s", ":"),
    "RQ8": ("#CC79A7", "^", "--"),
    "LSQ8": ("#CC79A7", "v", ":"),
    "SQ": ("#666666", "x", "--"),
    "SQtqmse": ("#999999", "+", ":"),
    "RaBitQfs": ("#009E73", "P", "--"),
    "rabitqlib": ("#009E73", "P", ":"),
    "turbovec": ("#E69F00", "*", "--"),
    "svs LVQ": ("#56B4E9", "h", ""),
    "usearch int": ("#56B4E9", "X", ""),
}
Points = dict[str, list[tuple[int, float, float]]]


def family(method: str) -> str | None:
    if method in STYLES:
        return method
    name = re.sub(r" ?\d+$", "", method)
    return name if name in STYLES else None


def points(rows: list[dict[str, str]]) -> Points:
    """Of each family: bytes, recall and queries a second, medians over seeds."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in rows:
        name = family(row["method"])
        if name is not None and row["recall"] and int(row["bytes"]) <= MOST_BYTES:
            found.setdefault((name, int(row["bytes"])), []).append((float(row["recall"]), float(row["queries_s"])))
    lines: Points = {}
    for (name, size), values in sorted(found.items()):
        recall, speed = (median(column) for column in zip(*values, strict=True))
        lines.setdefault(name, []).append((size, recall, speed))
    return {name: lines[name] for name in STYLES if name in lines}


def draw(source: Path, target: Path, panel: Callable[[Any, Points], None]) -> None:
    _, rows = read_csv(source)
    sets = list(dict.fromkeys(row["set"] for row in rows))
    columns = min(3, len(sets))
    lines = -(-len(sets) // columns)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(lines, columns, figsize=(3.6 * columns, 3.2 * lines + 0.9), squeeze=False)
    handles: dict[str, Any] = {}
    for axis, name in zip(axes.flat, sets, strict=False):
        panel(axis, points([row for row in rows if row["set"] == name]))
        axis.set_title(name, fontsize=10, loc="left")
        axis.grid(which="major", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        labels: Mapping[str, Any] = {line.get_label(): line for line in axis.get_lines()}
        handles |= labels
    for axis in axes.flat[len(sets) :]:
        axis.set_visible(False)
    order = [name for name in STYLES if name in handles]
    figure.legend([handles[n] for n in order], order, loc="upper center", ncols=6, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / (3.2 * lines + 0.9)))
    figure.savefig(target, dpi=110)
    plt.close(figure)
    print(f"wrote {target}")


def line(axis: Any, name: str, xs: list[float], ys: list[float]) -> None:
    colour, marker, dash = STYLES[name]
    ours = name.startswith("bqq")
    style = {"color": colour, "marker": marker, "linestyle": dash or "none", "label": name}
    axis.plot(xs, ys, markersize=6 if ours else 5, linewidth=1.8 if ours else 1, zorder=3 if ours else 2, **style)


def of_bytes(axis: Any, lines: Points) -> None:
    for name, found in lines.items():
        if "coarse" not in name:
            line(axis, name, [size for size, _, _ in found], [recall for _, recall, _ in found])
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("bytes a vector")
    axis.set_ylabel("recall@10")


def of_queries(axis: Any, lines: Points) -> None:
    for name, found in lines.items():
        line(axis, name, [recall for _, recall, _ in found], [speed for _, _, speed in found])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("recall@10")
    axis.set_ylabel("queries/s, one thread")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    defaults = [RESULTS / "ann.csv", RESULTS / "ann_bytes.png", RESULTS / "ann_queries.png"]
    source, bytes_target, queries_target = given + defaults[len(given) :]
    draw(source, bytes_target, of_bytes)
    draw(source, queries_target, of_queries)
