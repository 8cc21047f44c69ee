"""Tuning: scales, norms and biases of a block, or of the model, so that its output comes closest to what it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bqq.nn._modules import Conv2d, Embedding, _Compressed

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
        layer: Any = self.layer
        if isinstance(layer, Conv2d):
            W = self.weight().unflatten(1, (-1, *layer.kernel_size))
            return nn.functional.conv2d(x, W, self.bias, layer.stride, layer.padding, layer.dilation)
        return nn.functional.linear(x, self.weight(), self.bias)

    def write_back(self) -> None:
        """The scales of the layer become those tuned."""
        r, s, t = (x.detach().double() for x in (self.r, self.s, self.t))
        s, t = s - r / 2, t - r / 2
        u = self.u.detach().double() - self.l * (r / 4 + s / 2 + t / 2).sum(-1)
        raw = torch.cat([torch.stack([r, s, t], -1).flatten(-2), u[..., None]], -1)
        self.layer.scales.copy_(raw.float())


class _Tuning:
    """Scales, norms and biases of a module as parameters, for as long as it is entered; ``undo`` puts the old back."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._layers = {
            n: m for n, m in module.named_modules() if isinstance(m, _Compressed) and not isinstance(m, Embedding)
        }
        self._others = [p for p in module.parameters() if p.dim() == 1]
        self._saved = [(x, x.detach().clone()) for x in [*self._others, *(m.scales for m in self._layers.values())]]
        self._trained = {p: p.requires_grad for p in module.parameters()}

    def __enter__(self) -> list[dict[str, Any]]:
        """Groups for Adam."""
        self._dense = {name: _Tunable(layer) for name, layer in self._layers.items()}
        for name, dense in self._dense.items():
            _put(self._module, name, dense)
        for p in self._module.parameters():
            p.requires_grad_(False)
        groups = [group for dense in self._dense.values() for group in _groups(dense)]
        groups += [{"params": [p], "lr": _RATE * max(float(p.square().mean().sqrt()), 1e-2)} for p in self._others]
        for group in groups:
            group["params"][0].requires_grad_(True)
        return groups

    def __exit__(self, *_: object) -> None:
        for name, dense in self._dense.items():
            dense.write_back()
            _put(self._module, name, self._layers[name])
        for p in self._module.parameters():
            p.requires_grad_(self._trained.get(p, False))
            p.grad = None

    def undo(self) -> None:
        for x, value in self._saved:
            x.copy_(value)


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
    adds = [t - h if t.shape == h.shape else t for h, t in zip(inputs, targets, strict=True)]
    size = float(np.mean([float(x.square().mean()) for x in adds])) or 1.0
    del adds

    def loss(i: int) -> torch.Tensor:
        error = (run(inputs[i], calls[i]) - targets[i]).square().mean(-1)
        mask = masks[i]
        error = error[mask] if mask is not None and mask.shape == error.shape else error.flatten()
        weight = weights[i]
        error = error if weight is None or weight.shape != error.shape else error * weight
        return error.clamp_max(error.detach().quantile(0.999)).mean() / size

    rng = np.random.default_rng(recipe.seed)
    probe = range(0, len(inputs), max(1, len(inputs) // 8))
    return _fit(block, loss, [int(rng.integers(len(inputs))) for _ in range(recipe.tune)], probe)


def correct(
    model: nn.Module, output: Callable[[int], torch.Tensor], targets: list[torch.Tensor], epochs: int, seed: int
) -> tuple[float, float]:
    """The same for a whole model: ``output(i)`` is its output on batch i; each batch once in an epoch. Losses are over
    all batches, in shares of the variance of the targets."""
    count = sum(t[..., 0].numel() for t in targets)
    mean = sum(t.flatten(0, -2).sum(0) for t in targets) / count
    size = sum(float((t - mean).square().mean(-1).sum()) for t in targets) / count or 1.0

    def loss(i: int) -> torch.Tensor:
        return (output(i) - targets[i]).square().mean() / size

    rng = np.random.default_rng(seed)
    order = [int(i) for _ in range(epochs) for i in rng.permutation(len(targets))]
    return _fit(model, loss, order, range(len(targets)))


def _fit(
    module: nn.Module, loss: Callable[[int], torch.Tensor], order: list[int], probe: Iterable[int]
) -> tuple[float, float]:
    """Steps on the batches of `order`; the mean loss over those of `probe` before and after."""
    tuning = _Tuning(module)
    with tuning as groups:
        before = float(np.mean([float(loss(i)) for i in probe]))
        rates, optimiser = [group["lr"] for group in groups], torch.optim.Adam(groups, betas=(0.9, 0.95))
        with torch.enable_grad():
            for step, i in enumerate(order):
                share = 0.5 * (1 + math.cos(math.pi * step / len(order))) * min(1.0, (step + 1) / 5)
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = share * rate
                optimiser.zero_grad()
                loss(i).backward()
                optimiser.step()
        after = float(np.mean([float(loss(i)) for i in probe]))
    if after < before:
        return before, after
    tuning.undo()  # after is not finite, too
    return before, before


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
