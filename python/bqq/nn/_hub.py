"""from_pretrained and save_pretrained of transformers, through its hooks for quantizers.

The hooks are registered when transformers' own table of them is imported, so that bqq.nn alone imports none of it.
Without ``import bqq.nn``, ``from_pretrained`` fails: where it expects a weight, the file has one byte.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bqq
from bqq.nn._files import Source, contents, replace, unfold_at
from bqq.nn._modules import reason
from bqq.nn._shards import KEY, paths

_TABLE = "transformers.quantizers.auto"
_PACKED = ("bqq_y", "bqq_z", "bqq_scales", "bqq_row_order", "bqq_col_order", "bqq_positions", "bqq_values")


class _Pending(nn.Module):
    """Stands where a compressed layer will be while transformers loads all the rest."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1, dtype=torch.uint8, device="meta"))
        bias = getattr(module, "bias", None)
        self.register_parameter("bias", bias)
        self.dense, self.name = [module], name  # in a list: no submodule


def register() -> None:
    """Now, or when transformers is imported."""
    if _TABLE in sys.modules:
        _register(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Another loader's module, and then ours is entered into it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._loader.exec_module(module)
        _register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def mark(model: nn.Module) -> None:
    """A model of transformers will be saved as a compressed one."""
    if "transformers" not in sys.modules or not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        return
    table: Any = importlib.import_module(_TABLE)
    config = table.AUTO_QUANTIZATION_CONFIG_MAPPING["bqq"]()
    model.hf_quantizer = table.AUTO_QUANTIZER_MAPPING["bqq"](config, pre_quantized=True)
    model.config.quantization_config = config


def _register(table: Any) -> None:
    if "bqq" in table.AUTO_QUANTIZER_MAPPING:
        return
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    @table.register_quantization_config("bqq")
    class BqqConfig(QuantizationConfigMixin):
        def __init__(self, **_: Any) -> None:
            self.quant_method = "bqq"

        def to_dict(self) -> dict[str, Any]:
            return {"quant_method": "bqq"}

    @table.register_quantizer("bqq")
    class BqqQuantizer(HfQuantizer):
        """Compressed layers in the place of those of the model; memory for their dense weights is never taken."""

        requires_calibration = True  # bqq.nn.compress does that

        def _process_model_before_weight_loading(self, model: Any, checkpoint_files: Any = None, **_: Any) -> None:
            self._source = Source([Path(f) for f in checkpoint_files or _checkpoint_files(model)])
            if not self._source.layers:
                raise ValueError(f"{model.config._name_or_path}: config.json says bqq, but the files have no bqq layer")
            prefix = getattr(model, "base_model_prefix", "") + "."
            for name in self._source.fused:
                for called in (name, prefix + name, name.removeprefix(prefix)):
                    unfold_at(model, called)
            names = _names(model, list(self._source.layers))
            for called, name in names.items():
                module = model.get_submodule(called)
                if why := reason(module):
                    raise ValueError(f"module {called!r} of the model: {why}, expected what became a compressed layer")
                replace(model, called, _Pending(module, name))
            ignored = model._keys_to_ignore_on_load_unexpected  # a set since transformers 5, a list or None before
            packed = [rf"\.{part}$" for part in _PACKED] + [re.escape(name) + "$" for name in self._source.fused]
            model._keys_to_ignore_on_load_unexpected = (list if ignored is None else type(ignored))(
                [*(ignored or []), *packed]
            )

        def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
            for called, pending in list(model.named_modules()):
                if isinstance(pending, _Pending):
                    module: Any = pending.dense[0]
                    if pending.bias is not None:
                        module.bias = nn.Parameter(pending.bias.detach(), requires_grad=False)
                    layer = self._source.layer(pending.name, module, called)
                    layer.train(model.training)
                    replace(model, called, layer)
            del self._source  # the layers have what they need; the model can be copied
            return model

        def is_serializable(self, safe_serialization: Any = None) -> bool:
            if safe_serialization is False:
                raise ValueError("a compressed model is saved as safetensors, expected safe_serialization=True")
            return True

        @property
        def is_trainable(self) -> bool:
            return False

        def get_state_dict_and_metadata(self, model: Any, safe_serialization: Any = None) -> Any:
            items, made_of = contents(model)
            model._weight_conversions = []  # transformers 5 would split and rename packed tensors as if they were dense
            return _unpacked(items, made_of)

    for made in (BqqConfig, BqqQuantizer):  # as if of the module, for pickles
        made.__qualname__ = made.__name__
        globals()[made.__name__] = made


def _checkpoint_files(model: Any) -> list[Path]:
    """What from_pretrained will read, where transformers (4) does not say."""
    folder = Path(model.config._name_or_path)
    if not folder.is_dir():
        from transformers.utils import cached_file

        found = cached_file(str(folder), "model.safetensors")
        assert found is not None
        return [Path(found)]
    return paths(folder)


def _names(model: Any, layers: list[str]) -> dict[str, str]:
    """Name of a module of the model -> of the layer in the file. A model with a head and its base model, which each
    may have been saved and each be asked for, differ by a prefix."""
    modules = dict(model.named_modules())
    prefix = getattr(model, "base_model_prefix", "") + "."
    found, lost = {}, []
    for name in layers:
        called = next((c for c in (name, prefix + name, name.removeprefix(prefix)) if c in modules), None)
        if called is None:
            lost.append(name)
        else:
            found[called] = name
    if lost and (not found or not all(_of_a_head(name, prefix) for name in lost)):
        raise ValueError(f"model has no module {lost[0]!r} ({len(lost)} of {len(layers)} compressed ones are missing)")
    return found


def _of_a_head(name: str, prefix: str) -> bool:
    return not name.startswith(prefix)


def _unpacked(items: dict[str, Any], made_of: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata as the container has them (cpp/FORMAT.md), written and read back by the library."""
    import tempfile

    layers = {name: items[name] for name in made_of}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.safetensors"
        bqq.save(path, layers)
        data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata: dict[str, str] = header.pop("__metadata__")
    state = {name: torch.as_tensor(t) for name, t in items.items() if not isinstance(t, bqq.Matrix)}
    kinds = {"U8": np.uint8, "F32": np.float32, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
    body = np.frombuffer(data, np.uint8, offset=8 + size)
    for name, entry in header.items():
        a, b = entry["data_offsets"]
        state[name] = torch.from_numpy(body[a:b].copy().view(kinds[entry["dtype"]]).reshape(entry["shape"]))
    return state, {**metadata, KEY: json.dumps(made_of, separators=(",", ":"))}
