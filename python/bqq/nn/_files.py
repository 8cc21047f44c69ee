"""Models on disk: one container of compressed matrices and ordinary tensors, and config.json beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bqq
from bqq.nn._modules import _EXTRAS, _Compressed, compressed, reason

_FILE, _KEY = "model.safetensors", "bqq_nn"
_OWN = ("planes_y", "planes_z", "scales", *_EXTRAS)


def save(model: nn.Module, directory: str | os.PathLike[str]) -> None:
    """Write a model to ``directory`` (made if it is missing): compressed weights under ``NAME.weight`` in
    ``model.safetensors`` (format: cpp/FORMAT.md) with the rest of its state_dict, and the model's ``config``, if it has
    one, with a ``quantization_config``. The file appears whole or not at all.

    Raises ValueError if nothing of the model is compressed, OSError if writing fails.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _Compressed)}
    if not layers:
        raise ValueError("model has no compressed layer: nothing that torch.save would not do")
    own = {f"{name}.{part}" for name in layers for part in _OWN}
    items: dict[str, Any] = {key: t.detach() for key, t in model.state_dict().items() if key not in own}
    items |= {f"{name}.weight": layer.matrix for name, layer in layers.items()}
    made_of = {name: {"kind": type(layer).__name__, "precision": layer.precision} for name, layer in layers.items()}
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    bqq.save(folder / _FILE, items, metadata={_KEY: json.dumps(made_of, separators=(",", ":"))})
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        content = {**config.to_dict(), "quantization_config": {"quant_method": "bqq"}}
        text = json.dumps(content, indent=2, sort_keys=True, default=str)
        temporary = folder / "config.json.part"
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(folder / "config.json")


def load(model: nn.Module, directory: str | os.PathLike[str]) -> nn.Module:
    """Give a model of the same class, with any weights, what :func:`save` wrote: its layers are replaced by compressed
    ones, everything else is loaded, strictly. Returns the model.

    The file is mapped while it is read; the layers own what they hold. Nothing of the model is changed if names or
    shapes do not fit. Raises FormatError or ValueError for a file that is none of ``save``, KeyError never.
    """
    with bqq.open(Path(directory) / _FILE) as file:
        if _KEY not in file.metadata:
            raise ValueError(f"{os.fspath(directory)}: {_FILE} was not written by bqq.nn.save")
        made_of: dict[str, dict[str, str]] = json.loads(file.metadata[_KEY])
        modules = dict(model.named_modules())
        missing = sorted(set(made_of) - set(modules))
        if missing:
            raise ValueError(f"model has no module {missing[0]!r} ({len(missing)} of {len(made_of)} are missing)")
        fresh: dict[str, _Compressed] = {}
        for name, how in made_of.items():
            module, matrix = modules[name], file[f"{name}.weight"]
            if why := reason(module):
                raise ValueError(f"module {name!r} of the model: {why}, expected what became a {how['kind']}")
            fresh[name] = compressed(_on_cpu(module, matrix), matrix, how["precision"])
            if type(fresh[name]).__name__ != how["kind"]:
                raise ValueError(f"module {name!r} is a {type(module).__name__}, the file has a {how['kind']}")
        rest = {key: torch.as_tensor(_tensor(file[key])) for key in file if f"{key}" not in _weights(made_of)}
        expected = {key for key in model.state_dict() if key not in _weights(made_of)}
        if set(rest) != expected:
            odd = sorted(set(rest) ^ expected)
            raise ValueError(f"tensor {odd[0]!r} is in only one of model and file ({len(odd)} such)")
        for key, value in model.state_dict().items():
            if key in rest and rest[key].shape != value.shape:
                raise ValueError(f"tensor {key!r} has shape {tuple(rest[key].shape)}, expected {tuple(value.shape)}")
        for name, layer in fresh.items():
            layer.train(modules[name].training)
            replace(model, name, layer)
        model.load_state_dict({**model.state_dict(), **rest}, strict=True, assign=True)
    return model


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """The module called `name` becomes `layer`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _weights(names: Any) -> set[str]:
    return {f"{name}.weight" for name in names}


def _on_cpu(module: nn.Module, matrix: bqq.Matrix) -> nn.Module:
    """A module on the meta device gets a bias to be filled."""
    bias: Any = getattr(module, "bias", None)
    if bias is not None and bias.is_meta:
        module.bias = nn.Parameter(torch.zeros(matrix.shape[0], dtype=bias.dtype), requires_grad=bias.requires_grad)
    return module


def _tensor(value: Any) -> Any:
    if isinstance(value, bqq.RawTensor):
        kind = {"BF16": torch.bfloat16}.get(value.dtype)
        if kind is None:
            raise ValueError(f"a tensor of dtype {value.dtype} is nothing that torch has here")
        return torch.frombuffer(bytearray(value.data.tobytes()), dtype=kind).reshape(value.shape)
    return value.copy()
