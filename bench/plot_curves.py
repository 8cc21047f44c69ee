"""The picture of decompose.csv: error against CPU seconds, a panel for each matrix, one line for each number of bits.

python -m bench.plot_curves [bench/results/decompose.csv] [bench/results/decompose.png]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.machine import ROOT, read_csv

matplotlib.use("Agg")
RESULTS = ROOT / "bench" / "results"
PANELS = (
    "Gaussian 128x128",
    "Distance 100x100",
    "Photo 224x224",
    "Student-t(3) 96x160",
    "ViT-S attention 384x384",
    "MiniLM MLP 1536x384",
)
EFFORTS = ("fast", "default", "best")
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito: told apart by all eyes


def draw(source: Path, target: Path) -> None:
    _, rows = read_csv(source)
    threads = next(row["threads"] for row in rows if row["method"] == "default")
    rows = [row for row in rows if row["threads"] in ("", threads)]
    matrices = [name for name in PANELS if any(row["matrix"] == name for row in rows)]
    columns = 2 if len(matrices) in (2, 4) else min(3, len(matrices))
    lines = -(-len(matrices) // columns)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 3.1 * lines + 0.7), squeeze=False)
    for axis, name in zip(axes.flat, matrices, strict=False):
        panel(axis, name, [row for row in rows if row["matrix"] == name])
    for axis in axes.flat[len(matrices) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean squared error")
    figure.supxlabel(f"CPU seconds, {threads} thread{'s' * (threads != '1')}", fontsize=10)
    figure.legend(handles=legend(rows), loc="upper center", ncols=2, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.6 / (3.1 * lines + 0.7)))
    figure.savefig(target, dpi=110)
    plt.close(figure)
    print(f"wrote {target}")


def panel(axis: Any, name: str, rows: Sequence[dict[str, str]]) -> None:
    axis.set(xscale="log", yscale="log")
    axis.set_title(name, fontsize=10, loc="left")
    axis.grid(which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(y=0.08)
    for bits in dict.fromkeys(row["bits"] for row in rows):
        found = {row["method"]: row for row in rows if row["bits"] == bits}
        points = [(float(found[e]["cpu_seconds"]), float(found[e]["mse"])) for e in EFFORTS if e in found]
        axis.plot(*zip(*points, strict=True), "-o", color=BLUE, markersize=5, linewidth=1.6)
        label = {"ha": "right", "va": "center", "fontsize": 9, "color": BLUE}
        label["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axis.annotate(f"{bits} bit", points[0], (-7, 0), textcoords="offset points", **label)
        if "paper" in found:
            mse = float(found["paper"]["mse"])
            axis.plot(float(found["paper"]["cpu_seconds"]), mse, "s", color=ORANGE, markersize=6)
        error = error_of_torch(found)
        if error is not None:
            axis.plot(float(found["torch"]["cpu_seconds"]), error, "X", color=GREEN, markersize=8)
        if found["default"]["paper_matrix"] == "same":
            axis.axhline(float(found["default"]["paper_mse"]), color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    low, high = axis.get_xlim()
    axis.set_xlim(low / 3, high)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())


def error_of_torch(found: dict[str, dict[str, str]]) -> float | None:
    """Its own, or after the same number of steps that of our schedule="paper", which is the same algorithm."""
    torch, paper = found.get("torch"), found.get("paper")
    if torch is None:
        return None
    if torch["mse"]:
        return float(torch["mse"])
    return float(paper["mse"]) if paper is not None and " 50000 steps" in paper["note"] else None


def legend(rows: Sequence[dict[str, str]]) -> list[Line2D]:
    torch = [row for row in rows if row["method"] == "torch"]
    guessed = any(not row["mse"] for row in torch)
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="bqq fast, default, best"),
        Line2D([], [], color=ORANGE, marker="s", linestyle="", label="bqq schedule='paper'"),
        Line2D([], [], color=GREY, linestyle=(0, (4, 3)), label="error in the paper"),
    ]
    if torch:
        label = "PyTorch" + ", 50,000 steps (time extrapolated)" * guessed
        handles.insert(2, Line2D([], [], color=GREEN, marker="X", linestyle="", label=label))
    return handles


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    draw(*(given + [RESULTS / "decompose.csv", RESULTS / "decompose.png"][len(given) :]))
