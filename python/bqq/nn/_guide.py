"""How much the output of a model depends on each token at each layer, the weights of tokens in H, and on what a layer
loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from bqq.nn._mix import Trial
    from bqq.nn._recipe import Recipe

_DRAWS = 2  # of a random direction of the output, for each batch
_DIRECTIONS = 32  # over all inputs, where a movement is wanted: its square is known to a quarter then

Weights = dict[str, list[torch.Tensor]]  # name of a layer or block -> for each batch, one number a token, mean 1


def dependence(
    run: Callable[[Any], Any],
    batches: list[Any],
    masks: list[torch.Tensor | None],
    modules: dict[str, nn.Module],
    trials: dict[str, Trial],
    recipe: Recipe,
) -> tuple[Weights, dict[str, float]]:
    """Mean squared gradient of the output of each module, by token; for each trial, how far the output of the model
    moves with its layer off by that much: the sum of squares over draws and inputs (the first side of a batch).

    The gradient is that of the output in a random direction: where the model has ``logits``, of the log-probability of
    a label drawn from them, so that its mean square is the metric of the Kullback-Leibler divergence; else of the first
    output tensor, where it is that of the squared error. One pass forward and ``_DRAWS`` backward a batch, more for
    movements of few inputs. What does not depend on a module in a way that has a gradient gives ones and no movement.
    """
    found: Weights = {name: [] for name in modules}
    moved = dict.fromkeys(trials, 0.0)
    draws = max(_DRAWS, math.ceil(_DIRECTIONS / sum(map(_count, batches)))) if recipe.mixed else _DRAWS
    rng = torch.Generator().manual_seed(recipe.seed)
    for batch, mask in zip(batches, masks, strict=True):
        inputs: dict[str, torch.Tensor] = {}
        outputs: dict[str, torch.Tensor] = {}
        with ExitStack() as hooks:
            for name, m in modules.items():
                hooks.enter_context(m.register_forward_hook(partial(_note, inputs, outputs, name)))
            with torch.enable_grad():
                result = run(batch)
                names = [name for name, t in outputs.items() if t.requires_grad]
                sums = {name: torch.zeros(()) for name in names}
                for draw in range(draws):
                    direction = _along(result, mask, rng)
                    if not names or not direction.requires_grad:
                        break
                    grads = torch.autograd.grad(
                        direction, [outputs[n] for n in names], retain_graph=draw + 1 < draws, allow_unused=True
                    )
                    for name, grad in zip(names, grads, strict=True):
                        if grad is not None and not isinstance(modules[name], nn.Conv2d):
                            sums[name] = sums[name] + grad.detach().float().square().sum(-1)
                        if grad is not None and name in trials:
                            moved[name] += trials[name].moves(modules[name], inputs[name], grad.detach().float())
        for name in modules:
            found[name].append(_flat(sums.get(name), mask, outputs.get(name)))
    return {name: _normalised(parts) for name, parts in found.items()}, moved


def _count(batch: Any) -> int:
    """How many inputs are in a batch, at least one."""
    parts = batch.values() if hasattr(batch, "keys") else batch if isinstance(batch, (tuple, list)) else [batch]
    return max((len(x) for x in parts if isinstance(x, torch.Tensor) and x.dim()), default=1) or 1


def _note(inputs: Any, outputs: dict[str, torch.Tensor], name: str, _: nn.Module, args: Any, output: Any) -> Any:
    """Passes a copy on: what works in place leaves the output as it is."""
    if args:
        inputs[name] = args[0].detach()
    outputs[name], *rest = output if isinstance(output, tuple) else (output,)
    copied = outputs[name].clone()
    if not isinstance(output, tuple):
        return copied
    again = getattr(output, "_make", tuple)  # named tuples have names to be read by
    return again([copied, *rest])


def output_of(result: Any) -> torch.Tensor:
    """``logits``, where there are such, else the first tensor."""
    logits = getattr(result, "logits", None)
    found: torch.Tensor = logits if logits is not None else result if isinstance(result, torch.Tensor) else result[0]
    return found


def _along(result: Any, mask: torch.Tensor | None, rng: torch.Generator) -> torch.Tensor:
    logits, y = getattr(result, "logits", None), output_of(result)
    if mask is not None and y.shape[: mask.dim()] == mask.shape:
        y = y[mask]
    y = y.reshape(-1, y.shape[-1] if y.dim() else 1).float()
    if logits is None:
        return (y * torch.randn(y.shape, generator=rng)).sum()
    logs = y.log_softmax(-1)
    labels = torch.multinomial(logs.detach().exp(), 1, generator=rng)
    return logs.gather(-1, labels).sum()


def _flat(sums: torch.Tensor | None, mask: torch.Tensor | None, output: torch.Tensor | None) -> torch.Tensor:
    if sums is None or not sums.dim():
        size = 0 if output is None else output[..., 0].numel() if output.dim() else 1
        shape = None if output is None else output.shape[:-1]
        sums = torch.ones(shape if shape is not None else (size,))
    if mask is not None and sums.shape == mask.shape:
        sums = sums[mask]
    return sums.reshape(-1)


def _normalised(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    every = torch.cat(parts) if parts else torch.zeros(0)
    mean = float(every.double().mean()) if every.numel() else 0.0
    if not mean > 0 or not torch.isfinite(every).all():
        return [torch.ones_like(part) for part in parts]
    return [part / mean for part in parts]
