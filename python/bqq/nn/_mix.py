"""One budget of bits for the layers of a model: more stacks where its output depends more on what a layer loses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

_FALL = 0.38  # of the error is left by a further stack: .36 to .41 in MiniLM's layers, from 2 to 3 and from 3 to 4
_INNER = 0.65  # of what an inner layer loses is left by error propagation: .59 to .66 there
_LESS, _MORE = 1, 2  # stacks at most than asked for
_TRUSTED = 0.92  # of the movement with equal bits: trials and first derivatives do not tell smaller gains from losses


@dataclass(frozen=True)
class Trial:
    """Some rows of a layer, approximated at the budget."""

    rows: torch.Tensor  # their places
    off: torch.Tensor  # (rows, n): by how much
    p: int  # stacks of the trial
    taken: float  # bits a weight of a stack
    shape: tuple[int, int]  # of the layer
    inner: bool  # and error propagation makes good some of what it loses

    def moves(self, layer: Any, x: torch.Tensor, grad: torch.Tensor) -> float:
        """Sum over the inputs in x of the squares of what the layer's output moves by in the direction of grad."""
        if isinstance(layer, nn.Conv2d):
            kernel = self.off.unflatten(1, (-1, *layer.kernel_size))
            y = nn.functional.conv2d(x.float(), kernel, None, layer.stride, layer.padding, layer.dilation)
            grad = grad[:, self.rows]
        else:
            y, grad = x.float() @ self.off.T, grad[..., self.rows]
        along = (y * grad).reshape(len(y) if y.dim() > 1 else 1, -1).sum(1)
        share = self.shape[0] / len(self.rows) * (_INNER if self.inner else 1)
        return float(along.square().sum()) * share


def inner(layers: dict[str, nn.Module], run: Callable[[], torch.Tensor]) -> set[str]:
    """Layers of a block that reach its output through others of them alone, where error propagation sees what they
    lose: with the outputs of the others held, that of the block, which run() gives, is what it was."""
    held: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    calls: dict[str, int] = {}

    def hold(changed: str, name: str, _: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        if not changed:
            held[name].append(output.clone())  # what comes may work in place
            return output
        if name == changed:
            return 1.5 * output
        i = calls[name] = calls.get(name, -1) + 1
        if i >= len(held[name]) or held[name][i].shape != output.shape:
            raise _Elsewhere
        return held[name][i].clone()

    def behind(changed: str) -> torch.Tensor | None:
        calls.clear()
        with ExitStack() as hooks, suppress(_Elsewhere):
            for name, layer in layers.items():
                hooks.enter_context(layer.register_forward_hook(partial(hold, changed, name)))
            return run().clone()
        return None

    before = behind("")
    after = {name: behind(name) for name in layers if held[name]}
    return {name for name, y in after.items() if y is not None and before is not None and torch.equal(before, y)}


class _Elsewhere(Exception):
    """Tokens go to other layers than they did."""


def mix(bits: float, trials: dict[str, Trial], moved: dict[str, float]) -> dict[str, float]:
    """Bits of each layer that has a trial, whose mean is `bits` a weight (planes if it is whole, else with scales).

    They go one by one where the sum of what the output moves by falls most, in whole stacks but for what is left over
    at the end, which one layer gets. Empty if there is no budget for a stack each, nothing moves, or too
    little is gained over `bits` for each layer.
    """
    size = {name: float(t.shape[0] * t.shape[1]) for name, t in trials.items()}
    cost = {name: size[name] * t.taken for name, t in trials.items()}
    whole = bits == int(bits)
    budget = bits * sum(cost.values() if whole else size.values())
    least, most = max(1, int(bits) - _LESS), int(bits) + _MORE
    stacks = dict.fromkeys(trials, least)
    left = budget - least * sum(cost.values())
    if left < 0 or not 0 < sum(moved.values()) < float("inf"):
        return {}
    gain = {name: moved[name] * _FALL ** (least - t.p) / cost[name] for name, t in trials.items()}
    while fitting := [n for n in gain if cost[n] <= left * (1 + 1e-9) and stacks[n] < most]:
        name = max(fitting, key=gain.__getitem__)
        stacks[name], left, gain[name] = stacks[name] + 1, left - cost[name], gain[name] * _FALL
    even = {name: bits if whole else bits / t.taken for name, t in trials.items()}
    mixed, same = (sum(moved[n] * _FALL ** (p - trials[n].p) for n, p in ps.items()) for ps in (stacks, even))
    if mixed >= _TRUSTED * same:
        return {}
    found = {name: float(p) for name, p in stacks.items()}
    if left > 0.005 * budget:
        larger = [n for n in gain if cost[n] > left and stacks[n] < most]
        if larger:
            name = max(larger, key=gain.__getitem__)
            found[name] = (cost[name] * stacks[name] + left) / size[name]
    return found
