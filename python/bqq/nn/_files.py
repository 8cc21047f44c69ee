"""Models on disk: containers of compressed matrices and ordinary tensors, and config.json beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bqq
from bqq.nn import _op
from bqq.nn._experts import Experts, fused, one_by_one, unfold
from bqq.nn._modules import _EXTRAS, _Compressed, compressed, reason
from bqq.nn._shards import KEY, MadeOf, byte_count, header, opened, paths, write

_OWN = ("planes_y", "planes_z", "scales", *_EXTRAS)
_DTYPES = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def save(model: nn.Module, directory: str | os.PathLike[str], *, max_shard_size: int | str | None = None) -> None:
    """Write a model to ``directory`` (made if it is missing): compressed weights under their layers' names in
    ``model.safetensors`` (format: cpp/FORMAT.md) with the rest of its state_dict, and the model's ``config``, if it has
    one, with a ``quantization_config``. Under ``NAME.weight`` is one byte: who expects a weight there fails by its
    shape.

    A model of more than ``max_shard_size`` (bytes, or a text as "5GB") becomes ``model-00001-of-00003.safetensors``
    and so on with ``model.safetensors.index.json``, each layer whole in one of them. Files of an earlier model are
    replaced; at no moment is there a model of old and new parts.

    Raises ValueError if nothing of the model is compressed or max_shard_size is no size, OSError if writing fails.
    """
    most = byte_count(max_shard_size)
    items, made_of = contents(model)
    if not made_of:
        raise ValueError("model has no compressed layer: nothing that torch.save would not do")
    texts: dict[str, str] = {}
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        content = {**config.to_dict(), "quantization_config": {"quant_method": "bqq"}}
        texts["config.json"] = json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, items, made_of, most, texts)


def contents(model: nn.Module) -> tuple[dict[str, Any], MadeOf]:
    """What a file of the model holds, and of which kind each compressed layer is. Tied tensors are there once."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, _Compressed)}
    own = {f"{name}.{part}" for name in layers for part in _OWN}
    items: dict[str, Any] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for key, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if key in own or (tensor.numel() and place in seen):
            continue
        seen.add(place)
        items[key] = tensor.detach()
    items |= {name: layer.matrix for name, layer in layers.items()}
    stacks = [name for name, m in model.named_modules() if isinstance(m, Experts)]
    items |= {name: np.zeros(1, np.uint8) for name in [*(f"{name}.weight" for name in layers), *stacks]}
    return items, {name: {"kind": type(layer).__name__, "precision": layer.precision} for name, layer in layers.items()}


def load(model: nn.Module, directory: str | os.PathLike[str]) -> nn.Module:
    """Give a model of the same class, with any weights, what :func:`save` or ``bqq compress`` wrote: its layers are
    replaced by compressed ones, everything else is loaded, strictly. Returns the model.

    Planes stay in the file, which is mapped, until a product needs them. Nothing of the model is changed if names or
    shapes do not fit. Raises FormatError or ValueError for files that are none of these, KeyError never.
    """
    source = Source(paths(Path(directory)))
    if not source.layers:
        raise ValueError(f"{os.fspath(directory)}: was not written by bqq.nn.save or bqq compress")
    for name in source.fused:
        unfold_at(model, name)
    modules = dict(model.named_modules())
    missing = sorted(set(source.layers) - set(modules))
    if missing:
        raise ValueError(f"model has no module {missing[0]!r} ({len(missing)} of {len(source.layers)} are missing)")
    fresh = {name: source.layer(name, modules[name]) for name in source.layers}
    rest = {key: torch.as_tensor(_tensor(source.file(key)[key])) for key in source.others()}
    state = model.state_dict()
    expected = {key for key in state if key not in source.markers}
    tied = {key for key in expected - set(rest) if _twin(state, key, rest)}
    if set(rest) != expected - tied:
        odd = sorted(set(rest) ^ (expected - tied))
        raise ValueError(f"tensor {odd[0]!r} is in only one of model and file ({len(odd)} such)")
    for key, value in rest.items():
        if state[key].shape != value.shape:
            raise ValueError(f"tensor {key!r} has shape {tuple(value.shape)}, expected {tuple(state[key].shape)}")
    rest |= {key: rest[_twin(state, key, rest)] for key in tied}
    for name, layer in fresh.items():
        layer.train(modules[name].training)
        replace(model, name, layer)
    model.load_state_dict({**model.state_dict(), **rest}, strict=True, assign=True)
    return model


class Source:
    """Files of a compressed model, mapped."""

    def __init__(self, paths: list[Path]) -> None:
        self._files = opened(paths)
        self._places = {name: path for path, file in self._files.items() for name in file}
        self.layers: dict[str, dict[str, str]] = {}
        for file in self._files.values():
            self.layers |= json.loads(file.metadata.get(KEY, "{}"))
        self._mapped: dict[Path, tuple[dict[str, Any], Any]] = {}

    @property
    def markers(self) -> set[str]:
        """Where dense weights would be: of layers, and of fused experts."""
        return {f"{name}.weight" for name in self.layers} | self.fused

    @property
    def fused(self) -> set[str]:
        """Names of fused experts."""
        return {name.rpartition(".")[0] for name in self.layers} & set(self._places)

    def file(self, name: str) -> bqq.File:
        return self._files[self._places[name]]

    def others(self) -> Iterator[str]:
        """Names of ordinary tensors."""
        return (name for name in self._places if name not in self.layers and name not in self.markers)

    def layer(self, name: str, module: nn.Module, called: str = "") -> _Compressed:
        """The layer of that name, to take the place of ``module``, which is called ``called`` in its model."""
        how = self.layers[name]
        called = called or name
        if why := reason(module):
            raise ValueError(f"module {called!r} of the model: {why}, expected what became a compressed layer")
        if name not in self._places:
            raise ValueError(f"the file has no matrix {name!r}, which its metadata names")
        matrix = self.file(name)[name]
        layer = compressed(_on_cpu(module, matrix), matrix, how.get("precision", "float32"), self._planes(name))
        if how.get("kind") and type(layer).__name__ != how["kind"]:
            raise ValueError(f"module {called!r} is a {type(module).__name__}, the file has a {how['kind']}")
        expected = _sides(module)
        if expected != matrix.shape:
            raise ValueError(f"module {called!r} has a weight of {expected}, the file one of {matrix.shape}")
        _op.remember(layer._planes, layer.scales, layer.shape, matrix)
        return layer

    def _planes(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Y and Z in a mapping whose pages become private when they are written to."""
        path = self._places[name]
        if path not in self._mapped:
            tensors, begin = header(path)
            self._mapped[path] = tensors, np.memmap(path, np.uint8, "c", begin)
        tensors, data = self._mapped[path]
        y, z = (
            torch.from_numpy(data[slice(*entry["data_offsets"])].reshape(entry["shape"]))
            for entry in (tensors[f"{name}.bqq_y"], tensors[f"{name}.bqq_z"])
        )
        return y, z


def unfold_at(model: nn.Module, name: str) -> None:
    """The fused experts called `name` become a list of layers, if there are such and it is none yet."""
    parent, _, child = name.rpartition(".")
    try:
        module = model.get_submodule(parent)
    except AttributeError:
        return
    if child in fused(module):
        unfold(module, child)
        one_by_one(model)


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """The module called `name` becomes `layer`; fused paths of torch's encoders, which read dense weights, are off."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
    parts = name.split(".")
    for outer in (model.get_submodule(".".join(parts[:i])) for i in range(len(parts))):
        if isinstance(outer, nn.TransformerEncoderLayer):
            outer.activation_relu_or_gelu = 0
        elif isinstance(outer, nn.TransformerEncoder):
            outer.use_nested_tensor = False


def _sides(module: Any) -> tuple[int, int]:
    """Of the weight as a matrix."""
    m, *rest = module.weight.shape
    if type(module).__name__ == "Conv1D":
        return int(rest[0]), int(m)
    return int(m), int(np.prod(rest))


def _twin(state: dict[str, Any], key: str, there: dict[str, Any]) -> str:
    """A tensor of the file that is tied to the one called `key` in the model."""
    same = (k for k in there if k in state and state[k] is not None and _same(state[k], state[key]))
    return next(same, "")


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_meta or b.is_meta:
        return a is b
    return bool(a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.numel() > 0)


def _on_cpu(module: nn.Module, matrix: bqq.Matrix) -> nn.Module:
    """A module on the meta device gets a bias to be filled."""
    bias: Any = getattr(module, "bias", None)
    if bias is not None and bias.is_meta:
        module.bias = nn.Parameter(torch.zeros(matrix.shape[0], dtype=bias.dtype), requires_grad=bias.requires_grad)
    return module


def _tensor(value: Any) -> Any:
    if isinstance(value, bqq.RawTensor):
        kind = _DTYPES.get(value.dtype)
        if kind is None:
            raise ValueError(f"a tensor of dtype {value.dtype} is nothing that torch has here")
        return torch.frombuffer(bytearray(value.data.tobytes()), dtype=kind).reshape(value.shape)
    return value.copy()
