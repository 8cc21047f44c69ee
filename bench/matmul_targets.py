"""What the product set out to reach, and whether the figures of matmul.py reach it.

    python -m bench.matmul_targets bench/results

Reads FOLDER/matmul*.csv, whose first line names the instruction set, and writes FOLDER/matmul_targets.csv. One thread,
hot caches unless said; ratios of CPU time, above 1 we are faster.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import read_csv, write_csv
from bench.targets import report, verdict

LARGE, REAL = "4096x4096", ("384x384", "1536x384")
LOW_BIT = ("onnxruntime 2-bit", "onnxruntime 4-bit", "ggml Q2_K", "ggml TQ2_0", "ggml Q4_0")
VECTOR = ("avx512", "vnni", "bf16", "amx")  # levels of AVX-512
CLASSES = ("float32", "fast")
OVER_NUMPY = {(2, "float32"): 15, (2, "fast"): 25, (4, "float32"): 7.5, (4, "fast"): 12.5}  # at batch 1, by p and class
BATCHES = (1, 4, 16, 64, 256)
AVX2 = {  # by p, class and peer, for each batch
    (2, "float32", "NumPy"): (8, 7, 2.8, 1.6, 1.3),
    (2, "fast", "NumPy"): (16, 13, 4.5, 2.8, 2.2),
    (4, "float32", "NumPy"): (4, 3.5, 1.4, 1.0, 0.9),
    (2, "fast", "torch int8"): (4, 1.6, 1.1, 1.2, 1.2),
    (4, "fast", "torch int8"): (2, 0.9, 0.7, 0.75, 0.85),
}
MANY = {64: 3, 256: 2.2}  # with AVX-512, float32 class, p = 2, against NumPy
TILES = {(64, "fast"): 4, (64, "float32"): 2.5, (256, "fast"): 2}  # with AMX, against torch's bfloat16 and int8

Verdicts = Iterator[dict[str, object]]


class Figures:
    """The rows of one file: how many times faster than NumPy each method is."""

    def __init__(self, isa: str, rows: Sequence[Mapping[str, Any]]):
        self.isa = isa
        self.amx = isa == "amx"
        self.speed = {
            (r["shape"], int(r["batch"]), r["cache"], r["method"]): float(r["cpu_speedup"])
            for r in rows
            if str(r["threads"]) == "1"
        }

    def ours(
        self, p: int, precision: str, batch: int, shape: str = LARGE, cache: str = "hot", patch: str = "default"
    ) -> float | None:
        return self.speed.get((shape, batch, cache, f"bqq {precision} p={p} patch={patch}"))

    def best(self, batch: int, shape: str = LARGE, cache: str = "hot", among: Sequence[str] = ()) -> tuple[float, str]:
        """The fastest peer; NumPy is one of them unless `among` names some."""
        found = [
            (speed, method)
            for (s, b, c, method), speed in self.speed.items()
            if (s, b, c) == (shape, batch, cache)
            and not str(method).startswith("bqq")
            and (not among or method in among)
        ]
        return max(found, default=(0.0, ""))

    def batches(self, shape: str) -> list[int]:
        return sorted({b for s, b, c, _ in self.speed if s == shape and c == "hot"})

    def shapes(self) -> list[str]:
        return list(dict.fromkeys(shape for shape, *_ in self.speed))


def judge(f: Figures) -> Verdicts:
    """Targets whose figures were not measured are left out."""
    for check in (_batch_1, _avx2, _small_batches, _layers, _large_batches, _patches):
        for row in check(f):
            yield {**row, "target": f"{f.isa}: {row['target']}"}


def _against(name: str, ours: float | None, peer: tuple[float, str], limit: float) -> Verdicts:
    if ours is not None and peer[0]:
        value = ours / peer[0]
        yield verdict(f"{name} over {peer[1]}", f">= {limit}", value, value >= limit)


def _batch_1(f: Figures) -> Verdicts:
    limits = OVER_NUMPY if f.isa in VECTOR else {}
    for cache in ("hot", "cold"):
        for (p, precision), limit in limits.items():
            name = f"{LARGE}, batch 1, p = {p}, {precision}, {cache}"
            yield from _against(name, f.ours(p, precision, 1, cache=cache), (1.0, "NumPy"), limit)
        if f.isa in VECTOR:
            peer = f.best(1, cache=cache, among=LOW_BIT)
            name = f"{LARGE}, batch 1, p = 2, fast, {cache}"
            yield from _against(name, f.ours(2, "fast", 1, cache=cache), peer, 1.8)


def _avx2(f: Figures) -> Verdicts:
    """Meant for a CPU that has no more; on a larger one capped by BQQ_ISA, torch uses what it finds."""
    if f.isa == "avx2":
        for (p, precision, peer), limits in AVX2.items():
            for batch, limit in zip(BATCHES, limits, strict=True):
                other = (1.0, peer) if peer == "NumPy" else f.best(batch, among=(peer,))
                name = f"{LARGE}, batch {batch}, p = {p}, {precision}"
                yield from _against(name, f.ours(p, precision, batch), other, limit)


def _small_batches(f: Figures) -> Verdicts:
    if f.isa in VECTOR:
        for batch in (8, 16):
            for precision in CLASSES:
                name = f"{LARGE}, batch {batch}, p = 2, {precision}"
                yield from _against(name, f.ours(2, precision, batch), f.best(batch), 1.5)


def _layers(f: Figures) -> Verdicts:
    for shape in REAL:
        for batch in (1, 8, 64):
            yield from _against(f"{shape}, batch {batch}, p = 2", f.ours(2, "float32", batch, shape), (1, "NumPy"), 1)
        yield from _against(
            f"{shape}, batch 1, p = 2, fast", f.ours(2, "fast", 1, shape), f.best(1, shape, among=LOW_BIT), 0.91
        )


def _large_batches(f: Figures) -> Verdicts:
    if f.amx:
        for (batch, precision), limit in TILES.items():
            peer = f.best(batch, among=("torch bfloat16", "torch int8"))
            yield from _against(f"{LARGE}, batch {batch}, p = 2, {precision}", f.ours(2, precision, batch), peer, limit)
    for batch, limit in MANY.items() if f.isa in VECTOR else ():
        name = f"{LARGE}, batch {batch}, p = 2, float32"
        yield from _against(name, f.ours(2, "float32", batch), (1.0, "NumPy"), limit)
    for shape in f.shapes():
        for p in (1, 2, 3, 4):
            ours = {batch: f.ours(p, "float32", batch, shape) for batch in f.batches(shape)}
            found = {batch: speed for batch, speed in ours.items() if speed is not None}
            if found:
                batch, value = min(found.items(), key=lambda item: item[1])
                yield verdict(
                    f"{shape}, p = {p}, float32: the worst batch over NumPy",
                    ">= 1",
                    value,
                    value >= 1,
                    f"batch {batch}",
                )


def _patches(f: Figures) -> Verdicts:
    for precision in CLASSES:
        for batch in f.batches(LARGE):
            small, whole = (f.ours(2, precision, batch, patch=patch) for patch in ("128", LARGE.split("x")[0]))
            if small and whole:
                value = whole / small
                name = f"{LARGE}, batch {batch}, p = 2, {precision}: time with patches of 128 over one patch"
                yield verdict(name, "<= 1.5", value, value <= 1.5)


def read(path: Path) -> Figures:
    machine, rows = read_csv(path)
    isa = re.search(r"bqq [^ ]+ \((\w+),", machine)
    if not isa:
        raise SystemExit(f"{path}: the first line names no instruction set")
    return Figures(isa[1], rows)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    files = [path for path in sorted(folder.glob("matmul*.csv")) if path.name != "matmul_targets.csv"]
    rows = [row for path in files for row in judge(read(path))]
    if not rows:
        raise SystemExit(f"no figures in {folder}/matmul*.csv")
    report(rows)
    write_csv(folder / "matmul_targets.csv", rows)


if __name__ == "__main__":
    main()
