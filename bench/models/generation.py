"""Speed and memory of generation with SmolLM2-135M: layers of 2 bits beside torch's float32 and bfloat16.

    pip install 'bqq[nn]' transformers
    python -m bench.models.generation [--bits 2] [--tokens 16] [--rounds 3] [--threads 1] [--csv FILE]

Neither depends on the values of weights or bits: a model of that shape has random ones, the bits in blocks as the
search would have them. One token at a time, with a cache; CPU time per token, the models in turn in one process,
medians of the rounds. ``layers`` is the time of the 210 linear layers of the blocks alone, without attention, norms
and the head, which stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import bqq.nn
from bench.machine import describe, write_csv


def drawn(m: int, n: int, p: int, rng: np.random.Generator) -> bqq.Matrix:
    """Random bits in blocks of about 144, at p bits per weight, of the size of weights."""
    rows, cols = (max(side for side in range(96, 145) if size % side == 0) for size in (m, n))
    J, K = m // rows, n // cols
    l = rows * cols // (rows + cols) // 8 * 8
    Y, Z = (rng.integers(0, 2, size, np.uint8) for size in ((J, K, p, rows, l), (J, K, p, l, cols)))
    Y, Z = (np.packbits(bits, axis=-1, bitorder="little") for bits in (Y, Z))
    scales = np.zeros((J, K, 3 * p + 1), np.float32)
    scales[..., 0:-1:3], scales[..., -1] = 0.02 / l**0.5, -0.02 * p * l**0.5 / 4
    return bqq.Matrix.from_planes(Y, Z, scales, (J * rows, K * cols))


def layers(model: torch.nn.Module) -> dict[str, Any]:
    kinds = (torch.nn.Linear, bqq.nn.Linear)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and name.startswith("model.layers")}


def sharing(model: Any) -> Any:
    """A copy with the same parameters: what stays as it is, is there once."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def compressed(model: Any, p: int) -> Any:
    rng, model = np.random.default_rng(0), sharing(model)
    for name, layer in layers(model).items():
        parent, _, child = name.rpartition(".")
        m, n = layer.weight.shape
        q = drawn(m, n, p, rng)
        assert q.shape == (m, n)
        setattr(model.get_submodule(parent), child, bqq.nn.Linear(q))
    return model


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    with torch.inference_mode():
        work()
    return time.process_time() - start


def resident() -> float:
    """Megabytes of this process, what is free given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    torch.set_num_threads(args.threads)
    config = LlamaConfig(
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        hidden_size=576,
        intermediate_size=1536,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    prompt = torch.arange(100, 108)[None]
    model.generation_config.pad_token_id = 0
    options = {"max_new_tokens": args.tokens, "min_new_tokens": args.tokens, "do_sample": False}
    model.generate(prompt, **options)  # what generation itself takes
    folder, ours = TemporaryDirectory(), sharing(model)
    bqq.nn.save(compressed(model, args.bits).model.layers, folder.name)
    before = resident()
    bqq.nn.load(ours.model.layers, folder.name)  # mapped, as a model that is read from a disk
    ours.generate(prompt, **options)
    added = resident() - before
    models = {f"bqq {args.bits} bits": ours}
    models |= {"float32": model, "bfloat16": copy.deepcopy(model).bfloat16()}
    names = list(models)
    token: dict[str, list[float]] = {name: [] for name in names}
    linear: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):  # the first warms up
        for name, m in models.items():
            spent = cpu_seconds(lambda m=m: m.generate(prompt, **options)) / args.tokens  # type: ignore[misc]
            dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
            chosen = list(layers(m).values())
            inputs = [torch.randn(1, getattr(x, "in_features"), dtype=dtype) for x in chosen]  # noqa: B009
            alone = cpu_seconds(lambda c=chosen, i=inputs: [x(y) for x, y in zip(c, i, strict=True)])  # type: ignore[misc]
            if turn:
                token[name].append(spent)
                linear[name].append(alone)
    rows: list[dict[str, object]] = []
    for name in names:
        size = sum(
            p.numel() * p.element_size() for x in layers(models[name]).values() for p in [*x.parameters(), *x.buffers()]
        )
        rows.append(
            {
                "model": name,
                "threads": args.threads,
                "ms_per_token": f"{1e3 * median(token[name]):.1f}",
                "layers_ms": f"{1e3 * median(linear[name]):.1f}",
                "layers_mb": f"{size / 1e6:.1f}",
                "resident_mb": f"{added:.1f}" if name == names[0] else "",
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    if args.csv:
        write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
