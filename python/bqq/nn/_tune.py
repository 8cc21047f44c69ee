"""Tuning a block: scales, norms and biases so that its output comes closest to that of the block as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bqq.nn._modules import _Compressed

if TYPE_CHECKING:
    from bqq.nn._recipe import Recipe

_RATE = 3e-3  # of the size of what is tuned


class _Tunable(nn.Module):
    """A compressed layer as a dense one whose scales are parameters, in the centred form.

    With Y = y + 1/2 and Z = z + 1/2 the four terms of a stack are nearly orthogonal; the scales of the raw form cancel
    each other, and one small step of Adam ruins a model.
    """

    def __init__(self, layer: _Compressed) -> None:
        super().__init__()
        q = layer.matrix
        self.layer, self.p, self.l, self.grid, self.shape = layer, q.p, q.l, q.grid, q.shape
        Y, Z = (torch.from_numpy(bits.astype(np.float32)) - 0.5 for bits in (q.Y, q.Z))
        self.basis, self.y_sums, self.z_sums = Y @ Z, Y.sum(-1), Z.sum(-2)
        raw = layer.scales.detach().double()
        r, s, t, u = raw[..., 0:-1:3], raw[..., 1:-1:3], raw[..., 2:-1:3], raw[..., -1]
        centred = (r, s + r / 2, t + r / 2, u + self.l * (r / 4 + s / 2 + t / 2).sum(-1))
        self.r, self.s, self.t, self.u = (nn.Parameter(x.float()) for x in centred)
        self.bias = layer.bias
        rest = torch.zeros(self.shape)
        rest[layer.entry_rows, layer.entry_cols] = layer.entry_values
        self.rest = rest if layer.entry_values.numel() else None
        self.order = layer.col_order if layer.col_order.numel() else None

    def weight(self) -> torch.Tensor:
        W = (self.r[..., None, None] * self.basis).sum(2) + (self.s[..., None] * self.y_sums).sum(2)[..., None]
        W = W + (self.t[..., None] * self.z_sums).sum(2)[..., None, :] + self.u[..., None, None]
        J, K, rows, cols = W.shape
        W = W.transpose(1, 2).reshape(J * rows, K * cols)[: self.shape[0], : self.shape[1]]
        if self.order is not None:
            W = torch.zeros(self.shape).index_copy(1, self.order, W)
        return W if self.rest is None else W + self.rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight(), self.bias)

    def write_back(self) -> None:
        """The scales of the layer become those tuned."""
        r, s, t = (x.detach().double() for x in (self.r, self.s, self.t))
        s, t = s - r / 2, t - r / 2
        u = self.u.detach().double() - self.l * (r / 4 + s / 2 + t / 2).sum(-1)
        raw = torch.cat([torch.stack([r, s, t], -1).flatten(-2), u[..., None]], -1)
        self.layer.scales.copy_(raw.float())


def tune(
    block: nn.Module,
    run: Callable[[torch.Tensor, Any], torch.Tensor],
    data: tuple[
        list[torch.Tensor], list[torch.Tensor], list[Any], list[torch.Tensor | None], list[torch.Tensor | None]
    ],
    recipe: Recipe,
) -> tuple[float, float]:
    """Adam on batches drawn at random; loss before and after over some of them, in shares of what the block adds. The
    old values are put back if the loss did not fall."""
    inputs, targets, calls, masks, weights = data
    layers = {name: m for name, m in block.named_modules() if isinstance(m, _Compressed) and _plain(m)}
    tunable = {name: _Tunable(layer) for name, layer in layers.items()}
    for name, module in tunable.items():
        _put(block, name, module)
    others = [p for p in block.parameters() if p.dim() == 1]
    saved = [(p, p.detach().clone()) for p in others], [(x, x.scales.clone()) for x in layers.values()]
    frozen = {p: p.requires_grad for p in block.parameters()}
    for p in block.parameters():
        p.requires_grad_(False)
    groups = [group for module in tunable.values() for group in _groups(module)]
    groups += [{"params": [p], "lr": _RATE * max(float(p.square().mean().sqrt()), 1e-2)} for p in others]
    for group in groups:
        group["params"][0].requires_grad_(True)
        group["first"] = group["lr"]
    size = float(np.mean([float((t - h).square().mean()) for h, t in zip(inputs, targets, strict=True)])) or 1.0

    def loss(i: int) -> torch.Tensor:
        error = (run(inputs[i], calls[i]) - targets[i]).square().mean(-1)
        mask = masks[i]
        error = error[mask] if mask is not None and mask.shape == error.shape else error.flatten()
        weight = weights[i]
        error = error if weight is None or weight.shape != error.shape else error * weight
        return error.clamp_max(error.detach().quantile(0.999)).mean() / size

    try:
        before, after = _descend(groups, loss, len(inputs), recipe)
    finally:
        for name, module in tunable.items():
            module.write_back()
            _put(block, name, layers[name])
    if not after < before:
        for p, value in saved[0]:
            p.copy_(value)
        for layer, value in saved[1]:
            layer.scales.copy_(value)
        after = before
    for p in block.parameters():
        p.requires_grad_(frozen.get(p, False))
        p.grad = None
    return before, after


def _descend(
    groups: list[dict[str, Any]], loss: Callable[[int], torch.Tensor], number: int, recipe: Recipe
) -> tuple[float, float]:
    """Loss over some of the batches before and after."""
    probe = range(0, number, max(1, number // 8))
    before = float(np.mean([float(loss(i)) for i in probe]))
    optimiser, rng = torch.optim.Adam(groups, betas=(0.9, 0.95)), np.random.default_rng(recipe.seed)
    with torch.enable_grad():
        for step in range(recipe.tune):
            share = 0.5 * (1 + math.cos(math.pi * step / recipe.tune)) * min(1.0, (step + 1) / 5)
            for group in optimiser.param_groups:
                group["lr"] = share * group["first"]
            optimiser.zero_grad()
            loss(int(rng.integers(number))).backward()
            optimiser.step()
    return before, float(np.mean([float(loss(i)) for i in probe]))


def _plain(layer: _Compressed) -> bool:
    return type(layer).__name__ in ("Linear", "Conv1D")


def _groups(module: _Tunable) -> list[dict[str, Any]]:
    """Scales live on very different sizes: rates go with that of r, for the constant u a third of it."""
    size = float(module.r.detach().abs().mean())
    return [
        {"params": [p], "lr": _RATE * size * (0.3 if p is module.u else 1)}
        for p in (module.r, module.s, module.t, module.u)
    ]


def _put(block: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(block.get_submodule(parent), child, module)
