"""``bqq compress MODEL OUT --calibrate``: a model of transformers, compressed with inputs to calibrate on."""

from __future__ import annotations

import json
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bqq.nn._compress import compress
from bqq.nn._files import save
from bqq.nn._report import LayerReport, Report
from bqq.nn._shards import paths

_TOKENS, _WINDOW, _BATCH = 32768, 512, 16  # to calibrate on; of a window; images of a batch
_IMAGES = 512
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_COPIED = (".json", ".txt", ".model", ".jinja", ".md")  # beside the weights: tokenizers and their like
_KEPT_OUT = ("config.json", "model.safetensors.index.json")


def run(args: Any) -> Report:
    """The command, with what its parser found. Raises ValueError or OSError for what cannot be used."""
    if not args.input.is_dir() or not (args.input / "config.json").exists():
        raise ValueError(f"{args.input}: --calibrate needs the folder of a model that transformers can load")
    if args.output.exists() and not args.force:
        raise FileExistsError(f"{args.output} exists; --force replaces it")
    if not args.calibrate.exists():
        raise FileNotFoundError(f"{args.calibrate}: no such file or folder")
    batches = _images(args) if args.calibrate.is_dir() else _texts(args)
    work = args.output.parent / (args.output.name + ".part")
    model = _model(args.input)
    report = compress(
        model,
        args.bits,
        calibration=batches,
        include=args.only or _all_but_heads(model),
        exclude=args.skip or None,
        patch=args.patch,
        effort=None if args.effort == "default" else args.effort,
        correct=args.correct or False,
        seed=args.seed,
        threads=args.threads,
        resume=work / "kept",
        limit=args.limit,
        progress=_Lines(model, args.quiet),
    )
    out = work / "out"
    save(model, out)
    for path in sorted(args.input.iterdir()):
        if path.is_file() and path.suffix in _COPIED and path.name not in _KEPT_OUT:
            shutil.copyfile(path, out / path.name)
    (out / "bqq-report.json").write_text(report.to_json() + "\n", "utf-8")
    if args.output.exists():
        shutil.rmtree(work / "old", ignore_errors=True)
        args.output.rename(work / "old")
    out.rename(args.output)
    shutil.rmtree(work)
    print(f"{len(report.layers)} layers at {report.bits_per_weight:.3f} bits per weight")
    print(f"{args.output}: {sum(path.stat().st_size for path in paths(args.output)) / 1000:,.1f} KB")
    return report


class _Lines:
    """A line for each layer, with the time that is left."""

    def __init__(self, model: torch.nn.Module, quiet: bool) -> None:
        self._start, self._done, self._quiet = time.perf_counter(), 0, quiet
        self._sizes = {name: m.weight.numel() for name, m in model.named_modules() if _heavy(m)}

    def __call__(self, layer: LayerReport) -> None:
        self._done += self._sizes.get(layer.name, 0)
        spent = time.perf_counter() - self._start
        left = spent * (sum(self._sizes.values()) / max(self._done, 1) - 1)
        shape = f"{layer.shape[0]}x{layer.shape[1]}"
        print(
            f"{layer.name}  {shape}  {layer.bits_per_weight:.3f} bits  error {layer.error:.5f}  {layer.note}".rstrip()
        )
        sys.stdout.flush()
        if not self._quiet:
            print(f"{spent:.0f} s, {max(left, 0):.0f} s left at most", file=sys.stderr, flush=True)


def _heavy(module: Any) -> bool:
    return isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) or hasattr(module, "nf")


def _check_packages(**needed: str) -> None:
    """Name of each module -> what to install."""
    for module, package in needed.items():
        if find_spec(module) is None:
            raise ValueError(f"--calibrate needs {package} here: pip install {package}")


def _model(folder: Path) -> Any:
    import transformers

    config = json.loads((folder / "config.json").read_text("utf-8"))
    names = config.get("architectures") or []
    kind = getattr(transformers, names[0], None) if names else None
    kind = kind or transformers.AutoModel
    model = kind.from_pretrained(folder, dtype=torch.float32)  # nosec B615: a folder
    model.config.use_cache = False
    return model.eval()


def _all_but_heads(model: Any) -> list[str] | None:
    """The members of the longest list of blocks, if there is one: no head, no pooler."""
    lists = [(len(m), n) for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList)]
    return [f"{max(lists)[1]}.*"] if lists and max(lists)[0] > 1 else None


def _texts(args: Any) -> list[dict[str, torch.Tensor]]:
    """Windows of a text file, of one token sequence each."""
    _check_packages(transformers="transformers")
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.input)  # nosec B615: a folder
    config = AutoConfig.from_pretrained(args.input)  # nosec B615: a folder
    text = args.calibrate.read_text("utf-8", errors="replace")
    ids = torch.tensor(tokenizer(text, truncation=False, verbose=False)["input_ids"])
    width = min(_WINDOW, getattr(config, "max_position_embeddings", _WINDOW))
    windows = ids[: len(ids) // width * width].reshape(-1, width)
    if not len(windows):
        raise ValueError(f"{args.calibrate}: {len(ids)} tokens, expected {width} or more")
    wanted = max(1, _TOKENS // width)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(args.seed))[:wanted]
    return [{"input_ids": windows[i : i + 1]} for i in order.tolist()]


def _images(args: Any) -> list[dict[str, torch.Tensor]]:
    """Images of a folder and those below it, as the model's processor makes them; those of one size together."""
    _check_packages(transformers="transformers", PIL="pillow")
    from transformers import AutoImageProcessor

    paths = [p for p in sorted(args.calibrate.rglob("*")) if p.suffix.lower() in _SUFFIXES]
    if not paths:
        raise ValueError(f"{args.calibrate}: no images in this folder, expected {', '.join(_SUFFIXES)}")
    try:
        processor = AutoImageProcessor.from_pretrained(args.input)  # nosec B615: a folder
    except ImportError as error:  # processors of some models are torchvision's
        raise ValueError(f"{args.input}: {error}") from None
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(args.seed))[:_IMAGES]
    sizes: dict[torch.Size, list[torch.Tensor]] = {}
    for i in order.tolist():
        pixels = processor(images=_opened(paths[i]), return_tensors="pt")["pixel_values"]
        sizes.setdefault(pixels.shape[1:], []).append(pixels)
    groups = (same[i : i + _BATCH] for same in sizes.values() for i in range(0, len(same), _BATCH))
    return [{"pixel_values": torch.cat(group)} for group in groups]


def _opened(path: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        raise ValueError(f"{path}: {error}") from None
