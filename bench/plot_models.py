"""The picture of whole models: what is lost over bits a weight, a panel for each model.

python -m bench.plot_models [bench/results/models] [bench/results/models.png]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from bench.machine import ROOT, read_csv

matplotlib.use("Agg")
RESULTS = ROOT / "bench" / "results"

STYLES = {  # Okabe and Ito: told apart by all eyes
    "bqq": ("#0072B2", "o", "-"),
    "GPTQ": ("#D55E00", "s", "--"),
    "GPTQ with error propagation": ("#D55E00", "D", ":"),
    "round to nearest": ("#666666", "x", "--"),
    "binary coding": ("#CC79A7", "^", "--"),
    "double binary factors": ("#56B4E9", "v", "--"),
    "ggml Q2_K, Q3_K, Q4_K": ("#009E73", "P", "--"),
    "ggml IQ2_XXS, IQ2_S": ("#E69F00", "*", ":"),
}
NAMES = {
    "gptq": "GPTQ",
    "gptq-propagated": "GPTQ with error propagation",
    "uniform": "round to nearest",
    "binary": "binary coding",
    "c-BQQ": "bqq",
    "double": "double binary factors",
    "double binary": "double binary factors",
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K"), "ggml Q2_K, Q3_K, Q4_K"),
    **dict.fromkeys(("IQ2_XXS", "IQ2_S"), "ggml IQ2_XXS, IQ2_S"),
}
PANELS = (  # file, column of what is drawn, title, axis
    ("minilm.csv", "cosine", "MiniLM", "1 - cosine to the float model"),
    ("smollm2.csv", "perplexity", "SmolLM2-135M", "perplexity, WikiText-2"),
    ("saliency.csv", "map_error", "ViT-S, maps of photos", "error of the map"),
    ("vit.csv", "logit_error", "ViT on Fashion-MNIST", "error of the logits"),
)


def points(rows: list[dict[str, str]], value: str) -> dict[str, list[tuple[float, float]]]:
    """Of each method: bits a weight and what is lost, by the recipe as it is and the first seed; with equal bits for
    all layers where no other row has about as many."""
    lines: dict[str, dict[int, tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: bool(row.get("without"))):
        name, bits = NAMES.get(row["method"], row["method"]), float(row["bits_per_weight"])
        plain = all(row.get(key) in (None, "", "0") for key in ("correct", "effort", "seed"))
        if name in STYLES and plain and row.get("without") in (None, "", "mixed"):
            lost = 1 - float(row[value]) if value == "cosine" else float(row[value])
            lines.setdefault(name, {}).setdefault(round(bits), (bits, lost))
    return {name: sorted(lines[name].values()) for name in STYLES if name in lines}


def draw(source: Path, target: Path) -> None:
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, len(PANELS), figsize=(3.3 * len(PANELS), 3.6))
    handles: dict[str, Any] = {}
    for axis, (file, value, title, label) in zip(axes, PANELS, strict=True):
        _, rows = read_csv(source / file)
        for name, found in points(rows, value).items():
            colour, marker, dash = STYLES[name]
            style = {"color": colour, "marker": marker, "linestyle": dash or "none", "label": name}
            handles[name] = axis.plot(*zip(*found, strict=True), linewidth=1.8 if name == "bqq" else 1, **style)[0]
        float32 = [float(row[value]) for row in rows if row["method"] == "float32"]
        if value == "perplexity":
            axis.axhline(float32[0], color="#000000", linewidth=0.8, linestyle=":")
            axis.annotate("float32", (2, float32[0]), xytext=(0, 3), textcoords="offset points", fontsize=8)
        axis.set_yscale("log")
        for ticks in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticks(FuncFormatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "1246" else ""))
        axis.grid(which="both", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("bits a weight, all counted")
        axis.set_ylabel(label)
    figure.legend(
        [handles[n] for n in STYLES], STYLES, loc="upper center", ncols=len(STYLES), frameon=False, fontsize=8
    )
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(target, dpi=110)
    plt.close(figure)
    print(f"wrote {target}")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    draw(*(given + [RESULTS / "models", RESULTS / "models.png"][len(given) :]))
