"""The tables of whole models, from bench/results/models."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from bench.machine import ROOT, read_csv

PARTS = {
    "": "all of it",
    "guide": "without the guide",
    "propagate": "without error propagation",
    "order": "without the order of columns",
    "outliers": "without outliers apart",
    "tune": "without tuning of blocks",
    "propagate+order+outliers+tune+guide": "metric of the inputs alone",
    "calibration": "without calibration",
}
NAMES = {"gptq": "GPTQ", "uniform": "round to nearest", "binary": "binary coding"}
Row = dict[str, str]


def read(name: str) -> tuple[str, list[Row]]:
    return read_csv(ROOT / "bench" / "results" / "models" / name)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def best_first(rows: list[Row], key: str, higher: bool) -> list[Row]:
    """By whole bits, the best of each first."""
    return sorted(rows, key=lambda r: (round(float(r["bits_per_weight"]) - 0.3), float(r[key]) * (-1 if higher else 1)))


def minilm() -> str:
    _, rows = read("minilm.csv")
    body = []
    for row in best_first(rows, "cosine", higher=True):
        name = NAMES.get(row["method"], row["method"]) + (
            ", corrected" if row.get("correct") not in ("", "0", None) else ""
        )
        cell = f"**{name}**" if row["method"] == "bqq" else name
        body.append([cell, row["bits_per_weight"], row["cosine"], row["spearman"], row["output_error"]])
    return table(["MiniLM, 36 layers", "bits a weight", "cosine", "Spearman (STS-B)", "error of tokens"], body)


def smollm2() -> str:
    _, rows = read("smollm2.csv")
    body = [
        [f"**{row['what']}**" if row["what"] == "bqq" else row["what"], row["bits_per_weight"], row["perplexity"]]
        for row in sorted(rows, key=lambda row: float(row["bits_per_weight"]))
    ]
    return table(["SmolLM2-135M, 210 layers", "bits a weight", "perplexity"], body)


def vit() -> str:
    _, rows = read("vit.csv")
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["bits"], row["method"]), []).append(row)
    body = []
    for (bits, method), same in found.items():
        cells = [f"{mean(float(row[key]) for row in same):.2f}" for key in ("bits_per_weight", "top1", "same_class")]
        body.append([bits, f"**{method}**" if "BQQ" in method else method, *cells])
    body.sort(key=lambda cells: (-int(cells[0]) if cells[0] != "32" else -99, -float(cells[3])))
    return table(["bits", "ViT on Fashion-MNIST", "bits a weight", "top-1", "same class as float32"], body)


def ablation() -> str:
    _, rows = read("minilm_ablation.csv")
    body = [[PARTS[row["without"]], row["bits_per_weight"], row["cosine"], row["output_error"]] for row in rows]
    return table(["MiniLM, two blocks", "bits a weight", "cosine", "error of tokens"], body)


def generation() -> str:
    _, rows = read("generation.csv")
    body = [
        [row["model"], row["ms_per_token"], row["layers_ms"], row["resident_mb"] or row["layers_mb"]] for row in rows
    ]
    return table(["SmolLM2-135M's shape, one thread", "CPU ms a token", "of its layers", "MB of the layers"], body)


def summary() -> list[list[str]]:
    """Rows for the table of README.md, at about two bits."""

    def rows_of(name: str, key: str) -> list[Row]:
        return [row for row in read(name)[1] if float(row["bits_per_weight"]) < 3 and row[key]]

    def row(what: str, name: str, key: str, method: str, ours: tuple[str, ...], higher: bool) -> list[str]:
        rows = sorted(rows_of(name, key), key=lambda r: float(r[key]) * (-1 if higher else 1))
        mine = next(r for r in rows if r[method] in ours)
        best = next(r for r in rows if r[method] not in ours and "BQQ" not in r[method])
        told = [f"{float(r[key]):.4g} ({float(r['bits_per_weight']):.2f} bits)" for r in (mine, best)]
        return [
            what,
            f"**{told[0]}**" if rows.index(mine) < rows.index(best) else told[0],
            f"{NAMES.get(best[method], best[method])} {told[1]}",
        ]

    return [
        row("MiniLM, cosine of embeddings to the float model's", "minilm.csv", "cosine", "method", ("bqq",), True),
        row("SmolLM2-135M, perplexity of WikiText-2", "smollm2.csv", "perplexity", "what", ("bqq",), False),
        row("ViT on Fashion-MNIST, % in the float model's class", "vit.csv", "same_class", "method", ("c-BQQ",), True),
    ]


def tables() -> str:
    """Markdown; links are relative to docs/pages."""
    machine = read("minilm.csv")[0]
    return f"""Cosine: of sentence embeddings with those of the float model, over sentences that did not calibrate;
perplexity: WikiText-2, windows of 512 tokens, `<unk>` kept, so that it compares with the float model here only. Scales,
zeros, orders and outliers are counted. [Picture](../../bench/results/models.png) of what is lost over bits
(`python -m bench.plot_models`; the transformer of vision corrected as in the paper, the others not).

{minilm()}
`python -m bench.models.minilm --sentences stsb-en-dev.csv --texts wikitext2-valid.txt --bits 2,3,4 --tune 160
--peers uniform,binary,gptq`, and once more with `--correct 8`: the paper's correction step.

{smollm2()}
`python -m bench.models.smollm2 --text wikitext2-valid.txt --bits 2,3 --peers Q2_K,IQ2_S,Q3_K`; ggml's types have the
mean squares of the same inputs as importance matrix.

{vit()}
`python -m bench.models.vit --bits 1,2,3,4`; c-BQQ: 15 epochs of the paper's correction step on the outputs.

One token at a time; weights of compressed layers mapped from their file, resident memory:

{generation()}
`python -m bench.models.generation --rounds 5`: random weights and bits, neither of which matters to it.

Where it loses: at four bits GPTQ, at .28 bits more, is closer to MiniLM; on the small transformer of vision, whose
classes hardly depend on two bits, binary coding without calibration has the better top-1 at three times the error of
the logits ([vit.csv](../../bench/results/models/vit.csv)).

What the parts of the recipe bring, two bits, the first two blocks:

{ablation()}
`python -m bench.models.minilm --sentences stsb-en-dev.csv --texts wikitext2-valid.txt --bits 2 --blocks 2
--without guide,propagate,order,outliers,tune`. Measured on {machine}.
"""
