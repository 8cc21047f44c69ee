"""Compress the layers of a model in place, with or without inputs to calibrate on."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from bqq.nn._calibrate import Calibrated
from bqq.nn._correct import Correction
from bqq.nn._experts import fused, one_by_one, unfold
from bqq.nn._files import replace
from bqq.nn._hub import mark
from bqq.nn._modules import _Compressed, compressed, reason, weight_matrix
from bqq.nn._recipe import Recipe, run_jobs
from bqq.nn._report import LayerReport, Report
from bqq.nn._resume import Done, Kept, fingerprint

_SMALL = 32  # a side below which planes and scales are no smaller than what they stand for


@dataclass(frozen=True)
class Run:
    """What is the same for all layers."""

    recipe: Recipe
    executor: Any
    kept: Kept
    limit: float


def compress(
    model: nn.Module,
    bits: float = 2.0,
    *,
    calibration: Iterable[Any] | None = None,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    patch: int | None = None,
    effort: str | None = None,
    guide: bool = True,
    mixed: bool = True,
    propagate: bool = True,
    order: bool = True,
    outliers: float | None = 8.0,
    tune: bool | int = True,
    correct: bool | int = False,
    seed: int = 0,
    threads: int | None = None,
    executor: Any = None,
    resume: str | os.PathLike[str] | None = None,
    limit: float = 0.9,
    progress: bool | Callable[[LayerReport], object] = True,
) -> Report:
    """Replace the linear layers and convolutions of a model by compressed ones, in place.

    Without calibration each weight is approximated on its own. With it, block by block: the inputs that a layer sees in
    the model compressed so far give the metric H of its error; its weight is first moved so that it makes good what
    those inputs lost (error propagation); columns go by falling diagonal of H, outliers are kept apart; at the end of a
    block its scales, norms and biases are tuned so that its output is that of the block as it was. In all of it a token
    counts as much as the model's output depends on it there (its guide), and layers get more or fewer stacks by how
    much the output depends on what they lose (mixed): that takes trials on some rows of each layer and passes forward
    and backward through the whole model, batch by batch, beforehand.

    Experts that are one parameter of three sides become lists of layers, each with its own inputs.

    Parameters
    ----------
    model : any torch module, on the CPU in float32. Blocks are the members of its longest ModuleList or Sequential
        with such layers (they may be such themselves) that a batch goes through one after the other; layers outside of
        it are calibrated last, without propagation, and have ``bits`` each
    bits : per weight, over all layers: of planes, of planes and scales where it is no whole number; the order of the
        columns (16 bits each) and outliers come on top. With ``mixed`` a layer in a block may have two stacks more or
        less
    calibration : batches, each a dict (``model(**batch)``), a tuple (``model(*batch)``) or a tensor (``model(batch)``).
        Where a dict has an ``attention_mask``, its zeros do not count. 20,000 tokens or more; the hidden states of all
        are kept, twice
    include, exclude : patterns of module names (``"*.mlp.*"``); by default everything that can be compressed but
        embeddings, which are only if they are named, and always without calibration
    patch, effort : as in :func:`bqq.decompose`; effort None: 100 steps and 1,000 sweeps
    guide, mixed, propagate, order, outliers : the parts of the recipe, to be switched off
    tune : steps of tuning a block, True for 80, False for none
    correct : epochs of the correction step, True for 15 (c-BQQ of the paper): when all layers are compressed, Adam
        trains the whole model on the mean squared error of its outputs (``logits``, if it has such) against those it
        had before. As in the paper: no labels, 15 epochs, norms and biases; its batches are of 16 images, here they are
        those of ``calibration``. Ours: the scales are trained too, rates go with the size of what is trained and
        fall to 0. What was is put back if the error did not fall. All outputs are kept, and the compressed weights are
        there as p + 1 dense copies meanwhile
    seed, threads : as in :func:`bqq.decompose`
    executor : with ``submit`` as those of concurrent.futures (a ProcessPoolExecutor, Dask's ``client.get_executor()``):
        searches run there, those of layers with the same inputs side by side, without calibration 16 at a time. The
        bits do not depend on it
    resume : a folder (made if it is missing) that keeps layers and blocks as they are done, each checked when it is
        read. The same call after a crash goes on from there and ends with the same bits
    limit : the relative error above which a layer counts as failed
    progress : a bar over the layers, or a function that is called with the LayerReport of each

    Returns
    -------
    Report
        Bits, error and notes of each layer, what was not compressed and why, and the model.

    Raises
    ------
    ValueError, TypeError
        Bad arguments; nothing to compress; a weight or an input that is not finite, or an error above ``limit``, with
        the layer's name; a ``resume`` folder of another run. What was compressed before stays so.
    RuntimeError
        The executor broke.

    Examples
    --------
    On many machines, of which each has bqq and torch, with the scheduler at ``HOST:8786`` (``dask scheduler`` there,
    ``dask worker tcp://HOST:8786 --nthreads 1 --nworkers auto`` on each); what a lost worker had in hand is done again:

    >>> from distributed import Client
    >>> executor = Client("tcp://HOST:8786").get_executor()
    >>> bqq.nn.compress(model, 2, calibration=batches, executor=executor, resume="kept", threads=1)
    """
    recipe = _recipe(
        bits,
        effort,
        tune,
        correct,
        patch=patch,
        guide=guide,
        mixed=mixed,
        propagate=propagate,
        order=order,
        outliers=outliers,
        seed=seed,
        threads=threads,
    )
    if calibration is None and recipe.correct:
        raise ValueError(f"correct is {correct!r}, expected False without calibration")
    report = Report(model)
    _unfold(model)
    targets = _targets(model, _patterns("include", include), _patterns("exclude", exclude), report)
    if not targets:
        raise ValueError(f"model has no layer to compress: {report.skipped or 'it has no parameters'}")
    batches = None if calibration is None else list(calibration)
    if batches is not None and not batches:
        raise ValueError("calibration has no batches")
    _check_run(executor, limit, progress)
    if batches is None and bits < 3:
        warnings.warn(f"{bits} bits without calibration: outputs will be far from the model's", stacklevel=2)
    stamp = "" if resume is None else fingerprint(recipe, targets, model, batches)
    run = Run(recipe, executor, Kept(resume, stamp), limit)
    with _quiet(model), _bar(len(targets), progress is True) as bar:

        def store(name: str, module: nn.Module, done: Done) -> _Compressed:
            if not done.error <= limit:
                raise ValueError(f"{name}: its relative error is {done.error:.3g}, more than limit = {limit:g}")
            layer = compressed(module, done.matrix)
            replace(model, name, layer)
            q = done.matrix
            report.layers.append(LayerReport(name, q.shape, q.bits_per_weight, done.error, done.seconds, done.note))
            if bar is not None:
                bar.update()
            if callable(progress):
                progress(report.layers[-1])
            return layer

        if batches is None:
            _data_free(targets, run, store)
        else:
            correction = Correction(model, batches, recipe, run.kept) if recipe.correct else None
            Calibrated(model, targets, batches, run, store, report).run()
            if correction is not None:
                correction.run(report)
    kept = sum(p.numel() for n, p in model.named_parameters() if not n.endswith(".scales"))
    report.uncompressed = kept
    mark(model)
    return report


def _bar(total: int, shown: bool) -> Any:
    if not shown:
        return nullcontext()
    from tqdm.auto import tqdm  # only where a bar is asked for

    return tqdm(total=total, desc="compress", leave=False)


def _unfold(model: nn.Module) -> None:
    """Fused experts become lists of layers."""
    holders = [(module, names) for module in model.modules() if (names := fused(module))]
    for module, names in holders:
        for name in names:
            unfold(module, name)
    if holders:
        one_by_one(model)


def _data_free(targets: dict[str, nn.Module], run: Run, store: Callable[..., object]) -> None:
    missing = []
    for name, module in targets.items():
        if done := run.kept.layer(name):
            store(name, module, done)
        else:
            missing.append(name)
    jobs = ((name, run.recipe.decompose, (finite(name, targets[name]), None)) for name in missing)
    start = time.perf_counter()
    for name, q in run_jobs(run.executor, jobs):
        done = Done(q, q.error(finite(name, targets[name])) ** 2, "", time.perf_counter() - start)
        start = time.perf_counter()
        run.kept.keep_layer(name, done)
        store(name, targets[name], done)


def _check_run(executor: Any, limit: Any, progress: Any) -> None:
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor is {type(executor).__name__}, expected None or something with submit")
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise ValueError(f"limit is {limit!r}, expected a number above 0")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress is {progress!r}, expected True, False or a function")


def finite(name: str, module: nn.Module) -> np.ndarray[Any, Any]:
    """The weight as float32; ValueError where it is not finite."""
    weight = weight_matrix(module)
    assert weight is not None
    W: np.ndarray[Any, Any] = weight.float().contiguous().numpy()
    if not np.isfinite(W).all():
        raise ValueError(f"{name}.weight has {int((~np.isfinite(W)).sum())} entries that are not finite")
    return W


def _recipe(bits: Any, effort: Any, tune: Any, correct: Any, **rest: Any) -> Recipe:
    if isinstance(bits, bool) or not isinstance(bits, (int, float)):
        raise TypeError(f"bits is {bits!r}, expected a number")
    if not 0.5 <= bits <= 16:
        raise ValueError(f"bits is {bits}, expected 0.5 to 16")
    if effort not in (None, "fast", "default", "best"):
        raise ValueError(f"effort is {effort!r}, expected 'fast', 'default', 'best' or None")
    steps = 80 if tune is True else 0 if tune is False else tune
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"tune is {tune!r}, expected a number of steps, True or False")
    epochs = 15 if correct is True else 0 if correct is False else correct
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"correct is {correct!r}, expected a number of epochs, True or False")
    return Recipe(bits=float(bits), effort=effort, tune=steps, correct=epochs, **rest)


def _patterns(name: str, value: str | Iterable[str] | None) -> list[str] | None:
    if value is None:
        return None
    patterns = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"{name} is {value!r}, expected patterns of module names")
    return patterns


def _targets(
    model: nn.Module, include: list[str] | None, exclude: list[str] | None, report: Report
) -> dict[str, nn.Module]:
    """Name -> layer to compress; reasons for all others with parameters of their own go to the report."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    targets: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        why = reason(module)
        matrix = None if why else weight_matrix(module)
        if matrix is not None:
            shared = [other for other in owners[id(module.weight)] if other != name]
            if shared:
                why = f"its weight is shared with {shared[0]}"
            elif matrix.is_meta or matrix.device.type != "cpu":
                why = f"it is on {matrix.device}, expected the CPU"
            elif min(matrix.shape) < _SMALL:
                why = f"{matrix.shape[0]} x {matrix.shape[1]} is too small to gain"
            elif include is None and isinstance(module, nn.Embedding):
                why = "an embedding: name it in include"
            elif include is not None and not any(fnmatchcase(name, p) for p in include):
                why = "not included"
            elif exclude is not None and any(fnmatchcase(name, p) for p in exclude):
                why = "excluded"
        if why:
            report.skipped[name] = why
        else:
            targets[name] = module
    return targets


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, the modes of all modules put back afterwards."""
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, module in model.named_modules():  # those that are new have the names of the old
            module.training = modes.get(name, module.training)
