"""The blocks of a model, the layers in them, and calls of either."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


def blocks_of(model: nn.Module, targets: dict[str, nn.Module], batch: Any) -> dict[str, nn.Module]:
    """Name -> block: the members of the longest ModuleList or Sequential that has targets in it, is in no member of
    another ModuleList, and whose members a batch goes through one after the other. Empty if there is none."""
    lists = {name: m for name, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))}
    outer = [_inside(name) for name, m in lists.items() if isinstance(m, nn.ModuleList) and len(m) > 1]
    for name, members in sorted(lists.items(), key=lambda item: -len(item[1])):
        inner = any(name.startswith(other) for other in outer)
        if len(members) > 1 and not inner and any(target.startswith(_inside(name)) for target in targets):
            found = {_inside(name) + key: member for key, member in members._modules.items() if member is not None}
            if _chained(model, found, batch):
                return found
    return {}


def _inside(name: str) -> str:
    """What names inside a module begin with."""
    return name + "." if name else ""


def layers_of(block: str, targets: dict[str, nn.Module]) -> list[str]:
    """Names of targets in a block, or the block itself; embeddings are not calibrated."""
    names = [name for name in targets if name == block or name.startswith(block + ".")]
    return [name for name in names if not isinstance(targets[name], nn.Embedding)]


def within(block: str, name: str) -> str:
    """The name of a layer in its block."""
    return "" if name == block else name.removeprefix(block + ".")


def _chained(model: nn.Module, blocks: dict[str, nn.Module], batch: Any) -> bool:
    """They are called in their order, each with what the one before gives; twice only if there is nothing to learn."""
    seen: list[tuple[nn.Module, Any]] = []
    given: list[Any] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((module, args[0] if args else kwargs.get("hidden_states")))

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    members = list(dict.fromkeys(blocks.values()))
    again = [m for m in members if sum(m is other for other in blocks.values()) > 1]
    if any(True for m in again for _ in m.parameters()):
        return False
    with ExitStack() as hooks:
        for m in members:
            hooks.enter_context(m.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.enter_context(m.register_forward_hook(leave))
        called(model, batch)
    same = all(_same(x, y) for (_, x), y in zip(seen[1:], given, strict=False))
    return [id(m) for m, _ in seen] == [id(m) for m in blocks.values()] and len(given) == len(seen) and same


def _same(x: Any, y: Any) -> bool:
    return isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and (x is y or torch.equal(x, y))


def stages(block: nn.Module, prefix: str, names: list[str], call: Callable[[], Any]) -> list[list[str]]:
    """Layers in the order in which they run; those that run on the same tensor together."""
    order: list[tuple[int, tuple[int, ...], str]] = []
    kept = []

    def hook(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0])  # alive: no other tensor gets its address
            order.append((args[0].data_ptr(), tuple(args[0].shape), name))

        return note

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(block.get_submodule(within(prefix, name)).register_forward_pre_hook(hook(name)))
        call()
    found: list[list[str]] = []
    last: Any = None
    for address, shape, name in order:
        if any(name in stage for stage in found):
            continue
        if (address, shape) == last:
            found[-1].append(name)
        else:
            found.append([name])
        last = (address, shape)
    return found + [[name] for name in names if not any(name in stage for stage in found)]


def mask_of(batch: Any) -> torch.Tensor | None:
    """Where its tokens count, if it says so."""
    mask = batch.get("attention_mask") if hasattr(batch, "get") else None
    return mask.bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None


def called(model: nn.Module, batch: Any) -> Any:
    """What the model makes of a batch."""
    if hasattr(batch, "keys"):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def stateless(value: Any) -> Any:
    """None for a cache of keys and values: a block that runs often would fill it."""
    return None if hasattr(value, "get_seq_length") else value


def run(block: nn.Module, hidden: torch.Tensor, call: Any) -> torch.Tensor:
    """The hidden state behind a block."""
    output = block(hidden.clone(), *call[1], **call[2])  # some work in place
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result
