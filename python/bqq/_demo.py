"""``bqq demo``: one matrix at several sizes, beside uniform quantisation."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import bqq
from bqq import _arrays
from bqq._baselines import uniform_bytes, uniform_quantisation
from bqq._console import (
    Bar,
    InputError,
    Table,
    blame,
    by,
    check_regular,
    is_real_matrix,
    kilobytes,
    read_container,
    read_npy,
    reading,
    say,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Dense = npt.NDArray[np.float32]
_PLOT_EXTRA = "pip install 'bqq[plot]'"
_IMAGE_PATCH = 128  # a photo is another matrix from one corner to the next: --patch 256 has 16 % more MSE
_BLUE, _ORANGE = "#0072B2", "#D55E00"  # told apart by colour-blind readers too


@dataclass(frozen=True)
class _Source:
    title: str
    W: _Dense
    is_image: bool


@dataclass(frozen=True)
class _Result:
    """One row of the table; errors are relative Frobenius norms."""

    bits: int
    q: bqq.Matrix
    dense: _Dense
    error: float
    mse: float
    seconds: float
    uniform_bits: float
    uniform_error: float
    uniform_mse: float


def run(
    source: str | None,
    *,
    bits: Sequence[int],
    out: Path,
    patch: int | None,
    effort: str,
    steps: int | None,
    refine: bool | int | None,
    seed: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Prints the table, writes bqq-demo.safetensors and bqq-demo.png to the folder ``out``."""
    matrix = _read(source)
    _prepare_folder(out)
    solver = {"effort": effort, "steps": steps, "refine": refine, "seed": seed, "threads": threads}
    if patch is None and matrix.is_image:
        patch = _IMAGE_PATCH
    results = _compute(matrix, bits, patch, solver, quiet)
    say()
    say("err: ||W - W_hat|| / ||W||; MSE: with W scaled to standard deviation 1;")
    say("ratio: float32 size over size; x BQQ: MSE of uniform quantisation over that of BQQ")
    say()
    _write_matrix(out / "bqq-demo.safetensors", results[-1].q)
    _write_picture(out / "bqq-demo.png", matrix, results)


# --- input ---


def _read(source: str | None) -> _Source:
    if source is None:
        return _Source("the red channel of a photo", _default_photo(), True)
    path, name = _split(source)
    if path.suffix.lower() == ".npy":
        title, value, is_image = path.name, read_npy(path), False
    elif path.suffix.lower() == ".safetensors":
        title, value, is_image = *_tensor(path, name), False
    else:
        check_regular(path)
        title, value, is_image = path.name, _image(path), True
    with blame(source):
        return _Source(title, _arrays.as_float32_matrix("W", value), is_image)


def _split(source: str) -> tuple[Path, str | None]:
    """FILE:NAME, where only a .safetensors FILE has names."""
    head, found, name = source.partition(".safetensors:")
    return (Path(head + ".safetensors"), name) if found else (Path(source), None)


def _tensor(path: Path, name: str | None) -> tuple[str, Any]:
    tensors = read_container(path)
    fitting = [key for key, value in sorted(tensors.items()) if is_real_matrix(value)]
    if name is None and not fitting:
        raise InputError(f"{path}: holds no 2-D floating-point tensor")
    key = name if name is not None else fitting[0]
    if key not in fitting:
        what = "is no 2-D floating-point tensor" if key in tensors else "is not in the file"
        raise InputError(f"{path}: {key!r} {what}")
    return f"{path.name}, {key}", np.asarray(tensors[key])


def _default_photo() -> npt.NDArray[Any]:
    try:
        from matplotlib import cbook

        return _image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    except (ImportError, OSError) as error:
        raise InputError(f"the default photo comes with matplotlib: {_PLOT_EXTRA}, or name an INPUT") from error


def _image(file: Any) -> npt.NDArray[Any]:
    """Red channel, or the grey values of a grey image."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError(f"reading images needs Pillow: {_PLOT_EXTRA}") from error
    try:
        with reading(file), Image.open(file) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.mode in ("L", "F", "I") or image.mode.startswith("I;"):
                return np.asarray(image)
            if image.mode in ("1", "LA"):
                return np.asarray(image.convert("L"))
            return np.asarray(image.convert("RGB"))[..., 0]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's readers has exceptions of its own
        raise InputError(f"{file}: cannot be read as an image: {error}") from error


def _prepare_folder(out: Path) -> None:
    with reading(out):
        out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise InputError(f"{out}: cannot write there")


# --- table ---


def _compute(
    source: _Source,
    bits: Sequence[int],
    patch: int | None,
    solver: dict[str, Any],
    quiet: bool,
) -> list[_Result]:
    """One matrix grows stack by stack: a row's bits are the first bits of the next row's matrix."""
    W = source.W
    say(f"{source.title}: {by(W.shape)}, {kilobytes(4 * W.size)} as float32")
    say()
    table = _table(W, bits[-1])
    results: list[_Result] = []
    seconds = 0.0
    q: bqq.Matrix | None = None
    with Bar(bits[-1], quiet) as bar:
        for b in bits:
            part = bar.part(f"{b} bits" if b > 1 else "1 bit", b - (q.p if q else 0))
            start = time.perf_counter()
            with blame("demo"):
                if q is None:
                    q = bqq.decompose(W, b, patch=patch, progress=part, **solver)
                else:
                    q = bqq.extend(q, W, b, progress=part, **solver)
            seconds += time.perf_counter() - start
            part.finish()
            results.append(_measure(W, b, q, seconds))
            _print_row(table, W, results[-1])
    return results


def _measure(W: _Dense, bits: int, q: bqq.Matrix, seconds: float) -> _Result:
    dense = q.reconstruct()
    uniform = uniform_quantisation(W, bits)
    return _Result(
        bits=bits,
        q=q,
        dense=dense,
        error=_relative(W, dense),
        mse=_standardised_mse(W, dense),
        seconds=seconds,
        uniform_bits=8 * uniform_bytes(W.size, bits) / W.size,
        uniform_error=_relative(W, uniform),
        uniform_mse=_standardised_mse(W, uniform),
    )


def _relative(W: _Dense, approximation: npt.NDArray[Any]) -> float:
    w = W.astype(np.float64)
    return _ratio(float(np.linalg.norm(w - approximation)), float(np.linalg.norm(w)))


def _standardised_mse(W: _Dense, approximation: npt.NDArray[Any]) -> float:
    """MSE of an element once the matrix is scaled to standard deviation 1, as papers report it."""
    w = W.astype(np.float64)
    variance = float(w.var(ddof=1)) if w.size > 1 else 0.0
    return _ratio(float(np.square(w - approximation).mean()), variance)


def _ratio(a: float, b: float) -> float:
    if b == 0:
        return 0.0 if a == 0 else float("inf")
    return a / b


def _table(W: _Dense, last: int) -> Table:
    """The header, 79 characters wide if the matrix takes less than 1 MB."""
    wide = max(5, len(f"{last * W.size / 8000:,.1f}"))
    say(f"{'':4}  {'BQQ':<{40 + wide - 5}}  uniform quantisation")
    bqq_columns = [("KB", wide), ("ratio", 5), ("bits/el", 7), ("err %", 5), ("MSE", 7), ("sec", 4)]
    uniform_columns = [("KB", wide), ("err %", 5), ("MSE", 7), ("x BQQ", 5)]
    columns = [("bits", 4), *bqq_columns, *uniform_columns]
    return Table([(title, ">", width) for title, width in columns])


def _print_row(table: Table, W: _Dense, r: _Result) -> None:
    table.row(
        [
            str(r.bits),
            f"{r.q.nbytes / 1000:,.1f}",
            f"{4 * W.size / r.q.nbytes:.1f}",
            f"{r.q.bits_per_weight:.2f}",
            f"{100 * r.error:.2f}",
            f"{r.mse:.3g}",
            f"{r.seconds:.1f}",
            f"{uniform_bytes(W.size, r.bits) / 1000:,.1f}",
            f"{100 * r.uniform_error:.2f}",
            f"{r.uniform_mse:.3g}",
            f"{r.uniform_mse / r.mse:.2f}" if r.mse else "-",
        ]
    )


# --- files ---


def _write_matrix(path: Path, q: bqq.Matrix) -> None:
    bqq.save(path, q)
    again = bqq.load(path)["matrix"]
    parts = ((q.Y, again.Y), (q.Z, again.Z), (q.scales, again.scales))
    if not all(np.array_equal(a, b) for a, b in parts):
        raise OSError(f"{path}: read back, the matrix differs from the one written")
    say(f"wrote {path} (p = {q.p}; read back, it is the same)")


def _write_picture(path: Path, source: _Source, results: list[_Result]) -> None:
    try:
        figure = _draw(source, results)
    except ImportError:
        print(f"bqq: no picture without matplotlib: {_PLOT_EXTRA}", file=sys.stderr)
        return
    figure.savefig(path, dpi=200)
    say(f"wrote {path}")


def _draw(source: _Source, results: list[_Result]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    W = source.W
    columns = 3
    rows = -(-(len(results) + 2) // columns)
    height = 8.5 / columns * _shown_aspect(W) + 0.3
    figure = Figure(figsize=(9, rows * height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns).flat)
    _show(axes[0], source, W, f"float32: {kilobytes(4 * W.size)}")
    for ax, r in zip(axes[1:], results, strict=False):
        unit = "bit" if r.bits == 1 else "bits"
        title = f"{r.bits} {unit}: {kilobytes(r.q.nbytes)}, error {_percent(100 * r.error)}"
        _show(ax, source, r.dense, title)
    _plot_errors(axes[len(results) + 1], W, results)
    for ax in axes[len(results) + 2 :]:
        ax.remove()
    return figure


def _shown_aspect(W: _Dense) -> float:
    """Height over width of a panel: the matrix's own, unless it is very flat or very tall."""
    m, n = W.shape
    return min(max(float(m / n), 0.7), 1.5)


def _show(ax: Axes, source: _Source, values: _Dense, title: str) -> None:
    """All panels have the limits of the original, less its outliers if it is no image."""
    low, high = np.percentile(source.W, (0, 100) if source.is_image else (0.5, 99.5))
    ax.imshow(
        values,
        cmap="gray" if source.is_image else "viridis",
        vmin=float(low),
        vmax=float(high),
        aspect="auto",
        interpolation="antialiased",
    )
    ax.set_box_aspect(_shown_aspect(source.W))
    ax.set_title(title, fontsize=10)
    if source.is_image:
        ax.set_axis_off()
    else:
        ax.tick_params(labelsize=8)


def _plot_errors(ax: Axes, W: _Dense, results: list[_Result]) -> None:
    ours = [(r.q.bits_per_weight, r.error) for r in results]
    uniform = [(r.uniform_bits, r.uniform_error) for r in results]
    lines = (("BQQ", _BLUE, "o-", ours), ("uniform", _ORANGE, "s--", uniform))
    for label, colour, style, points in lines:
        positive = [(x, 100 * y) for x, y in points if y > 0]  # an error of 0 has no place in log
        x, y = zip(*positive, strict=True) if positive else ((), ())
        ax.plot(x, y, style, color=colour, label=label, linewidth=2, markersize=6)
    _log_ticks(ax)
    ax.set_xticks([r.bits for r in results])
    ax.set_box_aspect(_shown_aspect(W))
    ax.set_xlabel("bits per element")
    ax.set_title("relative error, %", fontsize=10)
    ax.tick_params(labelsize=9)
    ax.yaxis.tick_right()  # towards the margin: the panels stay side by side
    ax.grid(which="both", color="0.9")
    ax.legend(fontsize=9, loc="upper right")


def _log_ticks(ax: Axes) -> None:
    """1, 2, 3, 5 of each decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _percent(x: float) -> str:
    return f"{x:.1f} %" if x >= 1 else f"{x:.2g} %"
