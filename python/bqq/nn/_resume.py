"""Finished layers and blocks of one run, in a folder: each is a file of its own that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bqq

_KEY = "bqq_nn_part"


@dataclass
class Done:
    """A layer that has been searched for."""

    matrix: bqq.Matrix
    error: float
    note: str
    seconds: float


class Kept:
    """A folder that belongs to one run, or nothing where it is None. What is damaged there counts as not there."""

    def __init__(self, folder: Any, run: str) -> None:
        self._folder = None if folder is None else Path(folder)
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        mark = self._folder / "run.json"
        if mark.exists() and _run_of(mark) != run:
            raise ValueError(
                f"resume: {self._folder} is of another run (model, options, calibration or version differ)"
            )
        if not mark.exists():
            part = mark.with_suffix(".part")
            part.write_text(json.dumps({"run": run}), "utf-8")
            part.replace(mark)

    def layer(self, name: str) -> Done | None:
        found = self._read("layer", name)
        if found is None:
            return None
        items, about = found
        return Done(items[name], about["error"], about["note"], about["seconds"])

    def keep_layer(self, name: str, done: Done) -> None:
        self._write(
            "layer", name, {name: done.matrix}, {"error": done.error, "note": done.note, "seconds": done.seconds}
        )

    def block(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Matrices and parameters of a block that is done, and what keep_block was told about it."""
        return self._read("block", name)

    def keep_block(self, name: str, items: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self._write("block", name, items, about)

    def parameters(self, name: str) -> tuple[dict[str, Any], dict[str, float]] | None:
        """Those of a whole model, and what keep_parameters was told about them."""
        found = self._read("parameters", name)
        return None if found is None else (found[0], found[1]["about"])

    def keep_parameters(self, name: str, items: Mapping[str, Any], about: Mapping[str, float]) -> None:
        self._write("parameters", name, items, {"about": about})

    def _path(self, kind: str, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{kind}-{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.safetensors"

    def _read(self, kind: str, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        if self._folder is None or not self._path(kind, name).exists():
            return None
        try:
            items = bqq.load(self._path(kind, name))
            about: dict[str, Any] = json.loads(items.metadata[_KEY])
        except (ValueError, KeyError):  # FormatError is a ValueError
            return None
        return (dict(items), about) if about["name"] == name and about["check"] == _check(items) else None

    def _write(self, kind: str, name: str, items: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        text = json.dumps({**about, "name": name, "check": _check(items)})
        bqq.save(self._path(kind, name), dict(items), metadata={_KEY: text})


def _run_of(mark: Path) -> Any:
    try:
        return json.loads(mark.read_text("utf-8"))["run"]
    except (ValueError, KeyError, TypeError):
        return None


def _check(items: Mapping[str, Any]) -> int:
    """CRC-32 of what carries no checksum of its own."""
    value = 0
    for name in sorted(items):
        if not isinstance(items[name], bqq.Matrix):
            value = zlib.crc32(np.ascontiguousarray(items[name]).tobytes(), zlib.crc32(name.encode(), value))
    return value


def fingerprint(recipe: object, names: Iterable[str], model: torch.nn.Module, batches: Any) -> str:
    """Of all that a run depends on: two with the same one give the same bits, with the same threads of torch."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((bqq.__version__, recipe, list(names), type(model).__qualname__)).encode())
    for name, tensor in model.state_dict().items():
        _add(digest, name, tensor)
    for i, batch in enumerate(batches or ()):
        items = (
            batch.items()
            if hasattr(batch, "keys")
            else enumerate(batch)
            if isinstance(batch, (tuple, list))
            else [("", batch)]
        )
        for key, value in items:
            _add(digest, f"{i}.{key}", value)
    return digest.hexdigest()


def _add(digest: Any, name: str, value: Any) -> None:
    digest.update(name.encode())
    if isinstance(value, torch.Tensor):
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    else:
        digest.update(repr(value).encode())
