"""The recipe block by block: inputs of the compressed and of the original model for the same tokens."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bqq.nn import _tune
from bqq.nn._guide import Weights, token_weights
from bqq.nn._modules import _Compressed
from bqq.nn._recipe import run_jobs
from bqq.nn._resume import Done

if TYPE_CHECKING:
    from bqq.nn._compress import Run
    from bqq.nn._report import Report

_DAMPING = 0.1  # share of the mean of the diagonal of H, in the search and in propagation
_Array = np.ndarray[Any, Any]


class _Enough(Exception):
    """What was wanted of a forward pass is there."""


class Calibrated:
    """One run over a model. `store` puts a compressed layer in its place and notes it in the report."""

    def __init__(
        self,
        model: nn.Module,
        targets: dict[str, nn.Module],
        batches: list[Any],
        run: Run,
        store: Callable[[str, nn.Module, Done], _Compressed],
        report: Report,
    ) -> None:
        self._model, self._targets, self._batches = model, targets, batches
        self._recipe, self._executor, self._kept = run.recipe, run.executor, run.kept
        self._store, self._report = store, report
        self._masks = [mask_of(batch) for batch in batches]
        self._weights: Weights = {}

    def run(self) -> None:
        prefix, blocks = _blocks(self._model, self._targets)
        if blocks:
            if self._recipe.guide:
                self._guide(prefix, blocks)
            calls = self._calls(blocks[0])
            inputs = [hidden for hidden, _, _ in calls]
            original = list(inputs)
            for i, block in enumerate(blocks):
                inputs, original = self._block(f"{prefix}.{i}", block, calls, inputs, original)
        outside = {name: m for name, m in self._targets.items() if not blocks or not name.startswith(prefix + ".")}
        for name, module in outside.items():
            if done := self._kept.layer(name):
                self._store(name, module, done)
                continue
            moments = _Moments()
            if not isinstance(module, nn.Embedding):
                for batch, mask in zip(self._batches, self._masks, strict=True):
                    moments.add(_rows(self._seen(module, partial(called, self._model, batch)), mask, module))
            self._stage({name: moments})

    def _guide(self, prefix: str, blocks: list[nn.Module]) -> None:
        modules = {name: m for name, m in self._targets.items() if name.startswith(prefix + ".")}
        modules = {name: m for name, m in modules.items() if not isinstance(m, (nn.Conv2d, nn.Embedding))}
        modules |= {f"{prefix}.{i}": block for i, block in enumerate(blocks)}

        def differentiable(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (args[0].detach().requires_grad_(), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

        frozen = {p: p.requires_grad for p in self._model.parameters()}
        for p in frozen:
            p.requires_grad_(False)
        try:
            with _hooked(blocks[0], differentiable, with_kwargs=True):
                run = partial(called, self._model)
                self._weights = token_weights(run, self._batches, self._masks, modules, self._recipe.seed)
        finally:
            for p, needed in frozen.items():
                p.requires_grad_(needed)

    def _weighted(self, name: str, batch: int) -> torch.Tensor | None:
        return self._weights[name][batch] if name in self._weights else None

    def _calls(self, first: nn.Module) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
        """For each batch the hidden state that enters the first block, and the other arguments."""
        calls: list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]] = []

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = {k: False if k == "use_cache" else _stateless(v) for k, v in kwargs.items()}
            if args:
                calls.append((args[0], tuple(map(_stateless, args[1:])), kwargs))
            else:
                calls.append((kwargs.pop("hidden_states"), (), kwargs))
            raise _Enough

        with _hooked(first, hook, with_kwargs=True):
            for batch in self._batches:
                with suppress(_Enough):
                    called(self._model, batch)
        if len(calls) != len(self._batches):
            raise ValueError("calibration: not every batch reaches the first block of the model")
        return calls

    def _block(
        self, prefix: str, block: nn.Module, calls: list[Any], inputs: list[Any], original: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Compresses a block; the hidden states behind it, of the compressed and of the original model."""
        names = [name for name in self._targets if name.startswith(prefix + ".")]
        before = copy.deepcopy(block)
        behind = [_run(before, f, call) for f, call in zip(original, calls, strict=True)]
        if not self._restored(prefix, block, names):
            for stage in _stages(block, prefix, names, partial(_run, block, inputs[0], calls[0])):
                missing = [name for name in stage if not self._found(name)]
                if not missing:
                    continue
                inner = missing[0].removeprefix(prefix + ".")
                moments = {name: _Moments() for name in missing}
                module, twin = block.get_submodule(inner), before.get_submodule(inner)
                for i, (h, f, call, mask) in enumerate(zip(inputs, original, calls, self._masks, strict=True)):
                    seen = _rows(self._seen(module, partial(_run, block, h, call)), mask, module)
                    true = seen
                    if self._recipe.propagate:
                        true = _rows(self._seen(twin, partial(_run, before, f, call)), mask, twin)
                    for name in missing:
                        moments[name].add(seen, true, self._weighted(name, i))
                self._stage(moments)
            weights = [self._weighted(prefix, i) for i in range(len(inputs))]
            self._tuned(prefix, block, names, (inputs, behind, calls, self._masks, weights))
        return [_run(block, h, call) for h, call in zip(inputs, calls, strict=True)], behind

    def _found(self, name: str) -> bool:
        done = self._kept.layer(name)
        if done is not None:
            self._store(name, self._targets[name], done)
        return done is not None

    def _restored(self, prefix: str, block: nn.Module, names: list[str]) -> bool:
        """Puts a block in place that an earlier run has finished."""
        found = self._kept.block(prefix) if names else None
        if found is None:
            return False
        items, about = found
        for name in names:
            done = about["layers"][name]
            self._store(name, self._targets[name], Done(items[name], done["error"], done["note"], done["seconds"]))
        for key, p in block.named_parameters():
            if p.dim() == 1:
                p.copy_(torch.from_numpy(items[f"{prefix}.{key}"]))
        if about["tuned"]:
            self._report.blocks.append(about["tuned"])
        return True

    def _tuned(self, prefix: str, block: nn.Module, names: list[str], data: Any) -> None:
        if not names:
            return
        tuned: dict[str, float] = {}
        if self._recipe.tune:
            start = time.perf_counter()
            before, after = _tune.tune(block, partial(_run, block), data, self._recipe)
            tuned = {"before": before, "after": after, "seconds": time.perf_counter() - start}
            self._report.blocks.append(tuned)
        layers = {x.name: x for x in self._report.layers}
        about = {
            name: {"error": layers[name].error, "note": layers[name].note, "seconds": layers[name].seconds}
            for name in names
        }
        items: dict[str, Any] = {name: block.get_submodule(name.removeprefix(prefix + ".")).matrix for name in names}
        items |= {f"{prefix}.{key}": p.detach().float().numpy() for key, p in block.named_parameters() if p.dim() == 1}
        self._kept.keep_block(prefix, items, {"layers": about, "tuned": tuned})

    def _stage(self, moments: dict[str, _Moments]) -> None:
        """Layers that see the same inputs, each a job."""
        from bqq.nn._compress import finite

        start = time.perf_counter()
        weights = {name: finite(name, self._targets[name]) for name in moments}
        for name, m in moments.items():
            if m.count and not np.isfinite(m.H).all():
                raise ValueError(f"{name}: its inputs on the calibration data are not finite")
        targets = {name: moments[name].propagated(W) for name, W in weights.items()}
        jobs = ((name, W, None if moments[name].blind else moments[name].H) for name, W in targets.items())
        for name, q in run_jobs(self._executor, self._recipe, jobs):
            W, m, module = weights[name], moments[name], self._targets[name]
            if m.blind:
                error = q.error(W) ** 2
                note = "" if isinstance(module, nn.Embedding) else "saw no inputs: without calibration"
            else:
                E = (q.reconstruct() - targets[name]).astype(np.float64)
                error = float(((E @ m.H) * E).sum() / max(((W @ m.H) * W).sum(), 1e-300))
                note = m.note()
            done = Done(q, error, note, time.perf_counter() - start)
            start = time.perf_counter()
            self._kept.keep_layer(name, done)
            self._store(name, module, done)

    @staticmethod
    def _seen(module: nn.Module, call: Callable[[], Any]) -> torch.Tensor | None:
        """The input of a layer in one call, as far as it gets."""
        seen: list[torch.Tensor] = []

        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0])
            raise _Enough

        with _hooked(module, hook), suppress(_Enough):
            call()
        return seen[0] if seen else None


class _Moments:
    """Sums over tokens, each with a weight: X^T X of the inputs, and (X_f - X)^T X with X_f those of the original."""

    def __init__(self) -> None:
        self.count = 0
        self.H: _Array = np.zeros((0, 0))
        self.moved: _Array | None = None

    def add(
        self, seen: torch.Tensor | None, true: torch.Tensor | None = None, weights: torch.Tensor | None = None
    ) -> None:
        if seen is None:
            return
        if not self.count:
            self.H = np.zeros((seen.shape[1], seen.shape[1]))
        self.count += seen.shape[0]
        if true is not None and true.shape != seen.shape:  # tokens that went to another expert
            true = None
        if weights is not None and len(weights) != len(seen):
            weights = None
        weighted = seen if weights is None else seen * weights[:, None]
        self.H += (seen.T @ weighted).double().numpy()
        if true is not None and true is not seen:
            moved = ((true - seen).T @ weighted).double().numpy()
            self.moved = moved if self.moved is None else self.moved + moved

    @property
    def blind(self) -> bool:
        """Nothing came in, or zeros alone."""
        return not self.count or not np.trace(self.H)

    def propagated(self, W: _Array) -> _Array:
        """W (I + (X_f - X)^T X (H + damping)^-1): what on X comes closest to W on X_f."""
        if self.moved is None or self.blind:
            return W
        n = len(self.H)
        damped = self.H + _DAMPING * np.trace(self.H) / n * np.eye(n)
        moved: _Array = W + np.linalg.solve(damped, (W @ self.moved).T).T
        return moved.astype(np.float32)

    def note(self) -> str:
        n = len(self.H)
        dead = int((np.diag(self.H) == 0).sum())
        few = f"{self.count} tokens for {n} inputs" if self.count < n else ""
        return "; ".join(filter(None, [few, f"{dead} inputs are always 0" if dead else ""]))


def _blocks(model: nn.Module, targets: dict[str, nn.Module]) -> tuple[str, list[nn.Module]]:
    """The longest list of modules that has targets in it and is in no member of another, and its name."""
    best: tuple[str, list[nn.Module]] = ("", [])
    lists = [name + "." for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    for name, module in model.named_modules():
        if any(name.startswith(outer) for outer in lists):
            continue
        longer = isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > len(best[1])
        if longer and any(target.startswith(name + ".") for target in targets):
            best = (name, list(module.children()))
    return best if len(best[1]) > 1 else ("", [])


def _stages(block: nn.Module, prefix: str, names: list[str], call: Callable[[], Any]) -> list[list[str]]:
    """Layers in the order in which they run; those that run on the same tensor together."""
    order: list[tuple[int, tuple[int, ...], str]] = []
    kept = []

    def hook(name: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0])  # alive: no other tensor gets its address
            order.append((args[0].data_ptr(), tuple(args[0].shape), name))

        return note

    handles = [
        block.get_submodule(name.removeprefix(prefix + ".")).register_forward_pre_hook(hook(name)) for name in names
    ]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    stages: list[list[str]] = []
    last: Any = None
    for address, shape, name in order:
        if any(name in stage for stage in stages):
            continue
        if (address, shape) == last:
            stages[-1].append(name)
        else:
            stages.append([name])
        last = (address, shape)
    return stages + [[name] for name in names if not any(name in stage for stage in stages)]


def _rows(x: torch.Tensor | None, mask: torch.Tensor | None, module: nn.Module) -> torch.Tensor | None:
    """The inputs of a layer as (tokens, n), without padding."""
    if x is None:
        return None
    if isinstance(module, nn.Conv2d):
        x = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
        return x.transpose(1, 2).reshape(-1, x.shape[1]).float()
    if mask is not None and x.shape[: mask.dim()] == mask.shape:
        x = x[mask]
    return x.reshape(-1, x.shape[-1]).float()


def mask_of(batch: Any) -> torch.Tensor | None:
    """Where its tokens count, if it says so."""
    mask = batch.get("attention_mask") if hasattr(batch, "get") else None
    return mask.bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None


def called(model: nn.Module, batch: Any) -> Any:
    """What the model makes of a batch."""
    if hasattr(batch, "keys"):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _stateless(value: Any) -> Any:
    """None for a cache of keys and values: a block that runs often would fill it."""
    return None if hasattr(value, "get_seq_length") else value


def _run(block: nn.Module, hidden: torch.Tensor, call: Any) -> torch.Tensor:
    """The hidden state behind a block."""
    output = block(hidden, *call[1], **call[2])
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


@contextmanager
def _hooked(module: nn.Module, hook: Any, **options: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, **options)
    try:
        yield
    finally:
        handle.remove()
