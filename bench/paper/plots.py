"""The pictures of the report, each from the rows of an experiment. Colours of Okabe and Ito: told apart by all eyes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .baselines import LABELS

Row = dict[str, Any]
Rows = Sequence[Row]
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, BLACK, GREY = "#56B4E9", "#E69F00", "#000000", "#777777"
FAMILIES = {  # of the baselines; in the picture each is its lowest member
    "scalar: uniform, binary coding, Lloyd-Max": (("uniform", "bcq", "lloyd_max"), ORANGE, "s"),
    "low rank: SVD, LPLR": (("svd", "svd_8", "svd_4", "lplr"), GREEN, "v"),
    "k-means of rows": (("vq", "vq_8", "vq_4"), PURPLE, "D"),
    "E8 lattice": (("e8", "e8_flat"), SKY, "P"),
    "Hadamard, DCT": (("ht100", "ht50", "dct100", "dct50"), AMBER, "X"),
    "JPEG": (("jpeg",), GREY, "^"),
}
plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42})


def values(rows: Iterable[Row], key: str) -> list[Any]:
    """Different values, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def having(rows: Iterable[Row], **wanted: Any) -> Rows:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _save(figure: Any, folder: Path, name: str) -> None:
    for kind in ("png", "pdf"):
        figure.savefig(folder / f"{name}.{kind}", dpi=110, metadata={"CreationDate": None} if kind == "pdf" else None)
    plt.close(figure)


def _grid(count: int, height: float, legend: float) -> tuple[Any, Any]:
    """Panels of that height in inches, three or two beside each other, 9.6 inches wide; a legend goes on top."""
    columns = min(count, 2 if count == 4 else 3)
    lines = -(-count // columns)
    size = (9.6 if columns > 1 else 6.4, height * lines + legend)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, axes


def _legend(figure: Any, handles: Sequence[Line2D], columns: int) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=9)


def _log(axis: Any, narrow: bool = False) -> None:
    """Plain numbers at 1, 2 and 5 of each decade; more of them on a short range, fewer on a long or narrow one."""
    low, high = sorted(axis.get_view_interval())
    span = high / low if low > 0 else 1
    subs: tuple[int, ...] = (1, 2, 3, 5, 7) if span < 6 else (1, 2, 5) if span < 300 else (1,)
    if narrow and span > 6:
        subs = (1, 3) if span < 50 else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
    if span < 6:
        axis.set_minor_locator(NullLocator())


def _panel(axis: Any, title: str, log: str = "y") -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    for side in log:
        axis.set(**{f"{side}scale": "log"})


def _marks(*entries: tuple[str, str, str, Any]) -> list[Line2D]:
    """(label, colour, marker, line style) each."""
    return [Line2D([], [], color=c, marker=k, linestyle=s, label=t) for t, c, k, s in entries]


def errors(rows: Rows, folder: Path, ours: str) -> None:
    rows = [row for row in rows if row["whole"] and row["mse"]]
    matrices = values(rows, "matrix")
    figure, axes = _grid(len(matrices), 2.9, 1.05)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        here = having(rows, matrix=matrix)
        _panel(axis, matrix + " (the paper's)" * here[0]["of_paper"])
        for members, colour, marker in FAMILIES.values():
            lowest = [
                min(of, key=lambda row: row["mse"])
                for bits in values(here, "bits")
                if (of := [row for row in here if row["bits"] == bits and row["method"] in members])
            ]
            _line(axis, lowest, colour, marker, "-", 1.1, 4.5)
        _line(axis, having(here, method="bqq_paper"), BLACK, "o", "--", 1.3, 4)
        _line(axis, having(here, method=f"bqq_{ours}"), BLUE, "o", "-", 2.2, 5.5)
        printed = [row for row in here if row["method"] == f"bqq_{ours}" and row["published_mse"]]
        axis.plot(
            [row["bits"] for row in printed],
            [row["published_mse"] for row in printed],
            "_",
            color=BLACK,
            markersize=16,
            markeredgewidth=1.6,
        )
        axis.set_xticks(values(here, "bits"))
        axis.set_xlim(min(values(here, "bits")) - 0.3, max(values(here, "bits")) + 0.6)
        _log(axis.yaxis)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean squared error", fontsize=9)
    figure.supxlabel("bits stored per element", fontsize=10)
    handles = _marks(
        (f"bqq ({ours})", BLUE, "o", "-"),
        ("published schedule, run here", BLACK, "o", "--"),
        ("printed in the paper", BLACK, "_", ""),
        *((name, colour, marker, "-") for name, (_, colour, marker) in FAMILIES.items()),
    )
    _legend(figure, handles, 3)
    _save(figure, folder, "errors")


def _line(axis: Any, rows: Rows, colour: str, marker: str, style: str, width: float, size: float) -> None:
    x, y = [row["bits_per_weight"] for row in rows], [row["mse"] for row in rows]
    axis.plot(x, y, style, color=colour, marker=marker, linewidth=width, markersize=size)


def review(rows: Rows, folder: Path, ours: str) -> None:
    """Printed and own errors of the comparison in the reviews, a panel for each matrix, a line for each method."""
    rows = [row for row in rows if row["reviewed"] and row["review_published_mse"] and row["mse"]]
    keep = (*LABELS, "bqq_paper", f"bqq_{ours}")
    methods = [method for method in keep if having(rows, method=method)]
    matrices = values(rows, "matrix")
    if not rows:
        return
    size = (9.6, 0.27 * len(methods) + 1.7)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, matrix in zip(axes.flat, matrices, strict=True):
        _panel(axis, matrix.replace(", centre", ",\ncentre"), "x")
        for row in having(rows, matrix=matrix):
            if row["method"] in methods:
                y = methods.index(row["method"])
                colour = {2: BLUE, 3: ORANGE}[row["bits"]]
                axis.plot(row["review_published_mse"], y, "o", color=colour, markerfacecolor="none", markersize=8)
                axis.plot(row["mse"], y, "o", color=colour, markersize=3.5)
        axis.set_yticks(range(len(methods)), [label(method) for method in methods], fontsize=9)
        _log(axis.xaxis, narrow=True)
    figure.supxlabel("mean squared error", fontsize=10)
    handles = [
        *_marks(("2 bits", BLUE, "o", ""), ("3 bits", ORANGE, "o", ""), ("measured here", BLACK, "o", "")),
        Line2D([], [], color=BLACK, marker="o", markerfacecolor="none", markersize=8, linestyle="", label="printed"),
    ]
    _legend(figure, handles, 4)
    _save(figure, folder, "review")


def label(method: str) -> str:
    names = {"bqq_paper": "BQQ, published schedule", "bqq_plan": "bqq, planned p, l, blocks"}
    return LABELS.get(method) or names.get(method) or f"bqq, {method[4:]}"


def lscale(rows: Rows, folder: Path, ours: str) -> None:
    styles = {0.25: (ORANGE, "v"), 0.5: (BLUE, "o"), 1.5: (PURPLE, "D"), 2: (GREEN, "s")}
    matrices = values((row for row in rows if row["l_scale"] != 1 and row["mse"]), "matrix")
    if not matrices:
        return
    figure, axes = _grid(len(matrices), 2.7, 0.6)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        _panel(axis, matrix)
        here = having(rows, matrix=matrix)
        for key, of, line in (("mse", ours, "-"), ("published_mse", "paper", "--")):
            one = {row["bits"]: row[key] for row in having(here, method=of, l_scale=1)}
            for scale, (colour, marker) in styles.items():
                shown = [
                    (row["bits"], row[key] / one[row["bits"]])
                    for row in having(here, method=of, l_scale=scale)
                    if row[key] and one.get(row["bits"])
                ]
                face = colour if line == "-" else "none"
                axis.plot(
                    *zip(*shown, strict=True) if shown else ((), ()),
                    line,
                    color=colour,
                    marker=marker,
                    markerfacecolor=face,
                    markersize=5.5,
                    linewidth=1.8 if line == "-" else 1,
                )
        axis.axhline(1, color=GREY, linewidth=1)
        axis.set_xticks((1, 2, 3, 4))
        axis.set_xlim(0.8, 4.2)
        low, high = axis.get_ylim()
        subs = (1, 1.05, 1.1, 1.15, 1.2, 1.3, 9, 9.5) if high < 1.6 * low else (1, 1.2, 1.5, 2, 3, 5, 7)
        axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=15))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    for axis in axes[:, 0]:
        axis.set_ylabel("error over that of l-scale 1", fontsize=9)
    figure.supxlabel("bits per element (number of stacks x l-scale)", fontsize=10)
    handles = _marks(
        *((f"l-scale {scale:g}", *style, "-") for scale, style in styles.items()),
        (f"bqq ({ours})", BLACK, "", "-"),
        ("printed in the paper", BLACK, "", "--"),
    )
    _legend(figure, handles, 3)
    _save(figure, folder, "lscale")


def decay(rows: Rows, folder: Path, ours: str) -> None:
    colours = {"r": BLUE, "s": ORANGE, "t": GREEN}
    matrices = values(rows, "matrix")
    figure, axes = _grid(len(matrices), 2.6, 0.6)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        _panel(axis, matrix)
        for name, colour in colours.items():
            for method, style in ((ours, "-o"), ("paper", "--")):
                of = having(rows, matrix=matrix, method=method)
                points = [row["stack"] for row in of], [abs(row[name]) or float("nan") for row in of]
                axis.plot(*points, style, color=colour, linewidth=1.6, markersize=4)
            printed = [row for row in having(rows, matrix=matrix, method="paper") if row[f"published_{name}"]]
            axis.plot(
                [row["stack"] for row in printed],
                [abs(row[f"published_{name}"]) for row in printed],
                "x",
                color=colour,
                markersize=6,
                markeredgewidth=1.4,
            )
        axis.set_xticks(range(1, 7))
        _log(axis.yaxis)
    figure.supylabel("absolute value of the scale", fontsize=10)
    figure.supxlabel("stack", fontsize=10)
    handles = _marks(
        *((name, colour, "", "-") for name, colour in colours.items()),
        (f"bqq ({ours})", BLACK, "o", "-"),
        ("published schedule", BLACK, "", "--"),
        ("printed, matrix not said", BLACK, "x", ""),
    )
    _legend(figure, handles, 3)
    _save(figure, folder, "decay")


def steps(rows: Rows, folder: Path, ours: str) -> None:
    matrices = values(rows, "matrix")
    if not matrices:
        return
    size = (9.6, 2.5 * len(matrices) + 0.5)
    figure, axes = plt.subplots(len(matrices), 2, figsize=size, squeeze=False, sharey="row", layout="constrained")
    for (left, right), matrix in zip(axes, matrices, strict=True):
        for axis, key in ((left, "steps"), (right, "seconds")):
            _panel(axis, matrix, "xy")
            for p in values(rows, "p"):
                here = having(rows, matrix=matrix, p=p)
                paper = having(here, method="paper")
                axis.plot([row[key] for row in paper], [row["mse"] for row in paper], "-s", color=ORANGE, markersize=5)
                if key == "seconds":
                    efforts = [row for row in here if row["method"] != "paper"]
                    axis.plot([row[key] for row in efforts], [row["mse"] for row in efforts], "-o", color=BLUE)
                else:
                    place = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": ORANGE}
                    axis.annotate(f"p = {p}", (paper[-1][key], paper[-1]["mse"]), (0, 6), **place)
                if paper[0]["published_mse"]:
                    axis.axhline(paper[0]["published_mse"], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
            _log(axis.xaxis)
            _log(axis.yaxis)
        left.set_ylabel("mean squared error", fontsize=9)
    axes[-1][0].set_xlabel("steps per stack", fontsize=10)
    axes[-1][1].set_xlabel("seconds, one thread", fontsize=10)
    handles = _marks(
        ("published schedule", ORANGE, "s", "-"),
        ("bqq fast, default, best", BLUE, "o", "-"),
        ("printed in the paper", GREY, "", "--"),
    )
    _legend(figure, handles, 3)
    _save(figure, folder, "steps")


def joint(rows: Rows, folder: Path, ours: str) -> None:
    matrices = values(rows, "matrix")
    if not matrices:
        return
    figure, axes = _grid(len(matrices), 2.8, 0.6)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        _panel(axis, matrix, "xy")
        for p, style in ((2, "-"), (3, "--")):
            for choice, colour, marker in (("greedy", BLUE, "o"), ("joint", ORANGE, "s")):
                of = having(rows, matrix=matrix, p=p, stacks=choice)
                axis.plot(
                    [p * row["steps"] for row in of],
                    [row["mse"] for row in of],
                    style,
                    color=colour,
                    marker=marker,
                    markersize=5,
                )
        _log(axis.xaxis)
        _log(axis.yaxis)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean squared error", fontsize=9)
    figure.supxlabel("stack-steps: steps times stacks", fontsize=10)
    handles = _marks(
        ("one stack after the other", BLUE, "o", "-"),
        ("all stacks at once", ORANGE, "s", "-"),
        ("p = 2", BLACK, "", "-"),
        ("p = 3", BLACK, "", "--"),
    )
    _legend(figure, handles, 2)
    _save(figure, folder, "joint")


def histograms(rows: Rows, folder: Path, errors: Rows, ours: str) -> None:
    """A line for each matrix: its values, its singular values, the errors at two bits."""
    matrices = values(rows, "matrix")
    methods = ("uniform", "lloyd_max", "svd_8", "vq_4", "e8_flat", "dct100", "jpeg", f"bqq_{ours}")
    size = (9.2, 1.75 * len(matrices) + 0.3)
    figure, axes = plt.subplots(len(matrices), 3, figsize=size, squeeze=False, layout="constrained")
    for (left, middle, right), matrix in zip(axes, matrices, strict=True):
        here = having(rows, matrix=matrix, of="value")
        _panel(left, matrix, "")
        left.fill_between([row["x"] for row in here], [row["y"] for row in here], color=SKY, step="mid")
        left.set(yticks=[], xlim=(-5, 5))
        here = having(rows, matrix=matrix, of="singular value")
        _panel(middle, "", "y")
        shown = [(row["x"], row["y"]) for row in here if row["y"] > 1e-6]
        middle.plot(*zip(*shown, strict=True), color=GREEN, linewidth=2)
        middle.set(xlim=(0, 1))
        middle.set_ylim(min(0.3, middle.get_ylim()[0]), 1.3)
        middle.yaxis.set_major_locator(LogLocator(numticks=5))
        middle.yaxis.set_minor_locator(NullLocator())
        _panel(right, "", "x")
        at_two = [row for row in errors if (row["matrix"], row["bits"]) == (matrix, 2) and row["mse"]]
        found = {row["method"]: row["mse"] for row in at_two}
        names = [method for method in methods if method in found]
        colours = [BLUE if method.startswith("bqq") else GREY for method in names]
        right.scatter([found[method] for method in names], range(len(names)), color=colours, s=22)
        right.set_yticks(range(len(names)), [label(method) for method in names], fontsize=8)
        _log(right.xaxis, narrow=True)
    for axis, name in zip(axes[-1], ("value", "index over rank", "mean squared error at 2 bits"), strict=True):
        axis.set_xlabel(name, fontsize=9)
    axes[0][0].set_title(f"{matrices[0]}: values", fontsize=10, loc="left")
    axes[0][1].set_title("singular values over the largest", fontsize=10, loc="left")
    axes[0][2].set_title("errors", fontsize=10, loc="left")
    _save(figure, folder, "histograms")


def bound(rows: Rows, folder: Path, ours: str) -> None:
    lines = (
        ("bound", ORANGE, "s", "bound of the paper"),
        ("tight_bound", GREEN, "v", "its matrix, best factor"),
        ("mse", BLUE, "o", f"bqq ({ours})"),
    )
    matrices = values(rows, "matrix")
    figure, axes = _grid(len(matrices), 2.6, 0.4)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        _panel(axis, matrix, "xy")
        here = having(rows, matrix=matrix)
        for key, colour, marker, _ in lines:
            axis.plot(
                [row["l_scale"] for row in here],
                [row[key] for row in here],
                "-",
                color=colour,
                marker=marker,
                markersize=5,
            )
        axis.set_xticks([row["l_scale"] for row in here], [f"{row['l_scale']:g}" for row in here])
        axis.xaxis.set_minor_locator(NullLocator())
        _log(axis.yaxis)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean squared error", fontsize=9)
    figure.supxlabel("l-scale of one stack (bits per element)", fontsize=10)
    handles = _marks(*((label, colour, marker, "-") for _, colour, marker, label in lines))
    _legend(figure, handles, 3)
    _save(figure, folder, "bound")


def inference(rows: Rows, folder: Path, ours: str) -> None:
    colours = dict(zip((1, 2, 3, 4), (SKY, BLUE, PURPLE, ORANGE), strict=True))
    matrices = values(rows, "matrix")
    figure, axes = _grid(len(matrices), 2.6, 0.6)
    for axis, matrix in zip(axes.flat, matrices, strict=False):
        _panel(axis, matrix, "xy")
        for p in values(rows, "p"):
            here = having(rows, matrix=matrix, p=p)
            for kind, style, marker in (("float32", "-", "o"), ("fast", "--", "s")):
                axis.plot(
                    [row["batch"] for row in here],
                    [row[f"faster_{kind}"] for row in here],
                    style,
                    color=colours[p],
                    marker=marker,
                    markersize=4.5,
                )
        axis.axhline(1, color=GREY, linewidth=1)
        axis.set_xticks(values(rows, "batch"), [str(batch) for batch in values(rows, "batch")])
        axis.xaxis.set_minor_locator(NullLocator())
        _log(axis.yaxis)
    for axis in axes[:, 0]:
        axis.set_ylabel("times NumPy's speed", fontsize=9)
    figure.supxlabel("batch (columns of X), one thread", fontsize=10)
    handles = _marks(
        *((f"p = {p}", colours[p], "", "-") for p in values(rows, "p")),
        ("float32", BLACK, "o", "-"),
        ("fast", BLACK, "s", "--"),
    )
    _legend(figure, handles, 3)
    _save(figure, folder, "inference")


PICTURES: dict[str, Callable[[Rows, Path, str], None]] = {
    "lscale": lscale,
    "decay": decay,
    "steps": steps,
    "joint": joint,
    "bound": bound,
    "inference": inference,
}


def draw(tables: dict[str, Rows], folder: Path, ours: str) -> list[str]:
    """All pictures there are rows for; their names."""
    found = {name: rows for name, rows in tables.items() if rows}
    for name, rows in found.items():
        if name in PICTURES:
            PICTURES[name](rows, folder, ours)
    if "errors" in found:
        errors(found["errors"], folder, ours)
        review(found["errors"], folder, ours)
        if "histograms" in found:
            histograms(found["histograms"], folder, found["errors"], ours)
    return [name for name in ("errors", "review", "histograms", *PICTURES) if (folder / f"{name}.png").exists()]
