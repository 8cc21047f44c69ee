"""What others do with the weights of a model's layers, at the bits that it takes: groups of weights share a scale.

Uniform levels, binary coding and double binary factorisation (bench.models.double_binary) look at the weights alone,
the last also at the mean squares of the inputs, as ggml's types do (bench.ggml). GPTQ takes the layers in the order in
which they run and lets the columns that are not rounded yet make good the error of those that are (Frantar et al.
2023), in descending order of the diagonal of H, with the inputs of the model as it is by then. On wish in the order
that the columns have, and with error propagation, as bqq.nn.compress has it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from bench import ggml
from bench.models.double_binary import double_binary

GPTQ: dict[str, dict[str, Any]] = {  # by name, what :func:`calibrated` is told
    "gptq": {"group": 64},
    "gptq-unordered": {"group": 64, "ordered": False},
    "gptq-propagated": {"group": 64, "propagate": True},
    "gptq-128": {"group": 128, "propagate": True},
}
_SHRINK = [1 - 0.02 * i for i in range(30)]  # of the range of a group: the best one of these


def uniform(W: torch.Tensor, bits: int, group: int, rows: int = 1) -> tuple[torch.Tensor, float]:
    """Round to nearest of 2^bits levels, one scale (16 bits) and zero (`bits`) a group of so many columns and rows:
    W_hat and its bits a weight."""
    groups = _split(W, group, rows)
    scale, zero = _grid(groups, bits)
    return _joined(_round(groups, scale, zero, bits), W, group), bits + (16 + bits) / (group * rows)


def _split(W: torch.Tensor, group: int, rows: int) -> torch.Tensor:
    """(m, n) -> (m / rows, n / group, rows * group)."""
    return W.reshape(W.shape[0] // rows, rows, -1, group).transpose(1, 2).flatten(2)


def _joined(groups: torch.Tensor, W: torch.Tensor, group: int) -> torch.Tensor:
    return groups.unflatten(2, (-1, group)).transpose(1, 2).reshape(W.shape)


def _grid(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero of each group (..., g), of the least squared error."""
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    best: Any = None
    for share in _SHRINK:
        scale = ((high - low) * share / (2**bits - 1)).clamp(min=1e-9)
        zero = (-low * share / scale).round()
        error = (_round(groups, scale, zero, bits) - groups).square().sum(-1, keepdim=True)
        if best is None:
            best = error, scale, zero
        better = error < best[0]
        best = tuple(torch.where(better, new, old) for new, old in zip((error, scale, zero), best, strict=True))
    return best[1], best[2]


def _round(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    return ((x / scale + zero).round().clamp(0, 2**bits - 1) - zero) * scale


def binary(W: torch.Tensor, bits: int, group: int, rows: int = 1, rounds: int = 15) -> tuple[torch.Tensor, float]:
    """Sums of `bits` matrices of signs with a factor (16 bits) each a group: greedy, then factors by least squares and
    the nearest sums by turns (Xu et al. 2018)."""
    groups = _split(W, group, rows)
    rest, factors = groups, []
    for _ in range(bits):
        factors.append(rest.abs().mean(-1))
        rest = rest - factors[-1][..., None] * torch.where(rest < 0, -1.0, 1.0)
    a = torch.stack(factors, -1)  # (..., bits)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).reshape(-1, bits)  # (2^bits, bits)
    for step in range(rounds + 1):
        values = a @ signs.T
        B = signs[(groups[..., None] - values[..., None, :]).abs().argmin(-1)]  # (..., g, bits)
        if step < rounds:
            B64 = B.double()
            normal = B64.transpose(-1, -2) @ B64 + 1e-6 * torch.eye(bits)  # two planes may be the same
            a = torch.linalg.solve(normal, (B64.transpose(-1, -2) @ groups.double()[..., None])[..., 0]).float()
    return _joined((B @ a[..., None])[..., 0], W, group), bits + 16 * bits / (group * rows)


def gptq(
    W: torch.Tensor, bits: int, group: int, H: torch.Tensor, ordered: bool = True, damping: float = 0.01
) -> tuple[torch.Tensor, float]:
    """H (n, n) = X^T X of the inputs. The order of the columns takes 16 bits each."""
    order = H.diagonal().argsort(descending=True) if ordered else torch.arange(len(H), device=H.device)
    W, H = W[:, order].clone(), H[order][:, order].double()
    H.diagonal().add_(damping * float(H.diagonal().mean()))
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True).float()
    out = torch.empty_like(W)
    for i in range(W.shape[1]):
        if i % group == 0:
            scale, zero = _grid(W[:, i : i + group], bits)
        out[:, i] = _round(W[:, i : i + 1], scale, zero, bits)[:, 0]
        W[:, i + 1 :] -= ((W[:, i] - out[:, i]) / U[i, i])[:, None] * U[i, i + 1 :]
    placed = torch.empty_like(out)
    placed[:, order] = out
    return placed, bits + (16 + bits) / group + (16 / len(W) if ordered else 0)


def propagated(W: torch.Tensor, H: torch.Tensor, moved: torch.Tensor, damping: float = 0.1) -> torch.Tensor:
    """What comes closest on the inputs X that there are to W on those of the float model, X_f; moved (n, n) =
    (X_f - X)^T X (Arai and Ichikawa 2025)."""
    H = H.double()
    H = H + damping * H.diagonal().mean() * torch.eye(len(H), device=H.device)
    return W + torch.linalg.solve(H, (W.double() @ moved.double()).T).T.float()


def double(W: torch.Tensor, bits: int, group: int, rows: int = 1) -> tuple[torch.Tensor, float]:
    """:func:`double_binary` for :func:`data_free`; it has no groups."""
    return double_binary(W, bits)


@torch.no_grad()
def data_free(
    model: nn.Module, names: list[str], how: Callable[..., Any], bits: int, group: int | None, rows: int = 1
) -> float:
    """The layers called `names`, in place, by :func:`uniform` or :func:`binary`; bits a weight of all. Linear layers
    and convolutions, those as matrices; group None: whole rows."""
    used = weights = 0.0
    for name in names:
        layer: Any = model.get_submodule(name)
        matrix = layer.weight.flatten(1)
        W, taken = how(matrix, bits, group or matrix.shape[1], rows)
        layer.weight.copy_(W.view_as(layer.weight))
        used, weights = used + taken * W.numel(), weights + W.numel()
    return used / weights


@torch.no_grad()
def calibrated(
    model: nn.Module,
    names: list[str],
    batches: list[Any],
    bits: int,
    group: int | None,
    ordered: bool = True,
    propagate: bool = False,
) -> float:
    """By :func:`gptq`, in the order of `names`, which is that in which they run; batches as of bqq.nn.compress.
    Convolutions have to be of single pixels."""
    used = weights = 0.0
    true = copy.deepcopy(model) if propagate else None
    for name in names:
        layer: Any = model.get_submodule(name)
        matrix = layer.weight.flatten(1)
        if matrix.shape[1] != layer.weight.shape[1]:
            raise ValueError(f"{name} has a kernel of {tuple(layer.weight.shape[2:])}, expected 1 x 1")
        H, moved = _moments(model, true, name, batches)
        W = propagated(matrix, H, moved) if propagate else matrix
        W, taken = gptq(W, bits, group or matrix.shape[1], H, ordered)
        layer.weight.copy_(W.view_as(layer.weight))
        used, weights = used + taken * W.numel(), weights + W.numel()
    return used / weights


@torch.no_grad()
def by_importance(model: nn.Module, names: list[str], batches: list[Any], how: Callable[..., Any]) -> float:
    """The linear layers called `names`, in place; how(W, importance) -> W_hat, bits a weight: importance (n,) are the
    mean squares of the inputs in the model as it is before. Bits a weight of all."""
    squares, used, weights = mean_squares(model, names, batches), 0.0, 0.0
    for name in names:
        layer: Any = model.get_submodule(name)
        W, taken = how(layer.weight, squares[name])
        layer.weight.copy_(W)
        used, weights = used + taken * W.numel(), weights + W.numel()
    return used / weights


def by_ggml(type_name: str) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, float]]:
    """For :func:`by_importance`, which is then what llama.cpp calls an importance matrix."""

    def how(W: torch.Tensor, importance: torch.Tensor) -> tuple[torch.Tensor, float]:
        values, used = ggml.rounded(W.numpy(), type_name, importance.numpy())
        return torch.from_numpy(values), used

    return how


@torch.no_grad()
def mean_squares(model: nn.Module, names: list[str], batches: list[Any]) -> dict[str, torch.Tensor]:
    """Of the inputs of linear layers, without padding."""
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    counts = dict.fromkeys(names, 0)
    batch: Any = None

    def note(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            x = _rows(args[0], batch)
            sums[name], counts[name] = sums[name] + x.square().sum(0), counts[name] + len(x)

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    for batch in batches:
        model(**batch) if isinstance(batch, dict) else model(batch)
    for handle in handles:
        handle.remove()
    return {name: sums[name] / counts[name] for name in names}


def _rows(x: torch.Tensor, batch: Any) -> torch.Tensor:
    """(..., n) -> (rows, n), those of tokens that the batch masks left out."""
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    return x[mask.bool()] if mask is not None and mask.shape == x.shape[:-1] else x.flatten(0, -2)


class _Enough(Exception):
    """The layer has been reached."""


def _moments(
    model: nn.Module, true: nn.Module | None, name: str, batches: list[Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """H = X^T X of the inputs X of a layer, and (X_f - X)^T X, with X_f those that it has in the model `true`."""
    H, moved = torch.zeros(()), torch.zeros(())
    for batch in batches:
        x = _inputs(model, name, batch)
        H = H + x.T @ x
        if true is not None:
            moved = moved + (_inputs(true, name, batch) - x).T @ x
    return H, moved


def _inputs(model: nn.Module, name: str, batch: Any) -> torch.Tensor:
    """(rows, n): what goes into a linear layer, without padding, or a convolution of single pixels."""
    layer, found = model.get_submodule(name), []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise _Enough

    handle = layer.register_forward_pre_hook(hook)
    with suppress(_Enough):
        model(**batch) if isinstance(batch, dict) else model(batch)
    handle.remove()
    x = found[0]
    return _rows(x.movedim(1, -1) if isinstance(layer, nn.Conv2d) else x, batch)
