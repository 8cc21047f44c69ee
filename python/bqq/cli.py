"""The ``bqq`` command."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

import bqq
from bqq import _arrays, _checkpoint, _core
from bqq._console import (
    Bar,
    InputError,
    Table,
    blame,
    by,
    count,
    is_real_matrix,
    kilobytes,
    prepare_streams,
    printable,
    read_container,
    read_npy,
    reading,
    say,
    silence,
    unsaid,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 2 unusable input, 1 other failures, 130 Ctrl-C."""
    prepare_streams()
    try:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
        run: Callable[[argparse.Namespace], None] = args.run
        run(args)
        sys.stdout.flush()
        return _fail(f"what should stand on the standard output: {unsaid[0]}", 1) if unsaid else 0
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        print("bqq: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        silence()
        return 0
    except OSError as error:
        return _fail(error, 1)
    except MemoryError:
        return _fail("out of memory", 1)


def _check_isa() -> None:
    """A wrong BQQ_ISA is found before the work of a command that searches."""
    try:
        _core.isa()
    except RuntimeError as error:
        raise InputError(str(error)) from None


def _fail(error: object, code: int) -> int:
    print("bqq: error:", printable(" ".join(str(error).split())), file=sys.stderr)
    return code


# --- arguments ---


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _parser()
    try:
        return parser.parse_args(argv)
    except InputError:
        if argv[:1] != ["compress"] or any(word.startswith("-") for word in argv[-2:]):
            raise
        try:  # an option that takes any number of globs has swallowed IN and OUT, which came last
            return parser.parse_args([*argv[:-2], "--", *argv[-2:]])
        except InputError:
            pass
        raise


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    expected = f"{low} to {high}" if high is not None else f"{low} or more"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r}, expected an integer, {expected}")
        return value

    return parse


def _bits(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.5 <= value <= 64:
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer, 1 to 64, or of a model a number from 0.5")
    return value


def _integers(low: int, high: int) -> Callable[[str], list[int]]:
    one = _integer(low, high)
    return lambda text: sorted({one(part) for part in text.split(",")})


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bqq", description="Real matrices at 1-4 bits per element.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"bqq {bqq.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_compress(commands)
    _add_info(commands)
    config = commands.add_parser("config", help="version, compiler, instruction set, threads")
    config.set_defaults(run=_config)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="compress a photo or your own matrix, print a table, draw a picture",
        description="Compresses one matrix at several sizes beside uniform quantisation; writes "
        "bqq-demo.png and bqq-demo.safetensors. An image is cut into blocks of at most 128 x 128, unless --patch says "
        "otherwise. --effort is fast here; default takes about ten times as long.",
        allow_abbrev=False,
    )
    demo.add_argument(
        "input",
        metavar="INPUT",
        nargs="?",
        help="image, .npy or .safetensors (FILE:NAME picks a tensor); "
        "default: the red channel of a photo that comes with matplotlib",
    )
    demo.add_argument("--bits", type=_integers(1, 8), default=[1, 2, 3, 4], help="default 1,2,3,4")
    demo.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    _add_solver(demo)
    demo.set_defaults(run=_demo, effort="fast")


def _add_compress(commands: Any) -> None:
    compress = commands.add_parser(
        "compress",
        help="compress a .npy matrix, the matrices of a .safetensors file, or a model",
        description="Compresses one .npy matrix, or every 2-D floating-point tensor of a "
        ".safetensors file; other tensors and the metadata pass through untouched. Where OUT is a folder: the weights "
        "of the linear layers of a model (a folder of .safetensors files, or one of them) one at a time; the output "
        "appears when all is done, and the same command after a crash goes on from OUT.part.",
        allow_abbrev=False,
    )
    compress.add_argument("input", metavar="IN", type=Path)
    compress.add_argument("output", metavar="OUT", type=Path, help="a .safetensors file or, of a model, a folder")
    compress.add_argument(
        "--bits", type=_bits, required=True, metavar="P", help="number of stacks; of a model also such as 2.5"
    )
    compress.add_argument("--l", type=_integer(1, 65535), help="inner dimension; default: P bits per element")
    compress.add_argument("--schedule", choices=["adaptive", "paper"], default="adaptive")
    for name, what in (("--only", "compress only"), ("--skip", "do not compress")):
        compress.add_argument(
            name,
            nargs="+",
            action="extend",
            default=[],
            metavar="GLOB",
            help=f"{what} tensors whose name matches, such as '*.weight'",
        )
    compress.add_argument(
        "--min-size",
        type=_integer(0),
        default=0,
        metavar="N",
        help="leave tensors of fewer elements as they are",
    )
    compress.add_argument("--scales", choices=["float32", "float16"], default="float32")
    compress.add_argument("--force", action="store_true", help="replace OUT if it exists")
    compress.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="of a model that transformers can load: a text file, or a folder of images, whose inputs to each layer "
        "say which errors matter; needs the extra nn and transformers",
    )
    compress.add_argument(
        "--correct",
        type=_integer(1),
        nargs="?",
        const=15,
        metavar="EPOCHS",
        help="with --calibrate: in the end, train scales, norms and biases on the outputs of the model as it was "
        "(without a number: %(const)s epochs)",
    )
    compress.add_argument(
        "--limit",
        type=float,
        default=0.9,
        metavar="X",
        help="of a model: a relative squared error above which a layer ends the run (default %(default)s)",
    )
    _add_solver(compress)
    compress.set_defaults(run=_compress)


def _add_solver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--patch", type=_integer(1), metavar="N", help="largest side of a block")
    parser.add_argument("--effort", choices=["fast", "default", "best"], default="default", help="how long to search")
    parser.add_argument(
        "--steps", type=_integer(1), metavar="N", help="descent steps per stack, instead of the effort's"
    )
    parser.add_argument(
        "--refine", type=_integer(0), metavar="N", help="refinement sweeps per stack, instead of the effort's; 0: none"
    )
    parser.add_argument("--seed", type=_integer(0, 2**64 - 1), default=0, metavar="N")
    parser.add_argument("--threads", type=_integer(1), metavar="N", help="default: all cores")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_info(commands: Any) -> None:
    info = commands.add_parser("info", help="what a .safetensors file holds", allow_abbrev=False)
    info.add_argument("file", metavar="FILE", type=Path)
    info.set_defaults(run=_info)


def _refine(sweeps: int | None) -> bool | int | None:
    return False if sweeps == 0 else sweeps


# --- demo, config ---


def _demo(args: argparse.Namespace) -> None:
    from bqq import _demo

    _check_isa()
    _demo.run(
        args.input,
        bits=args.bits,
        out=args.out,
        patch=args.patch,
        effort=args.effort,
        steps=args.steps,
        refine=_refine(args.refine),
        seed=args.seed,
        threads=args.threads,
        quiet=args.quiet,
    )


def _config(args: argparse.Namespace) -> None:
    bqq.show_config()


# --- info ---


def _info(args: argparse.Namespace) -> None:
    path: Path = args.file
    with reading(path), bqq.open(path) as file:
        tensors, stored, metadata = dict(file), file.sizes, file.metadata
    matrices = {k: v for k, v in tensors.items() if isinstance(v, bqq.Matrix)}
    others = {k: v for k, v in tensors.items() if k not in matrices}
    say(f"{path}: {path.stat().st_size:,} bytes")
    say()
    if tensors:
        _print_tensors(tensors, stored)
        say()
    _print_totals(matrices, others, stored)
    for key, value in metadata.items():
        say(f"metadata {key}: {value if len(value) <= 100 else value[:97] + '...'}")


def _print_tensors(tensors: dict[str, Any], stored: dict[str, int]) -> None:
    besides = {name: ", ".join(value._extras) for name, value in tensors.items() if isinstance(value, bqq.Matrix)}
    table = Table(
        [
            ("name", "<", max(len(printable(name)) for name in tensors)),
            ("type", "<", max(len(_type(v)) for v in tensors.values())),
            ("shape", ">", max(len(by(v.shape)) for v in tensors.values())),
            ("bytes", ">", max(len(f"{size:,}") for size in stored.values())),
            ("p", ">", 2),
            ("l", ">", 4),
            ("patch", ">", 9),
            ("bits/weight", ">", 11),
            *([("besides", "<", 0)] if any(besides.values()) else []),
        ]
    )
    for name, value in sorted(tensors.items()):
        cells = [printable(name), _type(value), by(value.shape), f"{stored[name]:,}"]
        if isinstance(value, bqq.Matrix):
            bits = 8 * stored[name] / math.prod(value.shape)
            cells += [str(value.p), str(value.l), by(value.patch), f"{bits:.3f}"]
        else:
            cells += [""] * 4
        if any(besides.values()):
            cells.append(besides.get(name, ""))
        table.row(cells)


def _print_totals(matrices: dict[str, bqq.Matrix], others: dict[str, Any], stored: dict[str, int]) -> None:
    rest = sum(stored[name] for name in others)
    if matrices:
        size = sum(stored[name] for name in matrices)
        weights = sum(math.prod(q.shape) for q in matrices.values())
        say(
            f"{count(len(matrices), 'matrix', 'matrices')}, checksums match: {size:,} bytes, "
            f"{8 * size / weights:.3f} bits per weight, "
            f"{4 * weights / size:.2f}x smaller than float32"
        )
    if others or not matrices:
        say(f"{count(len(others), 'other tensor')}: {rest:,} bytes")


def _type(value: Any) -> str:
    if isinstance(value, bqq.Matrix):
        return "bqq"
    if isinstance(value, bqq.RawTensor):
        return value.dtype.lower()
    return str(value.dtype)


# --- compress ---


_MOST = 1e38  # of values: scales beyond would not fit float32
_MOST_FLOAT16 = 65504.0


@dataclass(frozen=True)
class _Job:
    """One matrix to compress, and how much of the whole work it is."""

    name: str
    source: str
    W: npt.NDArray[np.float32]
    layout: _core._Layout

    @property
    def work(self) -> float:
        a = self.layout
        return float(a["J"] * a["K"] * a["rows"] * a["cols"]) * a["l"] * a["p"]


def _compress(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    _check_isa()
    if args.correct is not None and args.calibrate is None:
        raise InputError("--correct needs --calibrate")
    if args.calibrate is not None:
        _refuse(
            args, "with --calibrate", l=None, schedule="adaptive", steps=None, refine=None, scales="float32", min_size=0
        )
    if args.output.suffix.lower() not in (".safetensors", ".npy") and _is_model(args.input):
        _compress_model(args)
        return
    if args.calibrate is not None:
        raise InputError(f"--calibrate takes the folder of a model to another: not {args.input} to {args.output}")
    _refuse(args, "where OUT is a file", limit=0.9)
    _check_paths(args)
    if args.bits != int(args.bits):
        raise InputError(
            f"--bits is {args.bits:g}, expected an integer where OUT is a file: of a model, a folder as OUT takes "
            "fractions; for one matrix bqq.plan says which --bits, --l and --patch"
        )
    args.bits = int(args.bits)
    metadata: dict[str, str] = {}
    if args.input.suffix.lower() == ".npy":
        tensors: dict[str, Any] = {"matrix": read_npy(args.input)}
        names = ["matrix"]
    else:
        tensors = read_container(args.input)
        metadata = tensors.metadata
        names = _select(args, tensors)
        for name in [] if args.only else [name for name in names if _is_mask(tensors[name])]:
            say(f"{name}: has values below {-_MOST:g}, as masks have; left as it is")
            names.remove(name)
    _check_names(args, tensors)
    jobs = [_job(args, name, tensors.pop(name)) for name in names]
    if not jobs:
        raise InputError(f"{args.input}: nothing to compress")
    matrices = _compress_all(args, jobs)
    _save(args, tensors | matrices, metadata)
    _print_summary(args, list(matrices.values()), len(tensors), time.perf_counter() - start)


def _refuse(args: argparse.Namespace, where: str, **defaults: Any) -> None:
    """Options that would be ignored are errors."""
    given = [f"--{name.replace('_', '-')}" for name, default in defaults.items() if getattr(args, name) != default]
    if given:
        raise InputError(f"{', '.join(given)}: of no use {where}")


def _is_model(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith((".safetensors", ".index.json"))


def _compress_model(args: argparse.Namespace) -> None:
    if not args.input.exists():
        raise InputError(f"{args.input}: no such file or folder")
    if not args.output.parent.is_dir():
        raise InputError(f"{args.output.parent}: no such folder")
    if args.calibrate is not None:
        try:  # by name: the command knows that there are wings, the library does not
            calibrated = importlib.import_module("bqq.nn._command")
        except ImportError as error:
            raise InputError(f"--calibrate needs torch and transformers: {error}") from None
        with reading(args.input):
            calibrated.run(args)
        return
    options = _checkpoint.Options(
        args.bits,
        args.l,
        args.patch,
        args.schedule,
        args.effort,
        args.steps,
        _refine(args.refine),
        args.seed,
        args.scales,
    )
    _checkpoint.run(args.input, args.output, options, args=args)


def _check_paths(args: argparse.Namespace) -> None:
    """What can be wrong with the paths is said before the work, not after it."""
    source, target = args.input, args.output
    if source.suffix.lower() not in (".npy", ".safetensors"):
        raise InputError(f"{source}: expected a .npy or .safetensors file")
    if source.suffix.lower() == ".npy" and (args.only or args.skip or args.min_size):
        raise InputError("--only, --skip and --min-size choose tensors of a .safetensors file")
    if target.suffix.lower() != ".safetensors":
        raise InputError(f"{target}: the output is a .safetensors file, name it so")
    if target.exists() and not args.force:
        raise InputError(f"{target} exists; --force replaces it")
    if target.exists() and not target.is_file():
        raise InputError(f"{target} is no file, it cannot be replaced")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder")
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target.parent}: cannot write there")


def _select(args: argparse.Namespace, tensors: dict[str, Any]) -> list[str]:
    for glob in args.only:
        if not any(fnmatchcase(name, glob) for name in tensors):
            raise InputError(f"{args.input}: no tensor matches --only {glob!r}")
    raw = {name: v.dtype for name, v in tensors.items() if isinstance(v, bqq.RawTensor) and len(v.shape) == 2}
    factors = {name + end for name in raw for end in _arrays.FACTORS}
    names = [
        name
        for name, value in sorted(tensors.items())
        if is_real_matrix(value)
        and (args.only or name not in factors)
        and math.prod(value.shape) >= args.min_size
        and (not args.only or any(fnmatchcase(name, glob) for glob in args.only))
        and not any(fnmatchcase(name, glob) for glob in args.skip)
    ]
    if not names:
        hint = f"; 2-D tensors of {', '.join(sorted(set(raw.values())))} have to be converted first" if raw else ""
        if any(dtype in _arrays.FLOAT8 for dtype in raw.values()):
            hint += ", or, of a model, OUT be a folder"
        raise InputError(f"{args.input}: nothing to compress, no 2-D float tensor is selected{hint}")
    for name, dtype in sorted(raw.items()):
        if dtype != "BF16" and not args.only and not any(fnmatchcase(name, glob) for glob in args.skip):
            say(f"{name}: of type {dtype}; left as it is")
    return names


def _is_mask(value: Any) -> bool:
    """Has the lowest of numbers, as what is added to attention before a softmax."""
    array = np.asarray(value)
    return float(array.min()) < -_MOST and float(array.max()) <= _MOST


def _largest(W: npt.NDArray[Any]) -> float:
    """max |w|, or NaN."""
    return float(np.maximum(-W.min(), W.max()))


def _check_names(args: argparse.Namespace, tensors: dict[str, Any]) -> None:
    """Names that reading allows and saving does not."""
    if "" in tensors:
        raise InputError(f"{args.input}: a tensor has no name; the output needs one for each")


def _job(args: argparse.Namespace, name: str, value: Any) -> _Job:
    source = str(args.input) if args.input.suffix.lower() == ".npy" else f"{args.input}, tensor {name!r}"
    with blame(source):
        W = _arrays.as_float32_matrix("W", value)
        if (largest := _largest(W)) > _MOST:
            raise ValueError(f"W has {largest:g}, expected values up to {_MOST:g}")
        if args.scales == "float16" and largest > _MOST_FLOAT16:
            raise ValueError(f"W has {largest:g}, float16 scales hold at most {_MOST_FLOAT16:g}: use --scales float32")
        m, n = W.shape
        return _Job(name, source, W, _core.layout(m, n, args.bits, args.l or 0, args.patch or 0))


def _compress_all(args: argparse.Namespace, jobs: list[_Job]) -> dict[str, bqq.Matrix]:
    matrices = {}
    table = Table(
        [
            ("name", "<", max(len(printable(job.name)) for job in jobs)),
            ("shape", ">", max(len(by((job.layout["m"], job.layout["n"]))) for job in jobs)),
            ("l", ">", 4),
            ("patch", ">", 9),
            ("bits/weight", ">", 0),
            ("KB", ">", 10),
            ("error %", ">", 7),
        ]
    )
    with Bar(sum(job.work for job in jobs), args.quiet) as bar:
        for job in jobs:
            part = bar.part(job.name, job.work)
            with blame(job.source):
                q = bqq.decompose(
                    job.W,
                    args.bits,
                    args.l,
                    patch=args.patch,
                    schedule=args.schedule,
                    effort=args.effort,
                    steps=args.steps,
                    refine=_refine(args.refine),
                    seed=args.seed,
                    threads=args.threads,
                    progress=part,
                )
            part.finish()
            bits, size = f"{q.bits_per_weight:.3f}", f"{q.nbytes / 1000:,.1f}"
            error = f"{100 * q.error(job.W):.2f}"
            table.row([printable(job.name), by(q.shape), str(q.l), by(q.patch), bits, size, error])
            matrices[job.name] = q
    return matrices


def _save(args: argparse.Namespace, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    with blame(args.output):
        try:
            bqq.save(args.output, tensors, metadata=metadata, scales=args.scales)
        except ValueError as error:
            if args.scales == "float32" or "float16" not in str(error):
                raise
            say(f"{error}; done so")  # "... store scales as float32"
            bqq.save(args.output, tensors, metadata=metadata)


def _print_summary(args: argparse.Namespace, matrices: list[bqq.Matrix], passed: int, seconds: float) -> None:
    weights = sum(math.prod(q.shape) for q in matrices)
    bits = 8 * sum(q.nbytes for q in matrices) / weights
    say()
    say(
        f"{count(len(matrices), 'matrix', 'matrices')} at {bits:.3f} bits per weight, "
        f"{count(passed, 'other tensor')} unchanged, {seconds:.1f} s"
    )
    old, new = args.input.stat().st_size, args.output.stat().st_size
    say(f"{args.output}: {kilobytes(new)}, {old / new:.2f}x smaller than {args.input}")
