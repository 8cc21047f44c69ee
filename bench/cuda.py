"""Time on a GPU through Python: descent steps, whole decompositions, products beside the dense ones of cuBLAS.

    python -m bench.cuda [--csv FILE] [--library cupy|torch] [--graph] [--parts steps,decompose,published,matmul]

Arrays are CuPy's or, where there is no CuPy, torch's: dense products are theirs, in float16 and float32. Calls are
queued until the clock has run for a tenth of a second, then waited for; medians of interleaved runs, Python's share of
a call included (a call that only checks its arguments is printed beside them). Beside each time stands what the
data sheet allows at best: bytes over bandwidth or operations over rate, whichever is longer. It is a bound, not a
forecast; cuda/DESIGN.md has the forecasts. Without a GPU it says so and ends well. bench_cuda.cu times the same
kernels without Python.
"""

from __future__ import annotations

import argparse
import importlib
import operator
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import bqq
from bench.machine import describe, write_csv

Row = dict[str, object]
# GB/s, then TFLOP/s of float32 and of bfloat16 on tensor cores (dense): NVIDIA's data sheets of the SXM cards
SHEETS = {"A100": (1555, 19.5, 312), "H100": (3350, 67, 989), "H200": (4800, 67, 989)}


class Library:
    """What the bench needs of CuPy or torch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = importlib.import_module(name)
        cuda = self.module.cuda
        if name == "cupy":
            self.device = cuda.runtime.getDeviceProperties(0)["name"].decode()
            self.wait: Callable[[], object] = cuda.get_current_stream().synchronize
        else:
            self.device = cuda.get_device_name(0)
            self.wait = cuda.synchronize

    def array(self, x: np.ndarray, dtype: str = "float32") -> Any:
        if self.name == "cupy":
            return self.module.asarray(x.astype(dtype))
        return self.module.from_numpy(x).to("cuda", getattr(self.module, dtype))


def find_library(wanted: str | None) -> Library | str:
    """The first library that has a GPU, or why there is none."""
    reasons = []
    for name in [wanted] if wanted else ["cupy", "torch"]:
        try:
            return Library(name)
        except Exception as error:  # whatever a library without a driver raises
            reasons.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return "; ".join(reasons)


def in_graph(library: Library, job: Callable[[], object], calls: int = 20) -> Callable[[], object]:
    """A replay of so many calls, captured with torch."""
    torch = library.module
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        job()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            job()
    replay: Callable[[], object] = graph.replay
    return replay


def timed(
    library: Library, jobs: Mapping[str, Callable[[], object]], rounds: int = 7, graph: bool = False
) -> dict[str, float]:
    """Median seconds of a call of each job, many in the queue at once; in graphs of 20 calls if `graph`."""
    if graph:
        times = timed(library, {name: in_graph(library, job) for name, job in jobs.items()}, rounds)
        return {name: seconds / 20 for name, seconds in times.items()}
    repeats = {}
    for name, job in jobs.items():
        for _ in range(3):
            job()
        library.wait()
        start = time.perf_counter()
        job()
        library.wait()
        repeats[name] = max(1, min(5000, int(0.1 / (time.perf_counter() - start))))
    samples: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                job()
            library.wait()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: median(values) for name, values in samples.items()}


def bound(sheet: tuple[float, float, float] | None, nbytes: float, flop: float, tensor_cores: bool) -> float | None:
    """Seconds the data sheet allows; None for a device without one here."""
    if sheet is None:
        return None
    return max(nbytes / (sheet[0] * 1e9), flop / (sheet[2 if tensor_cores else 1] * 1e12))


def row(part: str, what: str, seconds: float, least: float | None) -> Row:
    text = f"{1e6 * least:10.2f} us at best" if least is not None else "no data sheet here"
    print(f"  {what:44} {1e6 * seconds:12.2f} us   {text}", flush=True)
    at_best = "" if least is None else f"{1e6 * least:.3f}"
    return {"part": part, "what": what, "us": f"{1e6 * seconds:.3f}", "at_best_us": at_best}


def steps(library: Library, sheet: tuple[float, float, float] | None, rng: np.random.Generator) -> list[Row]:
    """A step of the published schedule, from two lengths: what a call costs beside its steps cancels."""
    print("descent, a step of all patches")
    rows = []
    for side, count in ((64, 1), (64, 1024), (128, 1), (128, 1024), (256, 1), (256, 256), (384, 1), (384, 64)):
        W = library.array(rng.standard_normal((side, side * count)).astype(np.float32))

        def seconds(length: int, W: Any = W, side: int = side) -> float:
            start = time.perf_counter()
            bqq.decompose(W, 1, patch=side, schedule="paper", steps=length, refine=False)
            library.wait()
            return time.perf_counter() - start

        seconds(10)
        few, many = (median(seconds(length) for _ in range(3)) for length in (500, 2500))
        flop = 8 * side * side * (side // 2) * count
        rows.append(row("steps", f"{side}x{side}, {count} patches", (many - few) / 2000, bound(sheet, 0, flop, True)))
    return rows


def decompositions(library: Library, sheet: tuple[float, float, float] | None, rng: np.random.Generator) -> list[Row]:
    """Whole calls; the host beside them for the smallest."""
    print("decompose(W, 2), default search")
    rows = []
    for m, n in ((128, 128), (1024, 1024), (4096, 4096), (384, 384)):
        host = rng.standard_normal((m, n)).astype(np.float32)
        W = library.array(host)
        bqq.decompose(W, 1, steps=10, refine=False)
        start = time.perf_counter()
        q = bqq.decompose(W, 2)
        elapsed = time.perf_counter() - start
        rows.append(row("decompose", f"{m}x{n}", elapsed, None) | {"error": f"{q.error(host):.4f}"})
        if m * n <= 384 * 384:
            start = time.perf_counter()
            q = bqq.decompose(host, 2)
            elapsed = time.perf_counter() - start
            rows.append(row("decompose", f"{m}x{n} on the host", elapsed, None) | {"error": f"{q.error(host):.4f}"})
    return rows


def published(library: Library) -> list[Row]:
    """A step of the published solver in PyTorch (torch_amfd.py), one patch; its 50,000 steps in this time."""
    try:
        import torch
    except ImportError as error:
        print(f"published solver not measured: {error}")
        return []
    if not torch.cuda.is_available():
        print("published solver not measured: torch finds no GPU")
        return []
    from bench.torch_amfd import STEPS, Stack

    print("the published solver in PyTorch, a step of one patch")
    rows = []
    for side in (128, 384):
        generator = torch.Generator().manual_seed(0)
        stack = Stack(torch.randn(side, side, generator=generator).cuda(), side // 2, generator)

        def seconds(length: int, stack: Stack = stack) -> float:
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(length):
                stack.step()
            torch.cuda.synchronize()
            return (time.perf_counter() - start) / length

        seconds(50)
        rows.append(row("published", f"{side}x{side}", median(seconds(500) for _ in range(3)), None))
        rows.append(row("published", f"{side}x{side}, {STEPS} steps", STEPS * float(str(rows[-1]["us"])) / 1e6, None))
    return rows


def python_share(library: Library, q: bqq.Matrix) -> float:
    """Seconds of a product without columns: arguments are checked, nothing is launched."""
    empty, out = (library.array(np.zeros((side, 0), np.float32)) for side in (q.shape[1], q.shape[0]))
    return timed(library, {"empty": lambda: bqq.matmul(q, empty, out)})["empty"]


def products(
    library: Library,
    sheet: tuple[float, float, float] | None,
    rng: np.random.Generator,
    shapes: list[str],
    batches: list[int],
    graph: bool,
) -> list[Row]:
    """q @ X against W @ X, W dense in float32 and float16."""
    rows = []
    for m, n in (tuple(map(int, shape.split("x"))) for shape in shapes):
        for p in (1, 2, 4):
            W = rng.standard_normal((m, n)).astype(np.float32)
            q = bqq.decompose(library.array(W), p, effort="fast", steps=5, refine=False)
            for batch in batches:
                print(f"{m}x{n}, p = {p}, batch {batch}")
                x = rng.standard_normal((n, batch)).astype(np.float32)
                jobs: dict[str, Callable[[], object]] = {}
                least: dict[str, float | None] = {}
                cost = bqq.cost(q, batch)
                for dtype, itemsize, terms in (("float32", 4, 3), ("float16", 2, 2)):
                    X, out = library.array(x, dtype), library.array(np.zeros((m, batch), np.float32), dtype)
                    dense = library.array(W, dtype)
                    jobs[f"dense {dtype}"] = partial(operator.matmul, dense, X)
                    jobs[f"bqq {dtype}"] = partial(bqq.matmul, q, X, out)
                    moved = itemsize * (m * n + (m + n) * batch)
                    least[f"dense {dtype}"] = bound(sheet, moved, 2 * m * n * batch, dtype == "float16")
                    planes = cost["plane_bytes"] + cost["scale_bytes"] + itemsize * (m + n) * batch
                    # up to 16 columns a float32 addition for four bits, beyond them `terms` bfloat16 products
                    work = cost["bit_operations"] * (2 * terms if batch > 16 else 0.5)
                    least[f"bqq {dtype}"] = bound(sheet, planes, work, batch > 16)
                times = timed(library, jobs, graph=graph)
                for name, seconds in times.items():
                    found = row("matmul", name, seconds, least[name])
                    kind = name.split()[1]
                    ratio = times[f"dense {kind}"] / seconds
                    rows.append(found | {"m": m, "n": n, "p": p, "batch": batch, "speedup": f"{ratio:.2f}"})
        share = python_share(library, q)
        rows.append(row("matmul", "Python's share of a call", share, None) | {"m": m, "n": n})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=["steps", "decompose", "published", "matmul"]
    )
    parser.add_argument("--library", choices=["cupy", "torch"])
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["1024x1024", "4096x4096", "11008x4096"])
    parser.add_argument("--batch", type=lambda text: [int(b) for b in text.split(",")], default=[1, 4, 16, 64, 256])
    parser.add_argument("--graph", action="store_true", help="products in CUDA graphs: without Python; torch's arrays")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    args = parser.parse_args()
    config = bqq.show_config("dict")
    assert config is not None
    print(describe(), "; CUDA", config["cuda"])
    if "cuda:0" not in config["cuda"]:
        print("nothing measured: bqq finds no CUDA device")
        return
    library = find_library("torch" if args.graph else args.library)
    if isinstance(library, str):
        print(f"nothing measured: no array library with a GPU ({library})")
        return
    sheet = next((rates for name, rates in SHEETS.items() if name in library.device), None)
    print(f"{library.device}, arrays of {library.name} {library.module.__version__}")
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    if "steps" in args.parts:
        rows += steps(library, sheet, rng)
    if "decompose" in args.parts:
        rows += decompositions(library, sheet, rng)
    if "published" in args.parts:
        rows += published(library)
    if "matmul" in args.parts:
        rows += products(library, sheet, rng, args.shapes, args.batch, args.graph)
    if args.csv and rows:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
