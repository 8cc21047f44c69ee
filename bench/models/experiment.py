"""A model of images at few bits, by bqq and by others, with and without calibration: what vit, saliency and
efficientnet have in common."""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import bqq.nn
from bench.machine import describe, with_earlier, write_csv
from bench.models import peers
from bench.models.minilm import PARTS
from bqq.nn import _tune

BATCH = 16  # images, as the paper's correction step takes them
BLOCK = 128  # the paper has its peers at the blocks of bqq too
Measure = Callable[[nn.Module], dict[str, str]]


def arguments(doc: str | None, images: int) -> argparse.ArgumentParser:
    """Options that all have."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--bits", default="2,3,4", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=images, help="to calibrate on")
    parser.add_argument(
        "--patch", default="", help="sides of blocks, comma-separated; default: that of bqq.nn.compress"
    )
    parser.add_argument("--effort")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--correct", action="store_true", help="the others too")
    parser.add_argument("--without", default="", help="parts of the recipe to leave out: mixed+tune, ...")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--resume", type=Path, metavar="DIR")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    return parser


class Experiment:
    """The model, calibration images, what is measured, and the rows so far.

    Parameters
    ----------
    images : (N, C, H, W), to calibrate on
    include : patterns of the layers' names, as of bqq.nn.compress
    group : columns of a row that share a scale, of the others; None: whole rows
    block : side of blocks that share one, where groups are not whole rows
    measure : what a row says of a model
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        include: list[str],
        group: int | None,
        measure: Measure,
        args: argparse.Namespace,
        block: int = BLOCK,
    ) -> None:
        print(describe())
        torch.set_num_threads(args.threads)
        self.model, self.include, self.group, self.measure, self.args = model, include, group, measure, args
        self.block = block
        self.batches = list(images.split(BATCH))
        self.layers = [name for name, m in model.named_modules() if _compressed(m) and _named(name, include)]
        self.rows: list[dict[str, object]] = []
        self.row("float32", model, 32, 32.0, 0.0, -1)

    def run(self) -> None:
        args = self.args
        for bits in map(int, args.bits.split(",")):
            for patch in args.patch.split(","):
                for seed in range(args.seeds):
                    self.bqq(bits, seed, int(patch) if patch else None)
            made = {} if args.no_peers else self.others(bits)
            for what, (model, *rest) in made.items() if args.correct else ():
                self.corrected(what, bits, model, *rest)

    def row(
        self, what: str, model: nn.Module, bits: int, used: float, seconds: float, seed: int, without: str = ""
    ) -> None:
        self.rows.append(
            {
                "method": what,
                "bits": bits,
                "seed": seed if seed >= 0 else "",
                "without": without,
                "bits_per_weight": f"{used:.4f}",
                **self.measure(model),
                "cpu_seconds": "" if self.args.resume else f"{seconds:.0f}",  # an earlier run has done some of it
            }
        )
        print("  ".join(f"{key} {value}" for key, value in self.rows[-1].items()), flush=True)
        if path := self.args.csv:
            write_csv(path, with_earlier(path, self.rows, ("method", "bits", "seed", "without")), quiet=True)

    def others(self, bits: int) -> dict[str, tuple[nn.Module, float, float]]:
        """Models by method, with bits a weight and seconds."""
        made = {}
        methods: list[tuple[str, Any, tuple[int | None, ...]]] = [
            ("uniform, blocks", peers.uniform, (self.block, self.block)),
            ("binary coding, blocks", peers.binary, (self.block, self.block)),
            ("uniform", peers.uniform, (self.group,)),
            ("binary coding", peers.binary, (self.group,)),
            ("double binary", peers.double, (self.group,)),
            ("GPTQ", None, (self.group,)),
        ]
        for what, how, groups in methods if self.group else methods[2:]:
            model, start = copy.deepcopy(self.model), time.process_time()
            if how is None:
                used = peers.calibrated(model, self.layers, self.batches, bits, self.group)
            else:
                used = peers.data_free(model, self.layers, how, bits, *groups)
            made[what] = model, used, time.process_time() - start
            self.row(what, model, bits, *made[what][1:], -1)
        return made

    def corrected(self, what: str, bits: int, model: nn.Module, used: float, seconds: float) -> None:
        """Norms and biases of a model whose weights are dense, as bqq.nn.compress(correct=True) does it."""
        start = time.process_time()
        with torch.no_grad():
            targets = [self.model(batch) for batch in self.batches]
            _tune.correct(model, lambda i: model(self.batches[i]), targets, 15, 0)
        self.row(f"c-{what}", model, bits, used, seconds + time.process_time() - start, -1)

    def bqq(self, bits: int, seed: int, patch: int | None) -> None:
        free: dict[str, Any] = {"include": self.include, "seed": seed, "patch": patch, "effort": self.args.effort}
        suffix = f" {patch}" if patch else ""
        with TemporaryDirectory() as folder:
            kept = self.args.resume or Path(folder)
            free["resume"] = kept / f"{bits}-{patch}-{seed}"
            seen = {
                **free,
                "calibration": self.batches,
                "resume": kept / f"{bits}-{patch}-{seed}-calibrated{self.args.without}",
            }
            for part in filter(None, self.args.without.split("+")):
                seen |= PARTS[part]
            for what, options in (("data-free", free), ("calibrated", seen), ("c-BQQ", {**seen, "correct": True})):
                model, start = copy.deepcopy(self.model), time.process_time()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of few bits without calibration
                    report = bqq.nn.compress(model, bits, progress=False, **options)
                name = what if what == "c-BQQ" else f"BQQ {what}"
                without = self.args.without if options is not free else ""
                seconds = time.process_time() - start
                self.row(name + suffix, model, bits, report.bits_per_weight, seconds, seed, without)


def _compressed(module: nn.Module) -> bool:
    """Whether bqq.nn.compress would take it, if it is included."""
    if type(module) is nn.Conv2d:
        return bool(module.groups == 1 and min(len(module.weight), module.weight[0].numel()) >= 32)
    return type(module) is nn.Linear


def _named(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
