"""Writes the tables of README.md (one, short) and docs/pages/performance.md (all) from the CSV files in bench/results.

python -m bench.readme
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, median

from bench import model_tables as models
from bench.machine import ROOT, read_csv

BEGIN, END = "<!-- tables of bench/readme.py -->", "<!-- end of tables -->"
PAGE = ROOT / "docs" / "pages" / "performance.md"


def read(name: str) -> tuple[str, list[dict[str, str]]]:
    return read_csv(ROOT / "bench" / "results" / name)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def lowest_bold(values: list[float]) -> list[str]:
    return [f"**{v:.5f}**" if v == min(values) else f"{v:.5f}" for v in values]


METHODS = {
    "uniform": "uniform",
    "lloyd_max": "Lloyd-Max",
    "fast": 'bqq `effort="fast"`',
    "default": "bqq default",
    "best": 'bqq `effort="best"`',
    "paper": "published schedule, 50,000 steps",
}  # PyTorch's rows have times without errors of their own: see decompose.png and decompose_targets.csv


def errors(rows: list[dict[str, str]]) -> str:
    threads = next(row["threads"] for row in rows if row["method"] == "default")
    found = {(row["matrix"], row["bits"], row["method"]): row for row in rows if row["threads"] in ("", threads)}
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]

    def cells(matrix: str, bits: str) -> list[str]:
        of = [found[matrix, bits, method] for method in methods]
        values = lowest_bold([float(row["mse"]) for row in of])
        return [
            f"{v} ({float(row['cpu_seconds']):.1f} s)" if row["cpu_seconds"] else v
            for v, row in zip(values, of, strict=True)
        ]

    cases = dict.fromkeys((row["matrix"], row["bits"]) for row in rows if row["bits"] != "3")  # the rest is in the CSV
    body = [[matrix, bits, *cells(matrix, bits)] for matrix, bits in cases]
    return table(["matrix", "bits", *(METHODS[method] for method in methods)], body)


def speedups(rows: list[dict[str, str]]) -> str:
    """CPU-time ratios of both classes to NumPy and, in brackets, to the fastest of the other peers."""
    speed = single(rows)
    shapes = dict.fromkeys(row["shape"] for row in rows)
    method = "bqq float32 p=2 patch=default"
    batches = [b for b in sorted({b for _, b, _ in speed}) if all((shape, b, method) in speed for shape in shapes)]
    peers = [m for m in dict.fromkeys(row["method"] for row in rows) if not m.startswith(("bqq", "numpy"))]
    body = []
    for shape in shapes:
        for precision in ("float32", "fast"):
            cells = [shape, precision]
            for batch in batches:
                ours = speed[shape, batch, f"bqq {precision} p=2 patch=default"]
                best = f" ({ours / max(speed.get((shape, batch, peer), 0) for peer in peers):.1f})" if peers else ""
                cells.append(f"{ours:.1f}x{best}")
            body.append(cells)
    return table(["shape", "precision", *(f"batch {batch}" for batch in batches)], body)


def single(rows: list[dict[str, str]]) -> dict[tuple[str, int, str], float]:
    """CPU-time ratios to NumPy on one thread with hot caches, by shape, batch and method."""
    rows = [row for row in rows if row["threads"] == "1" and row["cache"] == "hot"]
    return {(row["shape"], int(row["batch"]), row["method"]): float(row["cpu_speedup"]) for row in rows}


def stacks(rows: list[dict[str, str]]) -> str:
    """4096 x 4096: every number of stacks against NumPy."""
    speed, shape = single(rows), "4096x4096"
    batches = sorted({batch for s, batch, method in speed if s == shape and "p=4" in method})
    body = [
        [str(p), precision, *(f"{speed[shape, b, f'bqq {precision} p={p} patch=default']:.1f}x" for b in batches)]
        for p in (1, 2, 3, 4)
        for precision in ("float32", "fast")
    ]
    return table(["p", "precision", *(f"batch {batch}" for batch in batches)], body)


def saved(rows: list[dict[str, str]]) -> str:
    shares = sorted(float(row["full_saves_of_default_blocks"].rstrip("%")) for row in rows)
    return " to ".join(f"{share:.0f} %" for share in (shares[0], shares[-1]))


def tables() -> str:
    """All of it, as Markdown; links are relative to docs/pages."""
    machine, decompose = read("decompose.csv")
    _, weight = read("weight.csv")
    product_machine, matmul = read("matmul.csv")
    _, avx2 = read("matmul_avx2.csv")
    codes_machine, ann = read("ann.csv")
    return f"""
## Error and time

Mean squared error at equal bits and, in brackets, CPU time on one thread; matrices scaled to standard deviation 1,
lowest error bold. Distance is TSPLIB's rd100. The paper prints 0.3243 / 0.1053 / 0.0344 for the Gaussian and
0.0146 / 0.0023 / 0.0007 for rd100.

{errors(decompose)}
`python -m bench.decompose --out bench/results` (`--rd100 FILE` for the TSPLIB instance)

Time to the published error, cost of a step against PyTorch, and every target with its verdict:
[decompose_targets.csv](../../bench/results/decompose_targets.csv); error over time:
[picture](../../bench/results/decompose.png).

With the inputs X of a layer as weight, the error of its outputs on held-out text falls by {saved(weight)} at two
bits, two layers of MiniLM: `python -m bench.weight --layers 0 --parts
attention.self.query,attention.output.dense --csv bench/results/weight.csv`.

Where it loses: by the paper's own review tables, JPEG is better on photos and a lattice of 12 % more bits on Gaussian
noise; in the table, a plain Lloyd-Max codebook on the Gaussian at 4 bits.

## Products

`q @ X`, p = 2, default patches, one thread: CPU time against NumPy's float32 product and, in brackets,
against the fastest of the other peers (torch float32, bfloat16 and int8, ONNX Runtime 2- and 4-bit, ggml Q2_K, TQ2_0
and Q4_0 as packaged for AVX2), medians of interleaved runs; above 1 is faster:

{speedups(matmul)}
`OPENBLAS_NUM_THREADS=1 python -m bench.matmul --csv bench/results/matmul.csv --plot bench/results/matmul.png`
([picture](../../bench/results/matmul.png)). Every target of the product with its verdict:
[matmul_targets.csv](../../bench/results/matmul_targets.csv), `python -m bench.matmul_targets bench/results`.
`precision="float32"` is as exact as float32; `"fast"` has a mean squared error below 5e-4 of the result's mean
square, unless single inputs are extreme. Where it loses: to torch's bfloat16 and int8 (which use AMX) from batch 64 on,
in the float32 class from batch 16 on, for 1536x384 earlier; to NumPy in the float32 class for 384x384 at batch 4 and
256 and with three or four stacks at batch 256.

The same CPU capped to AVX2, NumPy too (`BQQ_ISA=avx2 OPENBLAS_CORETYPE=Zen`; torch is not capped), p = 2:

{speedups(avx2)}
More or fewer stacks against NumPy, 4096x4096 (the same command with `--shapes 4096x4096 --p 1,3,4`); other block sizes,
two threads and cold caches are in [matmul.csv](../../bench/results/matmul.csv):

{stacks(matmul)}
## Vector codes

Exhaustive search on one thread: recall@10, mean over up to three seeds, and queries a second; `coarse=1` scans the
first stage of a code and ranks the best of that by all of it. Others: the best recall of each kind at no more bytes.
`bqq.Matrix`: rows of a compressed matrix as they stand, Z binary as in the paper.

{codes(ann)}
`python -m bench.ann --matrix --csv bench/results/ann.csv`; pictures: recall over
[bytes](../../bench/results/ann_bytes.png) and over [queries a second](../../bench/results/ann_queries.png). What did
not end within the time the file names is left out.

## Models

{models.tables()}
Errors measured on {machine}; products on {product_machine}; vector codes on {codes_machine}.
"""


def summary() -> str:
    """The one table of README.md: what was measured, ours, the others."""
    _, errors_ = read("decompose.csv")
    _, matmul = read("matmul.csv")
    _, ann = read("ann.csv")
    found = {(row["matrix"], row["bits"], row["method"]): row for row in errors_}

    def error(matrix: str, bits: str, others: Iterable[str]) -> list[str]:
        ours, *rest = (found[matrix, bits, method] for method in ("default", *others))
        win = all(float(ours["mse"]) < float(row["mse"]) for row in rest)
        cell = f"{float(ours['mse']):.4f} ({float(ours['cpu_seconds']):.1f} s)"
        told = (
            f"{METHODS[row['method']].partition(',')[0]} {float(row['mse']):.4f}"
            + (f" ({float(row['cpu_seconds']):.1f} s)" if row["cpu_seconds"] else "")
            for row in rest
        )
        return [f"error of {matrix} at {bits} bits", f"**{cell}**" if win else cell, "; ".join(told)]

    speed = single(matmul)

    def product(batch: int) -> list[str]:
        shape = "4096x4096"
        ours = speed[shape, batch, "bqq fast p=2 patch=default"]
        peers = {m: v for (s, b, m), v in speed.items() if (s, b) == (shape, batch) and not m.startswith("bqq")}
        peer = max(peers, key=lambda m: peers[m])
        cell = f"{ours:.1f}x NumPy's float32"
        return [
            f"product {shape} at 2 bits, batch {batch}",
            f"**{cell}**" if ours > peers[peer] else cell,
            f"{peer} {peers[peer]:.1f}x",
        ]

    def search(name: str, size: int) -> list[str]:
        ours, scan = (of(ann, name, method, size) for method in ("bqq", "PQ4fs"))
        best = best_others(ann, name, size)[0]
        win = ours[0] > max(scan[0], best[1])
        cell = f"{ours[0]:.3f}, {ours[1] / 1000:.1f}k/s"
        return [
            f"recall@10 of {SETS[name]}, {size} bytes, queries a second",
            f"**{cell}**" if win else cell,
            f"FAISS PQ fast scan {scan[0]:.3f}, {scan[1] / 1000:.1f}k/s; "
            f"{best[0]} {best[1]:.3f}, {best[2] / 1000:.1f}k/s",
        ]

    rows = [
        error("ViT-S attention 384x384", "2", ("lloyd_max", "paper")),
        error("Photo 224x224", "2", ("lloyd_max", "paper")),
        error("Gaussian 128x128", "2", ("lloyd_max", "paper")),
        error("Gaussian 128x128", "4", ("lloyd_max", "paper")),
        *(product(batch) for batch in (1, 16, 256)),
        *(search("sift", size) for size in (16, 64)),
        search("glove", 32),
        *models.summary(),
    ]
    return table(["one thread", "bqq", "beside it"], rows)


SETS = {
    "sift": "SIFT, 64,140 x 128",
    "glove": "GloVe, 200,000 x 50",
    "minilm": "MiniLM, 40,000 x 384",
    "fashion": "Fashion-MNIST, 40,000 x 784",
    "wordllama": "WordLlama, 89,000 x 256",
    "clustered": "clusters, 100,000 x 128",
}
KINDS = {
    "PQ8": "PQ",
    "OPQ": "PQ",
    "PQ4": "PQ",
    "RQ4": "RQ",
    "RQ8": "RQ",
    "LSQ": "LSQ",
    "SQt": "TurboQuant",
    "SQ4": "SQ",
}


def of(rows: list[dict[str, str]], name: str, method: str, size: int) -> tuple[float, float]:
    """Recall and queries a second over the seeds."""
    seeds = [r for r in rows if (r["set"], r["method"], r["bytes"]) == (name, method, str(size)) and r["recall"]]
    return mean(float(r["recall"]) for r in seeds), median(float(r["queries_s"]) for r in seeds)


def best_others(rows: list[dict[str, str]], name: str, size: int) -> list[tuple[str, float, float]]:
    """Of each kind the one with the best recall at no more bytes: name, recall, queries a second."""
    found: dict[str, tuple[str, float, float]] = {}
    for row in rows:
        method, true = row["method"], int(row["bytes"])
        if row["set"] != name or true > size or not row["recall"] or method.startswith(("bqq", "PQ4fs", "HNSW")):
            continue
        kind = KINDS.get(method[:3], method.partition(" ")[0].rstrip("123456789"))
        at = f"{method} ({true} bytes)" if true < size else method
        if kind not in found or float(row["recall"]) > found[kind][1]:
            found[kind] = (at, float(row["recall"]), float(row["queries_s"]))
    return sorted(found.values(), key=lambda found: -found[1])


def codes(rows: list[dict[str, str]]) -> str:
    def cell(recall: float, speed: float, name: str = "") -> str:
        return f"{name} {recall:.3f}, {speed / 1000:.1f}k".strip()

    body = []
    for name in SETS:
        for size in (16, 32, 64):
            if not any((r["set"], r["method"], r["bytes"]) == (name, "bqq", str(size)) for r in rows):
                continue
            ours, scan = (of(rows, name, method, size) for method in ("bqq", "PQ4fs"))
            has = {r["method"] for r in rows if r["set"] == name and int(r["bytes"]) in (size, size + 1)}
            coarse = cell(*of(rows, name, "bqq coarse=1", size + 1)) if "bqq coarse=1" in has else ""
            binary = cell(*of(rows, name, "bqq.Matrix", size)) if "bqq.Matrix" in has else ""
            others = best_others(rows, name, size)
            won = ours[0] > max([scan[0], *(recall for _, recall, _ in others)])
            first = f"**{ours[0]:.3f}**, {ours[1] / 1000:.1f}k" if won else cell(*ours)
            told = "; ".join(cell(recall, speed, method) for method, recall, speed in others[:4])
            body.append([SETS[name], str(size), first, coarse, binary, cell(*scan), told])
    return table(["vectors", "bytes", "bqq", "`coarse=1`", "`bqq.Matrix`", "FAISS PQ fast scan", "others"], body)


def main() -> None:
    for page, text in ((ROOT / "README.md", summary()), (PAGE, tables())):
        before, rest = page.read_text("utf-8").split(BEGIN)
        _, after = rest.split(END)
        page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
