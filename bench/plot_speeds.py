"""The picture of matmul.py's CSV: speed over batch, one panel a shape.

python -m bench.plot_speeds bench/results/matmul.csv bench/results/matmul.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import read_csv

Row = dict[str, Any]

# Okabe and Ito: told apart by all eyes. Colour is the peer, the marker its family.
STYLES = {
    "numpy float32": ("#666666", "x", "--"),
    "torch float32": ("#CC79A7", "v", "--"),
    "torch bfloat16": ("#E69F00", "v", "--"),
    "torch int8": ("#D55E00", "v", "--"),
    "onnxruntime 2-bit": ("#009E73", "s", "--"),
    "onnxruntime 4-bit": ("#56B4E9", "s", "--"),
    "ggml Q4_0": ("#8B5A2B", "^", "--"),
    "ggml Q2_K": ("#BFA37A", "^", "--"),
}
OURS = ("#0072B2", "#000000")


def draw(rows: Sequence[Row], target: str) -> None:
    """One thread, hot, two stacks in default patches: the CSV may hold more."""
    ours = [f"bqq {precision} p=2 patch=default" for precision in ("float32", "fast")]
    methods = [*STYLES, *ours]
    rows = [r for r in rows if str(r["threads"]) == "1" and r["cache"] == "hot" and r["method"] in methods]
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    panels = list(dict.fromkeys(str(row["shape"]) for row in rows))
    columns = min(3, len(panels) + 1)
    lines = -(-(len(panels) + 1) // columns)  # one place for the legend
    figure, axes = plt.subplots(lines, columns, figsize=(3.1 * columns, 2.8 * lines), squeeze=False)
    places = list(axes.flat)
    handles: dict[str, Any] = {}
    for axis, shape in zip(places, panels, strict=False):
        here = sorted((row for row in rows if row["shape"] == shape), key=lambda row: int(row["batch"]))
        for method in dict.fromkeys(str(row["method"]) for row in here):
            line = [row for row in here if row["method"] == method]
            colour, marker, dash = STYLES.get(method, ("", "o", "-"))
            colour = colour or OURS[ours.index(method) % len(OURS)]
            (handles[method],) = axis.plot(
                [int(row["batch"]) for row in line],
                [float(row["cpu_speedup"]) for row in line],
                color=colour,
                marker=marker,
                linestyle=dash,
                markersize=5,
                linewidth=2 if method in ours else 1.2,
            )
        axis.set(xscale="log", yscale="log", ylim=(0.15, 30))
        axis.set_title(shape, fontsize=10)
        axis.set_xticks(sorted({int(row["batch"]) for row in here}))
        axis.set_yticks([0.2, 0.5, 1, 2, 5, 10, 20])
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(ScalarFormatter())
            scale.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.tick_params(labelsize=8)
        axis.grid(color="#dddddd", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in places[len(panels) :]:
        axis.axis("off")
    places[len(panels)].legend(handles.values(), handles.keys(), loc="center", frameon=False, fontsize=8.5)
    figure.supxlabel("columns of X (batch)", fontsize=10)
    figure.supylabel("times faster than NumPy float32 (CPU time)", fontsize=10)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)
    print(f"wrote {target}")


def main() -> None:
    source, target = sys.argv[1:]
    draw(read_csv(Path(source))[1], target)


if __name__ == "__main__":
    main()
