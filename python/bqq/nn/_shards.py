"""A model as a set of files that appears whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bqq

FILE, INDEX, KEY = "model.safetensors", "model.safetensors.index.json", "bqq_nn"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SHARD = "model-?????-of-?????.safetensors"

MadeOf = dict[str, dict[str, str]]  # name of a compressed layer -> kind and precision


def byte_count(size: int | str | None) -> int | None:
    """Of ``max_shard_size``: bytes, or a text as "5GB" or "200MiB"."""
    if size is None:
        return None
    count: float = 0
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", size.upper())
        count = float(found[1]) * _UNITS.get(found[2], 0) if found else 0
    elif isinstance(size, int) and not isinstance(size, bool):
        count = size
    if count < 1:
        raise ValueError(f"max_shard_size is {size!r}, expected None, a number of bytes or a text like '5GB'")
    return int(count)


def write(folder: Path, items: Mapping[str, Any], made_of: MadeOf, most: int | None, texts: Mapping[str, str]) -> None:
    """Writes ``items`` to one file or, above ``most`` bytes, to shards and their index; each of ``texts`` is a file.

    All is written under other names first. What makes a set readable (its one file, or the index) goes first and comes
    last: in between there is no model, never one of old and new parts.
    """
    groups = _groups(items, made_of, most)
    single = len(groups) == 1
    names = [FILE] if single else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    _remove(folder, f"{FILE[:-12]}*.part")
    try:
        index = _written(folder, dict(zip(names, groups, strict=True)), made_of)
        texts = dict(texts) if single else {**texts, INDEX: index}
        for name, text in texts.items():
            _part(folder, name).write_text(text, "utf-8")
    except BaseException:
        for name in [*names, *texts]:
            _part(folder, name).unlink(missing_ok=True)
        raise
    (folder / INDEX).unlink(missing_ok=True)
    if not single:
        (folder / FILE).unlink(missing_ok=True)
    _remove(folder, _SHARD)
    for name in [*names, *texts]:
        _part(folder, name).replace(folder / name)


def _written(folder: Path, files: dict[str, dict[str, Any]], made_of: MadeOf) -> str:
    """Writes shards; their index."""
    weight_map: dict[str, str] = {}
    for name, group in files.items():
        layers = json.dumps({k: made_of[k] for k in group if k in made_of}, separators=(",", ":"))
        bqq.save(_part(folder, name), group, metadata={"format": "pt", KEY: layers})
        weight_map |= dict.fromkeys(header(_part(folder, name))[0], name)
    total = sum(_bytes(item) for group in files.values() for item in group.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2)


def _remove(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by their names, and where their bytes begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors: dict[str, Any] = json.loads(file.read(size))
    tensors.pop("__metadata__", None)
    return tensors, 8 + size


def opened(files: list[Path]) -> dict[Path, bqq.File]:
    """Each of them. FormatError says how layers came apart, if they are."""
    try:
        return {path: bqq.open(path) for path in files}
    except bqq.FormatError as error:
        if len(files) > 1 and str(error).endswith("is missing"):
            why = "a layer is not whole in one file, as save_pretrained leaves it above its max_shard_size"
            raise bqq.FormatError(f"{error}: {why}; bqq.nn.save(model, folder, max_shard_size=...) does not") from None
        raise


def paths(folder: Path) -> list[Path]:
    """The files of a model."""
    index = folder / INDEX
    if not index.exists():
        return [folder / FILE]
    return [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]


def _part(folder: Path, name: str) -> Path:
    return folder / f"{name}.part"


def _groups(items: Mapping[str, Any], made_of: MadeOf, most: int | None) -> list[dict[str, Any]]:
    """In the order of the items; a layer and the byte in the place of its weight stay together, whatever their size."""
    markers = {f"{name}.weight": name for name in made_of}
    groups: list[dict[str, Any]] = [{}]
    filled = 0
    for name, item in items.items():
        if name in markers:
            continue
        unit = {name: item} | {marker: items[marker] for marker in [f"{name}.weight"] if marker in markers}
        size = sum(map(_bytes, unit.values()))
        if most is not None and groups[-1] and filled + size > most:
            groups.append({})
            filled = 0
        groups[-1] |= unit
        filled += size
    return groups


def _bytes(item: Any) -> int:
    return int(item.nbytes)
