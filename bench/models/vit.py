"""A vision transformer on Fashion-MNIST at 1 to 4 bits: top-1 of bqq and of others, with and without calibration.

    python -m bench.models.fashion
    python -m bench.models.vit [--bits 1,2,3,4] [--seeds 3] [--images 1024] [--correct] [--resume DIR] [--csv FILE]

The table that the paper has of ImageNet, in kind: the linear layers of the blocks are compressed; the convolutions in
front (a ninth of all weights), the position table, norms and the head stay. Calibration: training images without
labels, in batches of 16. Rows with "c-" have been corrected as in the paper: 15 epochs on the logits of the original
model; of norms and biases, for bqq of scales too, which are 1/1,000 of the weights. "same_class" and "logit_error" (a
share of the variance) are against the original model: this task forgives much.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import bqq.nn
from bench.machine import describe, with_earlier, write_csv
from bench.models import peers
from bench.models.fashion import ViT, images, trained
from bqq.nn import _tune

GROUPS = (64,)  # columns of a row that share a scale, of the others
BLOCKS = (128, 128)  # as the paper has it for them: those of bqq


class Experiment:
    """The model, calibration batches, test images and the rows so far."""

    def __init__(self, number: int, kept: Path | None, csv: Path | None) -> None:
        self.kept, self.csv = kept, csv
        x, _, self.test, self.labels = images()
        self.model = trained()
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:number]
        self.batches = list(x[chosen].split(16))
        with torch.no_grad():
            self.targets = [self.model(batch) for batch in self.batches]
        self.logits = self.outputs(self.model)
        self.layers = [n for n, m in self.model.blocks.named_modules(prefix="blocks") if isinstance(m, torch.nn.Linear)]
        self.rows: list[dict[str, object]] = []
        self.row("float32", self.model, 32, 32.0, 0.0, -1)

    @torch.no_grad()
    def outputs(self, model: ViT) -> torch.Tensor:
        return torch.cat([model(part) for part in self.test.split(250)])

    def row(self, what: str, model: ViT, bits: int, used: float, seconds: float, seed: int) -> None:
        found = self.logits if model is self.model else self.outputs(model)
        self.rows.append(
            {
                "method": what,
                "bits": bits,
                "seed": seed if seed >= 0 else "",
                "bits_per_weight": f"{used:.4f}",
                "top1": f"{100 * float((found.argmax(1) == self.labels).float().mean()):.2f}",
                "same_class": f"{100 * float((found.argmax(1) == self.logits.argmax(1)).float().mean()):.2f}",
                "logit_error": f"{float((found - self.logits).square().mean() / self.logits.var(0).mean()):.4f}",
                "cpu_seconds": "" if self.kept else f"{seconds:.0f}",  # an earlier run has done some of it
            }
        )
        print("  ".join(f"{key} {value}" for key, value in self.rows[-1].items()), flush=True)
        if self.csv:
            write_csv(self.csv, with_earlier(self.csv, self.rows, ("method", "bits", "seed")), quiet=True)

    def others(self, bits: int) -> dict[str, tuple[ViT, float, float]]:
        """Models by method, with bits a weight and seconds."""
        made = {}
        methods: list[tuple[str, Any, tuple[int, ...]]] = [
            ("uniform, blocks", peers.uniform, BLOCKS),
            ("binary coding, blocks", peers.binary, BLOCKS),
            ("uniform", peers.uniform, GROUPS),
            ("binary coding", peers.binary, GROUPS),
            ("GPTQ", None, GROUPS),
        ]
        for what, how, groups in methods:
            model, start = copy.deepcopy(self.model), time.process_time()
            if how is None:
                used = peers.calibrated(model, self.layers, self.batches, bits, *groups)
            else:
                used = peers.data_free(model, self.layers, how, bits, *groups)
            made[what] = model, used, time.process_time() - start
            self.row(what, model, bits, *made[what][1:], -1)
        return made

    def corrected(self, what: str, bits: int, model: ViT, used: float, seconds: float) -> None:
        """Norms and biases of a model whose weights are dense, as bqq.nn.compress(correct=True) does it."""
        start = time.process_time()
        with torch.no_grad():
            _tune.correct(model, lambda i: model(self.batches[i]), self.targets, 15, 0)
        self.row(f"c-{what}", model, bits, used, seconds + time.process_time() - start, -1)

    def bqq(self, bits: int, seed: int, patch: int | None, effort: str | None) -> None:
        free: dict[str, Any] = {"include": "blocks.*", "seed": seed, "patch": patch, "effort": effort}
        suffix = f" {patch}" if patch else ""
        with TemporaryDirectory() as folder:
            kept = Path(folder) if self.kept is None else self.kept
            free["resume"] = kept / f"{bits}-{patch}-{seed}"
            seen = {**free, "calibration": self.batches, "resume": kept / f"{bits}-{patch}-{seed}-calibrated"}
            for what, options in (("data-free", free), ("calibrated", seen), ("c-BQQ", {**seen, "correct": True})):
                model, start = copy.deepcopy(self.model), time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of few bits without calibration
                    report = bqq.nn.compress(model, bits, progress=False, **options)
                name = what if what == "c-BQQ" else f"BQQ {what}"
                self.row(name + suffix, model, bits, report.bits_per_weight, time.process_time() - start, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="1,2,3,4", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=1024, help="to calibrate on")
    parser.add_argument(
        "--patch", default="", help="sides of blocks, comma-separated; default: that of bqq.nn.compress"
    )
    parser.add_argument("--effort")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--correct", action="store_true", help="the others too")
    parser.add_argument("--resume", type=Path, metavar="DIR")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    args = parser.parse_args()
    print(describe())
    torch.set_num_threads(args.threads)
    experiment = Experiment(args.images, args.resume, args.csv)
    for bits in map(int, args.bits.split(",")):
        for patch in args.patch.split(","):
            for seed in range(args.seeds):
                experiment.bqq(bits, seed, int(patch) if patch else None, args.effort)
        made = experiment.others(bits)
        for what, (model, *rest) in made.items() if args.correct else ():
            experiment.corrected(what, bits, model, *rest)


if __name__ == "__main__":
    main()
