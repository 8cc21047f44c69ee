"""Experts whose weights are one parameter of three sides, as a list of layers that the same code can use."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bqq.nn._modules import _Compressed

_LINEAR = torch.nn.functional.linear


class Experts(nn.ModuleList):
    """In the place of a parameter (E, m, n): ``experts[i]`` stands for its i-th matrix.

    ``torch.nn.functional.linear(x, experts[i], bias)`` is the product of layer i, without another copy of its weight.
    Whatever else is done with ``experts[i]`` gets the dense matrix, made for it.
    """

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self[0].shape))

    def layer(self, i: int) -> nn.Module:
        found = self._modules[str(i)]
        assert found is not None
        return found

    def __getitem__(self, index: Any) -> Any:
        i = int(index)
        return _Weight(self.layer(i + len(self) if i < 0 else i))

    def forward(self, *_: Any) -> Any:
        raise TypeError("experts are used one by one: experts[i]")


class _Weight:
    """The weight of a layer, for torch's functions."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    @property
    def shape(self) -> torch.Size:
        layer: Any = self._layer
        return torch.Size(layer.shape) if isinstance(layer, _Compressed) else torch.Size(layer.weight.shape)

    def dense(self) -> torch.Tensor:
        layer: Any = self._layer
        if isinstance(layer, _Compressed):
            return torch.from_numpy(layer.matrix.reconstruct())
        weight: torch.Tensor = layer.weight
        return weight

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __rmatmul__(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.dense().to(x.dtype)

    @classmethod
    def __torch_function__(cls, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is _LINEAR and len(args) > 1 and isinstance(args[1], cls) and isinstance(args[0], torch.Tensor):
            y = args[1]._layer(args[0])
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            return y if bias is None else y + bias
        plain = [a.dense() if isinstance(a, cls) else a for a in args]
        return function(*plain, **{k: a.dense() if isinstance(a, cls) else a for k, a in kwargs.items()})


def fused(module: nn.Module) -> list[str]:
    """Names of the parameters of a module that are the weights of experts."""
    if "expert" not in type(module).__name__.lower():
        return []
    return [name for name, p in module.named_parameters(recurse=False) if p.dim() == 3]


def unfold(module: nn.Module, name: str) -> Experts:
    """The parameter becomes a list of layers over its memory."""
    weight = getattr(module, name)
    layers = []
    for i in range(weight.shape[0]):
        with torch.device("meta"):
            layer = nn.Linear(weight.shape[2], weight.shape[1], bias=False)
        layer.weight = nn.Parameter(weight.detach()[i], requires_grad=weight.requires_grad)
        layers.append(layer)
    experts = Experts(layers)
    delattr(module, name)
    module.add_module(name, experts)
    experts.train(module.training)
    return experts


def one_by_one(model: Any) -> None:
    """Of the ways in which transformers runs experts, the one that takes them by their index."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
