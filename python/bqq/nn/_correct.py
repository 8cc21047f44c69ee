"""The correction step: what can be trained of a compressed model, on the outputs that it had before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bqq.nn import _tune
from bqq.nn._blocks import called, mask_of
from bqq.nn._guide import output_of
from bqq.nn._modules import _Compressed

if TYPE_CHECKING:
    from bqq.nn._recipe import Recipe
    from bqq.nn._report import Report
    from bqq.nn._resume import Kept


class Correction:
    """Made before the model is compressed, run after it."""

    def __init__(self, model: nn.Module, batches: list[Any], recipe: Recipe, kept: Kept) -> None:
        self._model, self._batches, self._recipe, self._kept = model, batches, recipe, kept
        self._found = kept.parameters(str(recipe.correct))
        self._targets = [] if self._found else [self._output(i) for i in range(len(batches))]

    def _output(self, i: int) -> torch.Tensor:
        """Of the model on batch i, a row a token."""
        y, mask = output_of(called(self._model, self._batches[i])), mask_of(self._batches[i])
        if mask is not None and y.shape[: mask.dim()] == mask.shape:
            y = y[mask]
        return y.reshape(-1, y.shape[-1]).float()

    def run(self, report: Report) -> None:
        trained = {name: p for name, p in self._model.named_parameters() if p.dim() == 1}
        layers = {name: m for name, m in self._model.named_modules() if isinstance(m, _Compressed)}
        trained |= {f"{name}.scales": layer.scales for name, layer in layers.items()}
        if self._found:
            items, report.correction = self._found
            for name, p in trained.items():
                p.copy_(torch.from_numpy(items[name]))
            return
        start = time.perf_counter()
        epochs, seed = self._recipe.correct, self._recipe.seed
        before, after = _tune.correct(self._model, self._output, self._targets, epochs, seed)
        report.correction = {"before": before, "after": after, "seconds": time.perf_counter() - start}
        items = {name: p.detach().float().numpy() for name, p in trained.items()}
        self._kept.keep_parameters(str(self._recipe.correct), items, report.correction)
