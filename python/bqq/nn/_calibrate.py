"""The recipe block by block: inputs of the compressed and of the original model for the same tokens."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bqq.nn import _tune
from bqq.nn._blocks import blocks_of, called, layers_of, mask_of, run, stages, stateless, within
from bqq.nn._guide import Weights, dependence
from bqq.nn._mix import Trial, inner, mix
from bqq.nn._modules import _Compressed, weight_matrix
from bqq.nn._recipe import run_jobs
from bqq.nn._resume import Done

if TYPE_CHECKING:
    from bqq.nn._compress import Run
    from bqq.nn._recipe import Recipe
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
        self._bits: dict[str, float] = {}  # of layers that have others than the recipe

    def run(self) -> None:
        blocks = blocks_of(self._model, self._targets, self._batches[0])
        inside: set[str] = set()
        if blocks:
            calls = self._calls(next(iter(blocks.values())))
            inputs = [hidden for hidden, _, _ in calls]
            original = list(inputs)
            self._look_ahead(blocks, calls)
            for name, block in blocks.items():
                inside.update(layers_of(name, self._targets))
                inputs, original = self._block(name, block, calls, inputs, original)
        for name, module in self._targets.items():
            if name in inside:
                continue
            if done := self._kept.layer(name):
                self._store(name, module, done)
                continue
            moments = _Moments()
            if not isinstance(module, nn.Embedding):
                for batch, mask in zip(self._batches, self._masks, strict=True):
                    moments.add(_rows(self._seen(module, partial(called, self._model, batch)), mask, module))
            self._stage({name: moments})

    def _look_ahead(self, blocks: dict[str, nn.Module], calls: list[Any]) -> None:
        """What each token counts, and the bits of each layer."""
        kept = self._kept.parameters("bits")
        wanted = self._recipe.mixed and self._recipe.bits > 1 and kept is None  # at 1 each has one stack
        trials = self._trials(blocks, calls) if wanted else {}
        if self._recipe.guide or trials:
            weights, moved = self._dependence(blocks, trials)
            self._weights = weights if self._recipe.guide else {}
        if kept is not None:
            self._bits = {name: float(bits) for name, bits in kept[0].items()}
        elif trials:
            self._bits = mix(self._recipe.bits, trials, moved)
            self._kept.keep_parameters("bits", {n: np.array(b) for n, b in self._bits.items()}, {})

    def _trials(self, blocks: dict[str, nn.Module], calls: list[Any]) -> dict[str, Trial]:
        """Of all layers in blocks that see inputs, in the metric of those of the original model."""
        trials: dict[str, Trial] = {}
        hidden = [h for h, _, _ in calls]
        for path, block in blocks.items():
            names = layers_of(path, self._targets)
            moments = {name: _Moments() for name in names}
            mended = self._inner(path, list(blocks), partial(run, block, hidden[0], calls[0]))

            def note(name: str, mask: Any, module: nn.Module, args: tuple[Any, ...], of: Any = moments) -> None:
                of[name].add(_rows(args[0], mask, module))

            for k, (call, mask) in enumerate(zip(calls, self._masks, strict=True)):
                with ExitStack() as hooks:
                    for n in names:
                        hooks.enter_context(self._targets[n].register_forward_pre_hook(partial(note, n, mask)))
                    hidden[k] = run(block, hidden[k], call)
            names = [name for name in names if not moments[name].blind]
            weights = {name: self._checked(name, moments[name]) for name in names}
            jobs = ((name, self._recipe.trial, (weights[name], moments[name].H)) for name in names)
            for name, (rows, off, p, taken) in run_jobs(self._executor, jobs):
                places, off = torch.from_numpy(rows), torch.from_numpy(off)
                trials[name] = Trial(places, off, p, taken, weights[name].shape, name in mended)
        return trials

    def _inner(self, path: str, blocks: list[str], once: Callable[[], torch.Tensor]) -> set[str]:
        """Layers of a block whose losses error propagation makes good in part: those heard through others alone that
        widen, so that the next sees the losses in few of its dimensions; a layer in a row, but for the last."""
        names = layers_of(path, self._targets)
        if not names or not self._recipe.propagate:
            return set()
        if path in self._targets:
            behind = blocks[blocks.index(path) + 1 :]
            return {path} if any(layers_of(other, self._targets) for other in behind) else set()
        found = inner({name: self._targets[name] for name in names}, once)
        shapes = {name: weight_matrix(self._targets[name]).shape for name in found}  # type: ignore[union-attr]
        return {name for name, (m, n) in shapes.items() if m > n}

    def _dependence(self, blocks: dict[str, nn.Module], trials: dict[str, Trial]) -> tuple[Weights, dict[str, float]]:
        modules = {name: self._targets[name] for path in blocks for name in layers_of(path, self._targets)}
        modules = {name: m for name, m in modules.items() if name in trials or not isinstance(m, nn.Conv2d)} | blocks

        def differentiable(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (_with_gradient(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": _with_gradient(kwargs["hidden_states"])}

        frozen = {p: p.requires_grad for p in self._model.parameters()}
        for p in frozen:
            p.requires_grad_(False)
        try:
            with ExitStack() as hooks:
                for m in set(blocks.values()):
                    hooks.enter_context(m.register_forward_pre_hook(differentiable, with_kwargs=True))
                once = partial(called, self._model)
                return dependence(once, self._batches, self._masks, modules, trials, self._recipe)
        finally:
            for p, needed in frozen.items():
                p.requires_grad_(needed)

    def _weighted(self, name: str, batch: int) -> torch.Tensor | None:
        return self._weights[name][batch] if name in self._weights else None

    def _calls(self, first: nn.Module) -> list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]]:
        """For each batch the hidden state that enters the first block, and the other arguments."""
        calls: list[tuple[torch.Tensor, tuple[Any, ...], dict[str, Any]]] = []

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = {k: False if k == "use_cache" else stateless(v) for k, v in kwargs.items()}
            if args:
                calls.append((args[0], tuple(map(stateless, args[1:])), kwargs))
            else:
                calls.append((kwargs.pop("hidden_states"), (), kwargs))
            raise _Enough

        with first.register_forward_pre_hook(hook, with_kwargs=True):
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
        names = layers_of(prefix, self._targets)
        before = copy.deepcopy(block)
        behind = [run(before, f, call) for f, call in zip(original, calls, strict=True)]
        if not self._restored(prefix, names):
            for stage in stages(block, prefix, names, partial(run, block, inputs[0], calls[0])):
                missing = [name for name in stage if not self._found(name)]
                if not missing:
                    continue
                place = within(prefix, missing[0])
                moments = {name: _Moments() for name in missing}
                module, twin = block.get_submodule(place), before.get_submodule(place)
                for i, (h, f, call, mask) in enumerate(zip(inputs, original, calls, self._masks, strict=True)):
                    seen = _rows(self._seen(module, partial(run, block, h, call)), mask, module)
                    true = seen
                    if self._recipe.propagate:
                        true = _rows(self._seen(twin, partial(run, before, f, call)), mask, twin)
                    for name in missing:
                        moments[name].add(seen, true, self._weighted(name, i))
                self._stage(moments)
            block = self._model.get_submodule(prefix)
            weights = [self._weighted(prefix, i) for i in range(len(inputs))]
            self._tuned(prefix, block, names, (inputs, behind, calls, self._masks, weights))
        block = self._model.get_submodule(prefix)  # a layer of its own is another now
        return [run(block, h, call) for h, call in zip(inputs, calls, strict=True)], behind

    def _found(self, name: str) -> bool:
        done = self._kept.layer(name)
        if done is not None:
            self._store(name, self._targets[name], done)
        return done is not None

    def _restored(self, prefix: str, names: list[str]) -> bool:
        """Puts a block in place that an earlier run has finished."""
        found = self._kept.block(prefix) if names else None
        if found is None:
            return False
        items, about = found
        for name in names:
            done = about["layers"][name]
            self._store(name, self._targets[name], Done(items[name], done["error"], done["note"], done["seconds"]))
        for key, p in self._model.get_submodule(prefix).named_parameters():
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
            holder = nn.ModuleList([block])  # tuning puts other modules in the place of layers
            before, after = _tune.tune(holder, lambda h, call: run(holder[0], h, call), data, self._recipe)
            tuned = {"before": before, "after": after, "seconds": time.perf_counter() - start}
            self._report.blocks.append(tuned)
        layers = {x.name: x for x in self._report.layers}
        about = {
            name: {"error": layers[name].error, "note": layers[name].note, "seconds": layers[name].seconds}
            for name in names
        }
        items: dict[str, Any] = {name: block.get_submodule(within(prefix, name)).matrix for name in names}
        items |= {f"{prefix}.{key}": p.detach().float().numpy() for key, p in block.named_parameters() if p.dim() == 1}
        self._kept.keep_block(prefix, items, {"layers": about, "tuned": tuned})

    def _stage(self, moments: dict[str, _Moments]) -> None:
        """Layers that see the same inputs, each a job."""
        start = time.perf_counter()
        weights = {name: self._checked(name, m) for name, m in moments.items()}
        targets = {name: moments[name].propagated(W) for name, W in weights.items()}
        jobs = (
            (name, self._of(name).decompose, (W, None if moments[name].blind else moments[name].H))
            for name, W in targets.items()
        )
        for name, q in run_jobs(self._executor, jobs):
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

    def _checked(self, name: str, moments: _Moments) -> _Array:
        """The weight of a layer; ValueError where it or what the layer sees is not finite."""
        from bqq.nn._compress import finite

        W = finite(name, self._targets[name])
        if moments.count and not np.isfinite(moments.H).all():
            raise ValueError(f"{name}: its inputs on the calibration data are not finite")
        return W

    def _of(self, name: str) -> Recipe:
        """The recipe with the bits of a layer."""
        return replace(self._recipe, bits=self._bits.get(name, self._recipe.bits))

    @staticmethod
    def _seen(module: nn.Module, call: Callable[[], Any]) -> torch.Tensor | None:
        """The input of a layer in one call, as far as it gets."""
        seen: list[torch.Tensor] = []

        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0])
            raise _Enough

        with module.register_forward_pre_hook(hook), suppress(_Enough):
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


def _with_gradient(x: torch.Tensor) -> torch.Tensor:
    """x as the first tensor of a graph, unless it is in one or can't be."""
    return x if x.requires_grad or not x.is_floating_point() else x.detach().requires_grad_().clone()


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
