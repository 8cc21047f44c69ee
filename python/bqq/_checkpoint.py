"""Checkpoints: folders of safetensors shards, compressed tensor by tensor without a model class.

The work happens in a folder beside the output, ``OUT.part``: each finished tensor is a file of its own there, finished
shards lie in its folder ``out``, which becomes the output by a rename. A run that was ended goes on from what it finds.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bqq import _arrays, _core
from bqq._api import decompose
from bqq._console import Bar, InputError, Table, blame, by, count, kilobytes, printable, reading, say
from bqq._files import File, open, save
from bqq._matrix import Matrix
from bqq._plan import plan

_INDEX, _CONFIG, _REPORT = "model.safetensors.index.json", "config.json", "bqq-report.json"
_MARKER = "bqq_nn"  # metadata: the layers of torch that the matrices of a file are
_KEPT = ("*embed*", "wte.*", "*.wte.*", "wpe.*", "*.wpe.*", "lm_head.*", "*.lm_head.*", "score.*", "classifier.*")
_TRANSPOSED = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}  # models with layers of class Conv1D ...
_CONV1D = ("*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight", "*.q_attn.weight")  # ... and their names there
_OTHERS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json", ".part")
_SMALL = 32  # a side below which planes and scales are no smaller than what they stand for


@dataclass(frozen=True)
class Options:
    """What the bits depend on."""

    bits: float
    l: int | None
    patch: int | None
    schedule: str
    effort: str
    steps: int | None
    refine: bool | int | None
    seed: int
    scales: str

    def decompose(self, W: npt.NDArray[np.float32], threads: int | None, progress: Any) -> Matrix:
        how: dict[str, Any] = {"effort": self.effort, "steps": self.steps, "refine": self.refine}
        how |= {"seed": self.seed, "threads": threads, "progress": progress}
        if self.bits == int(self.bits):
            return decompose(W, int(self.bits), self.l, patch=self.patch, schedule=self.schedule, **how)  # type: ignore[arg-type]
        chosen = plan(W, self.bits, patch=self.patch, seed=self.seed, threads=threads)
        return decompose(W, **chosen._asdict(), **how)


@dataclass
class Tensor:
    """A tensor to compress: one matrix, or as many as its first of three sides counts."""

    name: str
    shape: tuple[int, ...]
    transposed: bool
    scale: str | None  # the tensor that holds the factors of an 8-bit one

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def layer(self) -> str:
        """The module that the tensor is the weight of; for a stack of experts, the tensor itself."""
        return self.name.removesuffix(".weight")


@dataclass
class Row:
    """What became of a tensor."""

    name: str
    shape: tuple[int, ...]
    bits_per_weight: float
    error: float  # |W - W_hat| / |W|
    bytes: int
    seconds: float


@dataclass
class Shard:
    path: Path
    tensors: list[Tensor]
    skipped: dict[str, str] = field(default_factory=dict)


def run(source: Path, target: Path, options: Options, *, args: Any) -> None:
    """Compress ``source`` (a folder, one of its shards or its index) to the folder ``target``."""
    start = time.perf_counter()
    shards = _shards(source, args.only, args.skip, args.min_size)
    if not any(shard.tensors for shard in shards):
        raise InputError(f"{source}: nothing to compress, no matrix of a layer is selected")
    if target.exists() and not args.force:
        raise InputError(f"{target} exists; --force replaces it")
    work = target.parent / (target.name + ".part")
    with _held(work, _stamp(options, shards), args.force):
        (work / "out").mkdir(exist_ok=True)
        rows = _Work(work, options, args).run(shards)
        _finish(source if source.is_dir() else None, work / "out", shards, rows, options)
        _replace(work / "out", target)
    shutil.rmtree(work)
    _summary(target, shards, rows, time.perf_counter() - start)


# --- what there is ---


def _shards(source: Path, only: list[str], skip: list[str], least: int) -> list[Shard]:
    folder, files = _files(source)
    config = _read_json(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    transposed = _CONV1D if config.get("model_type") in _TRANSPOSED else ()
    shards, seen = [], dict[str, Path]()
    for path in files:
        shard = Shard(path, [])
        with reading(path), open(path) as file:
            layouts = {name: (dtype, shape) for name, (dtype, shape, _) in file._tensors.items()}
            shard.skipped = dict.fromkeys(file.sizes.keys() - layouts.keys(), "a bqq matrix already")
        for name in sorted(layouts):
            if name in seen:
                raise InputError(f"{path}: tensor {name!r} is in {seen[name].name} as well")
            seen[name] = path
            dtype, shape = layouts[name]
            why = _reason(name, dtype, shape, least) or _unselected(name, only, skip)
            if why:
                shard.skipped[name] = why
                continue
            scale = next((name + end for end in _arrays.FACTORS if name + end in layouts), None)
            turned = len(shape) == 2 and any(fnmatchcase(name, glob) for glob in transposed)
            shard.tensors.append(Tensor(name, tuple(shape), turned, scale))
        shards.append(shard)
    for glob in only:
        if not any(fnmatchcase(name, glob) for name in seen):
            raise InputError(f"{source}: no tensor matches --only {glob!r}")
    return shards


def _files(source: Path) -> tuple[Path, list[Path]]:
    """The folder and its shards, each of which is there."""
    index = source / _INDEX if source.is_dir() else source
    if index.name.endswith(".index.json") and index.exists():
        places = _read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise InputError(f"{index}: no weight_map that names shards")
        names = sorted(set(map(str, places.values())))
        if any(Path(name).name != name for name in names):
            raise InputError(f"{index}: weight_map names files of other folders")
        files = [index.parent / name for name in names]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise InputError(f"{index}: {count(len(missing), 'shard')} missing: {missing[0]}")
        return index.parent, files
    if not source.is_dir():
        return source.parent, [source]
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise InputError(f"{source}: no .safetensors file in this folder")
    return source, files


def _reason(name: str, dtype: str, shape: tuple[int, ...], least: int) -> str:
    """Why a tensor cannot be compressed."""
    if dtype not in ("F64", "F32", "F16", "BF16", *_arrays.FLOAT8):
        return f"of type {dtype}"
    if len(shape) == 3 and "expert" in name:
        pass  # experts of a layer as one tensor
    elif len(shape) != 2 or not name.endswith(".weight"):
        return f"{by(shape)}, no weight of a linear layer"
    if min(shape[-2:]) < _SMALL:
        return f"{by(shape)} is too small to gain"
    return "smaller than --min-size" if math.prod(shape) < least else ""


def _unselected(name: str, only: list[str], skip: list[str]) -> str:
    if any(fnmatchcase(name, glob) for glob in skip):
        return "skipped"
    if only:
        return "" if any(fnmatchcase(name, glob) for glob in only) else "not among --only"
    return "an embedding or a head: name it with --only" if any(fnmatchcase(name, glob) for glob in _KEPT) else ""


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path):
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        return content


# --- the folder of work ---


def _stamp(options: Options, shards: list[Shard]) -> str:
    sizes = [(shard.path.name, shard.path.stat().st_size, shard.tensors) for shard in shards]
    return hashlib.blake2b(repr((_core.__version__, options, sizes)).encode(), digest_size=16).hexdigest()


@contextmanager
def _held(work: Path, stamp: str, force: bool) -> Iterator[None]:
    """The folder, as long as the work goes on: of this run alone, and of one process at a time."""
    mark = work / "run"
    if work.exists() and not (work.is_dir() and mark.exists()) and any(work.iterdir() if work.is_dir() else [work]):
        raise InputError(f"{work} is in the way")
    work.mkdir(exist_ok=True)
    with mark.open("a+", encoding="utf-8") as file:
        _lock(file, work)
        file.seek(0)
        found = file.read()
        if found and found != stamp:
            if not force:
                raise InputError(f"{work} is of a run with other options or another source; --force starts anew")
            for path in work.iterdir():
                if path != mark:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if found != stamp:
            file.truncate(0)
            file.write(stamp)
            file.flush()
        yield


def _lock(file: Any, work: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no POSIX
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"{work} is in use by another process") from None


class _Work:
    """Tensors, then shards, in the folder of work."""

    def __init__(self, work: Path, options: Options, args: Any) -> None:
        self._work, self._options, self._args = work, options, args

    def run(self, shards: list[Shard]) -> list[Row]:
        every = [tensor for shard in shards for tensor in shard.tensors]
        table = Table(
            [
                ("name", "<", max(len(printable(tensor.name)) for tensor in every)),
                ("shape", ">", max(len(by(tensor.shape)) for tensor in every)),
                ("bits/weight", ">", 0),
                ("KB", ">", 10),
                ("error %", ">", 7),
            ]
        )
        done = {shard.path.name: self._shard_done(shard) for shard in shards}
        rows: list[Row] = []
        left = sum(t.weights for s in shards for t in s.tensors if done[s.path.name] is None)
        with Bar(left, self._args.quiet) as bar:
            for shard in shards:
                finished = done[shard.path.name]
                if finished is None:
                    finished = self._shard(shard, bar, table)
                else:
                    for row in finished:
                        _print(table, row)
                rows += finished
        return rows

    def _shard_done(self, shard: Shard) -> list[Row] | None:
        """The rows of a shard that an earlier run has written, if the file is as it was."""
        note, path = self._work / (shard.path.name + ".json"), self._work / "out" / shard.path.name
        try:
            about = json.loads(note.read_text("utf-8"))
            if about["digest"] != _digest(path):
                return None
            return [Row(**{**row, "shape": tuple(row["shape"])}) for row in about["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _shard(self, shard: Shard, bar: Bar, table: Table) -> list[Row]:
        rows, items = [], dict[str, Any]()
        with reading(shard.path), open(shard.path) as file:
            for tensor in shard.tensors:
                part = bar.part(tensor.name, tensor.weights)
                row, matrices = self._tensor(file, tensor, shard.path, part)
                part.finish()
                _print(table, row)
                rows.append(row)
                items |= matrices
                markers = [tensor.name, *(f"{name}.weight" for name in matrices)]
                items |= {name: np.zeros(1, np.uint8) for name in markers}  # no shape that a reader of weights expects
            gone = {tensor.scale for tensor in shard.tensors} | {tensor.name for tensor in shard.tensors}
            items |= {name: file[name] for name in file if name not in gone}
            layers = {
                name: {"kind": "Conv1D" if tensor.transposed else ""}
                for tensor in shard.tensors
                for name in _names(tensor)
            }
            metadata = {k: v for k, v in file.metadata.items() if k != "format"}
            metadata |= {"format": "pt", _MARKER: json.dumps(layers, separators=(",", ":"))}
            path = self._work / "out" / shard.path.name
            with blame(path):
                save(path, items, metadata=metadata, scales=self._options.scales)  # type: ignore[arg-type]
        _write(self._work / (path.name + ".json"), {"digest": _digest(path), "rows": [asdict(row) for row in rows]})
        for tensor in shard.tensors:
            self._path(tensor).unlink(missing_ok=True)
        return rows

    def _path(self, tensor: Tensor) -> Path:
        return self._work / f"tensor-{hashlib.blake2b(tensor.name.encode(), digest_size=12).hexdigest()}.safetensors"

    def _tensor(self, file: File, tensor: Tensor, source: Path, progress: Any) -> tuple[Row, dict[str, Matrix]]:
        """A tensor's matrices, mapped from the file that keeps them."""
        raw = file[tensor.name]
        digest = hashlib.blake2b(digest_size=16)
        for value in (raw, *([file[tensor.scale]] if tensor.scale else [])):
            digest.update(_arrays.to_bytes(tensor.name, value)[2].data)
        path, mark = self._path(tensor), digest.hexdigest()
        if found := _read_part(path, mark):
            return found
        start = time.perf_counter()
        matrices, wrong, power = dict[str, Matrix](), 0.0, 0.0
        names = _names(tensor)
        for i, name in enumerate(names):
            with blame(f"{source}, tensor {tensor.name!r}"):
                W = _values(file, tensor, raw, i)
                q = self._options.decompose(W, self._args.threads, _Part(progress, i, len(names)))
            energy = float(np.square(W, dtype=np.float64).sum())
            wrong, power = wrong + q.error(W) ** 2 * energy, power + energy
            matrices[name] = q
        size = sum(q.nbytes for q in matrices.values())
        error = math.sqrt(wrong / power) if power else 0.0
        if not error**2 <= self._args.limit:
            raise InputError(
                f"{source}, tensor {tensor.name!r}: relative error {error**2:.3g}, --limit is {self._args.limit:g}"
            )
        bits, seconds = 8 * size / tensor.weights, time.perf_counter() - start
        row = Row(tensor.name, tensor.shape, bits, error, size, seconds)
        save(path, matrices, metadata={"part": json.dumps({"mark": mark, "row": asdict(row)})})
        found = _read_part(path, mark)
        assert found is not None
        return found


def _read_part(path: Path, mark: str) -> tuple[Row, dict[str, Matrix]] | None:
    """None for what is not there, of another tensor, or damaged."""
    try:
        file = open(path)
        about = json.loads(file.metadata["part"])
        if about["mark"] != mark:
            return None
        matrices = {name: file[name] for name in file}
        for q in matrices.values():
            q.scales  # noqa: B018 - reading checks the checksum
        return Row(**{**about["row"], "shape": tuple(about["row"]["shape"])}), matrices
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Part:
    """Progress of one of several matrices of a tensor."""

    def __init__(self, part: Any, i: int, number: int) -> None:
        self._part, self._i, self._number = part, i, number

    def __call__(self, done: int, total: int) -> None:
        self._part(self._i * total + done, self._number * total)


def _names(tensor: Tensor) -> list[str]:
    if len(tensor.shape) == 2:
        return [tensor.layer]
    return [f"{tensor.name}.{i}" for i in range(tensor.shape[0])]


def _values(file: File, tensor: Tensor, raw: Any, i: int) -> npt.NDArray[np.float32]:
    """Matrix i of a tensor as float32, multiplied by its factors if it has some."""
    if len(tensor.shape) == 3:
        if isinstance(raw, _arrays.RawTensor):
            size = raw.data.size // tensor.shape[0]
            raw = _arrays.RawTensor(raw.dtype, raw.shape[1:], raw.data[i * size : (i + 1) * size])
        else:
            raw = raw[i]
    W: npt.NDArray[np.float32] = np.asarray(raw, np.float32)
    if tensor.scale:
        factors = np.asarray(file[tensor.scale], np.float32)
        factors = factors[i] if len(tensor.shape) == 3 and factors.ndim == 3 else factors
        W = W * _spread(factors, W.shape, tensor.scale)
    return _arrays.as_float32_matrix("W", W.T if tensor.transposed else W)


def _spread(factors: npt.NDArray[np.float32], shape: tuple[int, ...], name: str) -> npt.NDArray[np.float32]:
    """Factors of a matrix: one, one a row, or one a block of equal sides (the last ones shorter)."""
    if factors.size == 1:
        return factors.reshape(1, 1)
    if factors.shape in ((shape[0],), (shape[0], 1)):
        return factors.reshape(-1, 1)
    if factors.ndim == 2 and all(1 < k <= s for k, s in zip(factors.shape, shape, strict=True)):
        for side in (128, *(1 << e for e in range(3, 13))):
            if factors.shape == tuple(-(-s // side) for s in shape):
                rows, cols = (np.arange(s) // side for s in shape)
                return factors[np.ix_(rows, cols)]
    raise ValueError(f"{name} has shape {by(factors.shape)}, which are no factors of a {by(shape)} matrix")


# --- the end ---


def _finish(folder: Path | None, out: Path, shards: list[Shard], rows: list[Row], options: Options) -> None:
    """Everything of the output that is no shard."""
    for path in sorted(folder.iterdir()) if folder else ():
        if path.is_file() and not path.name.endswith(_OTHERS) and path.name != _CONFIG:
            shutil.copyfile(path, out / path.name)
    if folder and (folder / _CONFIG).exists():
        config = _read_json(folder / _CONFIG)
        config["quantization_config"] = {"quant_method": "bqq"}
        _write(out / _CONFIG, config)
    if len(shards) > 1:
        places, size = dict[str, str](), 0
        for shard in shards:
            header = _header(out / shard.path.name)
            places |= dict.fromkeys(header, shard.path.name)
            size += sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
        _write(out / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})
    weights = sum(math.prod(row.shape) for row in rows)
    report = {
        "options": asdict(options),
        "bits_per_weight": 8 * sum(row.bytes for row in rows) / weights,
        "weights": weights,
        "tensors": [asdict(row) for row in rows],
        "not_compressed": {name: why for shard in shards for name, why in sorted(shard.skipped.items())},
    }
    _write(out / _REPORT, report)


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header


def _replace(out: Path, target: Path) -> None:
    """The output appears by one rename; what --force replaces goes into the folder of work first."""
    if target.exists():
        old = out.parent / "old"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    out.rename(target)


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, path)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _print(table: Table, row: Row) -> None:
    size, bits = f"{row.bytes / 1000:,.1f}", f"{row.bits_per_weight:.3f}"
    table.row([printable(row.name), by(row.shape), bits, size, f"{100 * row.error:.2f}"])


def _summary(target: Path, shards: list[Shard], rows: list[Row], seconds: float) -> None:
    weights, size = sum(math.prod(row.shape) for row in rows), sum(row.bytes for row in rows)
    say()
    for why in sorted({why for shard in shards for why in shard.skipped.values()}):
        names = [name for shard in shards for name, reason in shard.skipped.items() if reason == why]
        say(f"not compressed, {why}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    say(f"{count(len(rows), 'tensor')} at {8 * size / weights:.3f} bits per weight, {seconds:.1f} s")
    old, new = (
        sum(path.stat().st_size for path in files) for files in ([s.path for s in shards], target.glob("*.safetensors"))
    )
    say(f"{target}: {kilobytes(new)}, {old / new:.2f}x smaller; details in {_REPORT}")
