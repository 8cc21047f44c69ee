"""The tables of whole models, from bench/results/models."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean

from bench.machine import ROOT, read_csv

PARTS = {
    "mixed": "all of it but mixed bits",
    "mixed+guide": "without the guide",
    "mixed+propagate": "without error propagation",
    "mixed+order": "without the order of columns",
    "mixed+outliers": "without outliers apart",
    "mixed+tune": "without tuning of blocks",
    "mixed+propagate+order+outliers+tune+guide": "metric of the inputs alone",
    "calibration": "without calibration",
}
NAMES = {
    "gptq": "GPTQ",
    "gptq-unordered": "GPTQ, columns in their own order",
    "gptq-propagated": "GPTQ with error propagation",
    "gptq-128": "GPTQ with error propagation, groups of 128",
    "uniform": "round to nearest",
    "binary": "binary coding",
    "double": "double binary factors",
    "double binary": "double binary factors",
}
LOSSES = """\
Where it loses: at four bits GPTQ, at .28 bits more, is closer to MiniLM, with error propagation, which is ours and in
no package that we know, clearly so; at three bits that is closer in the error of tokens. To EfficientNet's logits GPTQ
is closer at four bits, at as many. Without calibration three bits of rounding to nearest, at .27 more, are
closer to MiniLM than ours; at two bits they are as close, at .26 more. On the small transformer of vision, whose
classes hardly depend on two bits, binary coding without calibration has the better top-1 at three times the error of
the logits ([vit.csv](../../bench/results/models/vit.csv)). On SmolLM2's first blocks neither the guide nor tuning
shows in the perplexity, which differs by .3 between two seeds; over all 30, at equal bits, it is 42.2 without the
guide (`--without mixed+guide`) and 43.0 with it. On EfficientNet the correction step, which sees 240 crops of ten
photos, makes other photos worse, and without calibration nothing of two bits is of use, ours less than double binary
factors.
"""
EVEN = "equal bits"  # for all layers
Row = dict[str, str]


def read(name: str) -> tuple[str, list[Row]]:
    return read_csv(ROOT / "bench" / "results" / "models" / name)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def best_first(rows: list[Row], key: str, higher: bool) -> list[Row]:
    """By whole bits, the best of each first."""
    return sorted(rows, key=lambda r: (round(float(r["bits_per_weight"]) - 0.3), float(r[key]) * (-1 if higher else 1)))


def averaged(rows: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """Rows that differ by their seeds become one, with the means of `keys`, and their number as "seeds"."""
    same: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        kind = [row.get(key, "") for key in ("method", "without", "correct", "effort")]
        same.setdefault((*kind, row.get("bits") or row["bits_per_weight"]), []).append(row)
    return [
        {**found[0], **{key: str(mean(float(row[key]) for row in found)) for key in keys}, "seeds": str(len(found))}
        for found in same.values()
    ]


def minilm() -> str:
    keys = ("bits_per_weight", "cosine", "spearman", "output_error")
    body = []
    for row in best_first(averaged(read("minilm.csv")[1], keys), "cosine", higher=True):
        notes = [
            *(["data-free"] if row["without"] == "calibration" else []),
            *([EVEN] if row["without"] == "mixed" else []),
            *([f"effort {row['effort']}"] if row["effort"] else []),
            *(["corrected"] if row["correct"] not in ("", "0") else []),
            *([f"{row['seeds']} seeds"] if row["seeds"] != "1" else []),
        ]
        name = f"**{row['method']}**" if row["method"] == "bqq" else NAMES.get(row["method"], row["method"])
        body.append([", ".join([name, *notes]), *(f"{float(row[key]):.4f}" for key in keys)])
    return table(["MiniLM, 36 layers", "bits a weight", "cosine", "Spearman (STS-B)", "error of tokens"], body)


def smollm2() -> str:
    _, rows = read("smollm2.csv")
    keys = ("bits_per_weight", "perplexity")
    body = [
        [
            "**bqq**" + f", {EVEN}" * (row["without"] == "mixed")
            if row["method"] == "bqq"
            else NAMES.get(row["method"], row["method"]),
            *(row[key] for key in keys),
        ]
        for row in sorted(rows, key=lambda row: float(row["bits_per_weight"]))
    ]
    return table(["SmolLM2-135M, 210 layers", "bits a weight", "perplexity"], body)


def images(file: str, head: str, columns: dict[str, tuple[str, int]]) -> str:
    """An experiment on images. Columns: what they are called here and their digits, first the one to rank by."""
    digits, body = {"bits_per_weight": 2} | {key: number for key, (_, number) in columns.items()}, []
    for row in averaged(read(file)[1], ("bits_per_weight", *columns)):
        method = row["method"]
        name = f"**{method}**" if "BQQ" in method else NAMES.get(method, method)
        name += f", {EVEN}" * (row.get("without") == "mixed")
        many = f", {row['seeds']} seeds" if row["seeds"] != "1" else ""
        cells = [f"{float(row[key]):.{number}f}" for key, number in digits.items()]
        body.append([row["bits"], name + many, *cells])
    body.sort(key=lambda cells: (-int(cells[0]) if cells[0] != "32" else -99, -float(cells[3])))
    return table(["bits", head, "bits a weight", *(name for name, _ in columns.values())], body)


def ablation() -> str:
    _, rows = read("minilm_ablation.csv")
    other = [row for row in read("smollm2_ablation.csv")[1] if (row["blocks"], row["seed"]) == ("3", "0")]
    perplexities = {row["without"]: row["perplexity"] for row in other}
    body = [
        [
            PARTS[row["without"]],
            row["bits_per_weight"],
            row["cosine"],
            row["output_error"],
            perplexities[row["without"]],
        ]
        for row in rows
    ]
    head = ["two bits", "MiniLM, two blocks: bits", "cosine", "error of tokens", "SmolLM2, three blocks: perplexity"]
    return table(head, body)


def generation() -> str:
    _, rows = read("generation.csv")
    body = [
        [row["model"], row["ms_per_token"], row["layers_ms"], row["resident_mb"] or row["layers_mb"]] for row in rows
    ]
    return table(["SmolLM2-135M's shape, one thread", "CPU ms a token", "of its layers", "MB of the layers"], body)


def loading() -> str:
    _, rows = read("loading.csv")
    keys = ("model", "disk_mb", "load_seconds", "loaded_mb", "used_mb")
    head = ["SmolLM2-135M", "MB on disk", "s to load", "MB resident once loaded", "behind a pass"]
    return table(head, [[row[key] for key in keys] for row in rows])


def summary() -> list[list[str]]:
    """Rows for the table of README.md: the best of ours and of others at about as many bits."""

    def row(what: str, name: str, key: str, ours: str, higher: bool, bits: int = 2) -> list[str]:
        rows = averaged(read(name)[1], ("bits_per_weight", key))
        rows = [r for r in rows if bits <= float(r["bits_per_weight"]) < bits + 1]
        rows.sort(key=lambda r: float(r[key]) * (-1 if higher else 1))
        mine = next(r for r in rows if r["method"] == ours)
        best = next(r for r in rows if r["method"] != ours and "BQQ" not in r["method"])
        told = [f"{float(r[key]):.4g} ({float(r['bits_per_weight']):.2f} bits)" for r in (mine, best)]
        return [
            what,
            f"**{told[0]}**" if rows.index(mine) < rows.index(best) else told[0],
            f"{NAMES.get(best['method'], best['method'])} {told[1]}",
        ]

    return [
        row("MiniLM, cosine of embeddings to the float model's", "minilm.csv", "cosine", "bqq", True),
        row("the same at 3 bits", "minilm.csv", "cosine", "bqq", True, bits=3),
        row("the same at 4 bits", "minilm.csv", "cosine", "bqq", True, bits=4),
        row("SmolLM2-135M, perplexity of WikiText-2", "smollm2.csv", "perplexity", "bqq", False),
        row(
            "ViT-S, correlation of maps of photos with the float model's", "saliency.csv", "correlation", "c-BQQ", True
        ),
        row("ViT on Fashion-MNIST, % in the float model's class", "vit.csv", "same_class", "c-BQQ", True),
    ]


def tables() -> str:
    """Markdown; links are relative to docs/pages."""
    machine = read("minilm.csv")[0]
    same = {"same_class": ("same class as float32, %", 2), "logit_error": ("error of the logits", 4)}
    vit = images("vit.csv", "ViT on Fashion-MNIST", {"top1": ("top-1, %", 2), **same})
    net = images("efficientnet.csv", "EfficientNet-lite0, photos", same)
    maps = {"correlation": ("correlation", 3), "iou": ("overlap", 3), "map_error": ("error of the map", 4)}
    return f"""Cosine: of sentence embeddings with those of the float model, over sentences that did not calibrate;
perplexity: WikiText-2, windows of 512 tokens, `<unk>` kept, so that it compares with the float model here only. Scales,
zeros, orders and outliers are counted. [Picture](../../bench/results/models.png) of what is lost over bits
(`python -m bench.plot_models`; the transformer of vision corrected as in the paper, the others not).

{minilm()}
`python -m bench.models.minilm --sentences stsb-en-dev.csv --texts wikitext2-valid.txt --bits 2,3,4 --tune 160
--without ,mixed,calibration
--peers uniform,binary,double,gptq,gptq-unordered,gptq-propagated,gptq-128,Q2_K,IQ2_XXS,IQ2_S,Q3_K,Q4_K`, for other
seeds with `--seed`; at 3.3 bits with `--bits 3.27`, at four bits once more with `--correct 8` (the paper's correction
step), and with `--effort default` and `--effort default --correct 15`: 20 minutes of one core instead of 8. "{EVEN}":
for all layers (`--without mixed`); the others give more to layers on which the output depends more. Double
binary factors and ggml's types have the mean squares of the inputs, GPTQ their whole second moments; error propagation
is that of ours.

{smollm2()}
`python -m bench.models.smollm2 --text wikitext2-valid.txt --bits 2,3 --without ,mixed --peers Q2_K,IQ2_S,Q3_K`;
ggml's types have the mean squares of the same inputs as importance matrix; GPTQ in groups of 64, with
`--peers gptq,gptq-propagated --device cuda`.

{vit}
`python -m bench.models.vit --bits 1,2,3,4 --seeds 3 --without mixed`; c-BQQ: 15 epochs of the paper's correction
step on the outputs.

{images("saliency.csv", "ViT-S that draws maps of photos", maps)}
`python -m bench.models.saliency --bits 2,3 --without mixed`: DINOv2-small with a decoder, its maps of 20
photos beside those of the float model.

{net}
`python -m bench.models.efficientnet`, with `--without mixed` for "equal bits": convolutions of single pixels and
the classifier, 120 views of 20 photos; the others have one scale a row.

One token at a time; weights of compressed layers mapped from their file, resident memory:

{generation()}
`python -m bench.models.generation --rounds 5`: random weights and bits, neither of which matters to it. The whole
model, with its embedding in float32, by `from_pretrained`:

{loading()}
`python -m bench.models.loading saved/2 saved/3`.

{LOSSES}
What the parts of the recipe bring, two bits, the first blocks. Bits are equal there: mixing them pays over a whole
model, as the tables above have it, and is left off where it promises less than 8 %.

{ablation()}
`python -m bench.models.minilm --sentences stsb-en-dev.csv --texts wikitext2-valid.txt --bits 2 --blocks 2 --without
{",".join(PARTS)}`, and `python -m bench.models.smollm2
--text wikitext2-valid.txt --bits 2 --blocks 3 --without` the same. Measured on {machine};
MiniLM's seeds 1 and 2, its data-free rows and the last two rows here on 16 cores of that kind, one thread each; the
variants of GPTQ, MiniLM at 3.3 bits, the ViT-S at three bits and all rows of bqq with calibration that are not of
{EVEN} on a Zen 4, GPTQ on SmolLM2 on an H200.
Rows of a table come from several runs; the last column of each file of `bench/results/models` has the commit.
"""
