"""What the commands share: input errors, output lines, tables, bars."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bqq import _arrays
from bqq._files import Tensors, load
from bqq._matrix import Matrix
from bqq._progress import importing_tqdm


class InputError(Exception):
    """What the user gave cannot be used: one line on stderr, exit code 2."""


@contextmanager
def blame(what: object) -> Iterator[None]:
    """Turns the library's complaints about its arguments into an InputError that names ``what``."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InputError(_naming(what, str(error))) from error


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Like blame, and a file that cannot be read is bad input too."""
    try:
        with blame(path):
            yield
    except OSError as error:
        raise InputError(_naming(path, error.strerror or str(error))) from error


def _naming(what: object, text: str) -> str:
    return text if str(what) in text else f"{what}: {text}"


def read_container(path: Path) -> Tensors:
    """All of a safetensors file."""
    with reading(path):
        return load(path)


def check_regular(path: Path) -> None:
    """A pipe would be waited for, a device read without end."""
    with reading(path):
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # of folders, opening says it
            raise InputError(f"{path}: not a regular file")


def read_npy(path: Path) -> Any:
    """The array of a .npy file."""
    check_regular(path)
    with reading(path), path.open("rb") as file:
        start = file.read(6)
        if start != np.lib.format.MAGIC_PREFIX:
            raise InputError(f"{path}: not a .npy file: {_what_else(start)}")
        file.seek(0)
        try:
            return np.load(file, allow_pickle=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # NumPy's parser of headers lets out whatever it meets
            raise InputError(f"{path}: damaged: {error}") from error


def _what_else(start: bytes) -> str:
    if not start:
        return "it is empty"
    if start.startswith(b"PK"):
        return "it is a zip file, as .npz files are; save one array with numpy.save"
    if start == b"versio":
        return "it may be a Git LFS pointer; fetch the file with git lfs pull"
    return f"it starts with {start!r}"


def is_real_matrix(value: Any) -> bool:
    """A tensor that can be compressed: 2-D, not empty, F64, F32, F16 or BF16."""
    if isinstance(value, Matrix) or len(value.shape) != 2 or 0 in value.shape:
        return False
    if isinstance(value, _arrays.RawTensor):
        return value.dtype == "BF16"
    return bool(value.dtype.kind == "f")


def prepare_streams() -> None:
    """Streams that take any line: closed ones go nowhere, what an encoding lacks is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Without control characters, which are escaped: names in files are anybody's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


unsaid: list[OSError] = []  # why lines did not reach stdout


def say(text: str = "") -> None:
    """A line on stdout, above any bar. Where it cannot be written, work goes on: silently if it is a pipe whose reader
    is gone, else `unsaid` has the reason."""
    try:
        with Bar.kind.external_write_mode(sys.stdout) if Bar.kind else nullcontext():
            print(printable(text), flush=True)
    except BrokenPipeError:
        silence()
    except OSError as error:
        unsaid.append(error)
        silence()


def silence() -> None:
    """Sends the rest of stdout nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def by(sides: Sequence[int]) -> str:
    """``600x512``; ``scalar`` for no sides."""
    return "x".join(map(str, sides)) or "scalar"


def kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f} KB"


def count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


class Table:
    """Rows printed as they come, under columns of (title, '<' or '>', width) fixed beforehand."""

    def __init__(self, columns: Sequence[tuple[str, str, int]]) -> None:
        self._columns = [(align, max(width, len(title))) for title, align, width in columns]
        self.row([title for title, _, _ in columns])

    def row(self, cells: Sequence[str]) -> None:
        padded = [f"{c:{a}{w}}" for c, (a, w) in zip(cells, self._columns, strict=True)]
        say("  ".join(padded).rstrip())


class Bar:
    """A bar on stderr over work of ``total`` units; invisible if quiet or stderr is no terminal."""

    kind: Any = None  # tqdm, once there is a bar

    def __init__(self, total: float, quiet: bool) -> None:
        with blame("TQDM_"), importing_tqdm():
            from tqdm import tqdm
        Bar.kind = tqdm
        self._bar = tqdm(
            total=total,
            disable=True if quiet else None,
            leave=False,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
        )
        self._done = 0.0

    def part(self, name: str, units: float) -> _Part:
        """Announces the next piece of work; its progress is reported to the result."""
        self._bar.set_description_str(printable(name))
        self._done, start = self._done + units, self._done
        return _Part(self._bar, start, units)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class _Part:
    def __init__(self, bar: Any, start: float, units: float) -> None:
        self._bar, self._start, self._units = bar, start, units

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._start + self._units * done / max(total, 1) - self._bar.n)

    def finish(self) -> None:
        self(1, 1)
