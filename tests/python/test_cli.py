"""The command line, run as its users run it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bqq
from bqq._baselines import uniform_bytes, uniform_quantisation

Dense = npt.NDArray[np.float32]
Tensors = dict[str, tuple[str, list[int], bytes]]  # name: dtype, shape, bytes

SMALL = ("--steps", "300", "--threads", "1", "--quiet")


def start(*args: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "bqq", *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*args: str, cwd: Path, code: int = 0, **options: Any) -> str:
    """Output of a command that must end with ``code``; only failures may write to stderr."""
    process = start(*args, cwd=cwd, **options)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    if code == 0:
        assert err == ""
        return out
    assert err.startswith("bqq: "), err
    assert err.count("\n") == 1, err
    return err


def tensor_bytes(path: Path) -> tuple[Tensors, dict[str, str]]:
    """name -> (dtype, shape, bytes), and the metadata, read without the library."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        body = data[8 + size + begin : 8 + size + end]
        tensors[name] = (entry["dtype"], entry["shape"], body)
    return tensors, metadata


def write_container(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    header: dict[str, Any] = {"__metadata__": metadata}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def structured(rng: np.random.Generator, m: int, n: int) -> Dense:
    return (rng.standard_normal((m, 2)) @ rng.standard_normal((2, n))).astype(np.float32)


@pytest.fixture
def npy(tmp_path: Path) -> Dense:
    W = structured(np.random.default_rng(1), 24, 20)
    np.save(tmp_path / "w.npy", W)
    return W


@pytest.fixture
def model(tmp_path: Path) -> Tensors:
    """Six tensors: three that can be compressed, in three dtypes, and three that cannot."""
    rng = np.random.default_rng(2)
    bf16 = (structured(rng, 12, 10).view(np.uint32) >> 16).astype("<u2")
    tensors = {
        "a.weight": ("F32", [16, 24], structured(rng, 16, 24).tobytes()),
        "b.weight": ("F16", [20, 8], structured(rng, 20, 8).astype("<f2").tobytes()),
        "c.weight": ("BF16", [12, 10], bf16.tobytes()),
        "a.bias": ("BF16", [7], rng.bytes(14)),
        "eighth": ("F8_E4M3", [4, 6], rng.bytes(24)),
        "ids": ("I64", [2, 3], rng.bytes(48)),
    }
    write_container(tmp_path / "model.safetensors", tensors, {"format": "pt", "note": "größer"})
    return tensors


# --- the program ---


def test_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path) == f"bqq {bqq.__version__}\n"


def test_config_shows_what_show_config_shows(tmp_path: Path) -> None:
    lines = dict(line.split(maxsplit=1) for line in run("config", cwd=tmp_path).splitlines())
    expected = bqq.show_config("dict")
    assert expected is not None
    assert lines.keys() == expected.keys()
    assert lines["version"] == bqq.__version__
    assert lines["numpy"] == np.__version__


@pytest.mark.parametrize("command", [(), ("demo",), ("compress",), ("info",), ("config",)])
def test_help(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert run(*command, "--help", cwd=tmp_path).startswith("usage: bqq")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "required: COMMAND"),
        (("frobnicate",), "'frobnicate'"),
        (("info",), "required: FILE (see bqq info --help)"),
        (("info", "nope.safetensors"), "nope.safetensors"),
        (("info", "w.npy"), "not a safetensors file"),
        (("compress", "w.npy", "o.safetensors"), "required: --bits"),
        (("compress", "w.npy", "o.safetensors", "--bits", "65"), "'65', expected an integer, 1 to"),
        (("compress", "w.npy", "o.safetensors", "--bits", "x"), "'x', expected an integer"),
        (
            ("compress", "w.npy", "o.safetensors", "--bits", "1.5"),
            "--bits is 1.5, expected an integer where OUT is a file",
        ),
        (
            ("compress", "model", "small", "--bits", "2", "--calibrate", "t.txt", "--steps", "9", "--min-size", "8"),
            "--steps, --min-size: of no use with --calibrate",
        ),
        (
            ("compress", "w.npy", "o.safetensors", "--bits", "1", "--limit", "2"),
            "--limit: of no use where OUT is a file",
        ),
        (("compress", "w.npy", "o.safetensors", "--bits", "1", "--patch", "0"), "--patch: '0'"),
        (("compress", "w.npy", "o.npy", "--bits", "1"), "o.npy: the output is a .safetensors"),
        (("compress", "w.npy", "no/o.safetensors", "--bits", "1"), "no: no such folder"),
        (("compress", "w.txt", "o.safetensors", "--bits", "1"), "w.txt: expected a .npy or"),
        (("compress", "none.npy", "o.safetensors", "--bits", "1"), "none.npy: No such file"),
        (("compress", "cube.npy", "o.safetensors", "--bits", "1"), "cube.npy: W has 3 dimensions"),
        (("compress", "nan.npy", "o.safetensors", "--bits", "1"), "nan.npy: W[1, 0] is nan"),
        (("compress", "objects.npy", "o.safetensors", "--bits", "1"), "objects.npy: "),
        (("compress", "w.npy", "o.safetensors", "--bits", "1", "--only", "x"), "--only, --skip"),
        (("compress", "w.npy", "o.safetensors", "--bits", "1", "--steps", "2000000000"), "w.npy: steps is 2000000000"),
        (("demo", "none.png"), "none.png: No such file"),
        (("demo", "text.png"), "text.png"),
        (("demo", "w.npy", "--bits", "1,9"), "'9', expected an integer, 1 to 8"),
        (("demo", "w.npy", "--out", "w.npy"), "w.npy: File exists"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    tmp_path: Path, npy: Dense, args: tuple[str, ...], message: str
) -> None:
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "nan.npy", np.array([[1, 2], [np.nan, 4]]))
    np.save(tmp_path / "objects.npy", np.array([[{}]]), allow_pickle=True)
    (tmp_path / "text.png").write_text("no image")
    before = set(os.listdir(tmp_path))
    err = run(*args, cwd=tmp_path, code=2)
    assert err.startswith("bqq: error: ")
    assert message in err
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_closed_pipe_is_silent_and_the_work_is_done(tmp_path: Path, npy: Dense) -> None:
    process = start("compress", "w.npy", "o.safetensors", "--bits", "1", *SMALL, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait(60) == 0
    assert bqq.load(tmp_path / "o.safetensors")["matrix"].p == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "a": ("F32", [4, 4], rng.standard_normal((4, 4)).astype("f4").tobytes()),
        "b": ("F32", [300, 300], rng.standard_normal((300, 300)).astype("f4").tobytes()),
    }
    write_container(tmp_path / "m.safetensors", tensors, {})
    args = ("compress", "m.safetensors", "o.safetensors", "--bits", "8", "--schedule", "paper")
    process = start(*args, cwd=tmp_path)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("a "):  # then the long one runs
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "bqq: interrupted\n"
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_other_failures_have_exit_code_1(tmp_path: Path, npy: Dense) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "bqq", "config"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("bqq: error: ")
    assert "Traceback" not in done.stderr


# --- compress and info ---


def test_compress_npy_is_decompose(tmp_path: Path, npy: Dense) -> None:
    run("compress", "w.npy", "o.safetensors", "--bits", "2", "--seed", "5", *SMALL, cwd=tmp_path)
    q = bqq.load(tmp_path / "o.safetensors")["matrix"]
    expected = bqq.decompose(npy, 2, steps=300, seed=5)
    np.testing.assert_array_equal(q.Y, expected.Y)
    np.testing.assert_array_equal(q.Z, expected.Z)
    np.testing.assert_array_equal(q.scales, expected.scales)


def test_compress_passes_every_solver_option(tmp_path: Path, npy: Dense) -> None:
    options = ("--l", "3", "--patch", "12", "--schedule", "paper", "--scales", "float16")
    run("compress", "w.npy", "o.safetensors", "--bits", "1", *options, *SMALL, cwd=tmp_path)
    q = bqq.load(tmp_path / "o.safetensors")["matrix"]
    expected = bqq.decompose(npy, 1, 3, patch=12, schedule="paper", steps=300)
    np.testing.assert_array_equal(q.Y, expected.Y)
    np.testing.assert_array_equal(q.scales, expected.scales.astype(np.float16))
    assert (q.l, q.patch) == (3, (12, 10))


def test_compress_container_leaves_the_rest_byte_for_byte(tmp_path: Path, model: Tensors) -> None:
    out = run("compress", "model.safetensors", "o.safetensors", "--bits", "1", *SMALL, cwd=tmp_path)
    assert "3 matrices at" in out
    assert "3 other tensors unchanged" in out
    stored, metadata = tensor_bytes(tmp_path / "o.safetensors")
    for name in ("a.bias", "eighth", "ids"):
        assert stored[name] == model[name]
    assert metadata["format"] == "pt"
    assert metadata["note"] == "größer"
    loaded = bqq.load(tmp_path / "o.safetensors")
    bits = np.frombuffer(model["c.weight"][2], "<u2").astype(np.uint32) << 16
    W = bits.view(np.float32).reshape(12, 10)
    expected = bqq.decompose(W, 1, steps=300)
    np.testing.assert_array_equal(loaded["c.weight"].reconstruct(), expected.reconstruct())
    row = next(line for line in out.splitlines() if line.startswith("c.weight"))
    assert row.split()[1] == "12x10"
    assert row.split()[-1] == f"{100 * expected.error(W):.2f}"


@pytest.mark.parametrize(
    ("options", "compressed"),
    [
        (("--only", "*.weight"), ["a.weight", "b.weight", "c.weight"]),
        (("--only", "a.*", "c.*"), ["a.weight", "c.weight"]),
        (("--only", "a.*", "--only", "b.*"), ["a.weight", "b.weight"]),
        (("--skip", "[ab].*"), ["c.weight"]),
        (("--only", "*.weight", "--skip", "b.*", "--min-size", "121"), ["a.weight"]),
    ],
)
def test_compress_selects(tmp_path: Path, model: Tensors, options: tuple[str, ...], compressed: list[str]) -> None:
    args = ("compress", "model.safetensors", "o.safetensors", "--bits", "1", *SMALL, *options)
    run(*args, cwd=tmp_path)
    loaded = bqq.load(tmp_path / "o.safetensors")
    assert sorted(k for k, v in loaded.items() if isinstance(v, bqq.Matrix)) == compressed
    stored, _ = tensor_bytes(tmp_path / "o.safetensors")
    for name in model.keys() - set(compressed):
        assert stored[name] == model[name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "typo*"), "no tensor matches --only 'typo*'"),
        (("--only", "ids"), "nothing to compress"),
        (("--min-size", "1000"), "nothing to compress"),
    ],
)
def test_compress_of_nothing_is_an_error(
    tmp_path: Path, model: Tensors, options: tuple[str, ...], message: str
) -> None:
    args = ("compress", "model.safetensors", "o.safetensors", "--bits", "1", *options)
    assert message in run(*args, cwd=tmp_path, code=2)


def test_compress_names_the_tensor_it_cannot_use_before_any_work(tmp_path: Path) -> None:
    bad = np.full((3, 3), np.inf, np.float32)
    tensors = {
        "a": ("F32", [900, 900], np.ones((900, 900), np.float32).tobytes()),
        "b": ("F32", [3, 3], bad.tobytes()),
    }
    write_container(tmp_path / "m.safetensors", tensors, {})
    args = ("compress", "m.safetensors", "o.safetensors", "--bits", "1", "--steps", "100000")
    assert "m.safetensors, tensor 'b': W[0, 0] is inf" in run(*args, cwd=tmp_path, code=2)


def test_compress_refuses_to_overwrite(tmp_path: Path, npy: Dense) -> None:
    target = tmp_path / "o.safetensors"
    target.write_bytes(b"precious")
    args = ("compress", "w.npy", "o.safetensors", "--bits", "1", *SMALL)
    assert "o.safetensors exists; --force replaces it" in run(*args, cwd=tmp_path, code=2)
    assert target.read_bytes() == b"precious"
    run(*args, "--force", cwd=tmp_path)
    assert "matrix" in bqq.load(target)


def test_compress_again_keeps_what_is_compressed(tmp_path: Path, model: Tensors) -> None:
    args = ("--bits", "1", *SMALL)
    run("compress", "model.safetensors", "1.safetensors", "--only", "a.*", *args, cwd=tmp_path)
    run("compress", "1.safetensors", "2.safetensors", *args, cwd=tmp_path)
    run("compress", "model.safetensors", "all.safetensors", *args, cwd=tmp_path)
    assert (tmp_path / "2.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()


def test_info(tmp_path: Path, model: Tensors) -> None:
    args = ("--bits", "2", "--only", "[ac].weight", "--scales", "float16", *SMALL)
    run("compress", "model.safetensors", "o.safetensors", *args, cwd=tmp_path)
    out = run("info", "o.safetensors", cwd=tmp_path)
    stored, _ = tensor_bytes(tmp_path / "o.safetensors")
    sizes = {
        name: sum(len(stored[f"{name}.bqq_{part}"][2]) for part in ("y", "z", "scales"))
        for name in ("a.weight", "c.weight")
    }
    q = bqq.load(tmp_path / "o.safetensors")["a.weight"]
    bits = f"{8 * sizes['a.weight'] / q.shape[0] / q.shape[1]:.3f}"
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["a.weight"] == [
        "bqq", "16x24", str(sizes["a.weight"]), "2", str(q.l), "16x24", bits
    ]  # fmt: skip
    assert rows["b.weight"] == ["float16", "20x8", "320"]
    assert rows["a.bias"] == ["bf16", "7", "14"]
    assert rows["eighth"] == ["f8_e4m3", "4x6", "24"]
    ratio = f"{4 * (16 * 24 + 12 * 10) / sum(sizes.values()):.2f}x smaller than float32"
    assert ratio in out
    assert f"4 other tensors: {320 + 14 + 24 + 48} bytes" in out
    assert "metadata note: größer" in out


def test_info_of_a_file_without_matrices(tmp_path: Path) -> None:
    write_container(tmp_path / "m.safetensors", {"x": ("F32", [], b"\0\0\0\0")}, {})
    out = run("info", "m.safetensors", cwd=tmp_path)
    assert "scalar" in out
    assert "1 other tensor: 4 bytes" in out


def test_info_of_a_corrupt_file(tmp_path: Path, npy: Dense) -> None:
    path = tmp_path / "o.safetensors"
    bqq.save(path, bqq.decompose(npy, 1, steps=50))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "o.safetensors" in run("info", "o.safetensors", cwd=tmp_path, code=2)


# --- demo ---


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def table_rows(out: str) -> list[list[str]]:
    rows = [line.split() for line in out.splitlines()]
    return [row for row in rows if row and row[0].isdigit()]


def test_demo_of_a_matrix(tmp_path: Path, npy: Dense) -> None:
    out = run("demo", "w.npy", "--bits", "4,1,2", "--out", "new/dir", *SMALL, cwd=tmp_path)
    rows = table_rows(out)
    assert [row[0] for row in rows] == ["1", "2", "4"]
    q = bqq.load(tmp_path / "new/dir/bqq-demo.safetensors")["matrix"]
    assert q.p == 4
    one = bqq.decompose(npy, 1, steps=300, effort="fast")  # the demo's own default
    np.testing.assert_array_equal(q.Y[:, :, :1], one.Y)
    variance = npy.astype(np.float64).var(ddof=1)
    uniform = uniform_quantisation(npy, 1)
    uniform_mse = np.square(npy - uniform).mean() / variance
    error = np.linalg.norm(npy - uniform) / np.linalg.norm(npy.astype(np.float64))
    assert rows[0][3:6] == [
        f"{one.bits_per_weight:.2f}",
        f"{100 * one.error(npy):.2f}",
        f"{one.mse(npy) / variance:.3g}",
    ]
    assert rows[0][7:] == [
        f"{uniform_bytes(npy.size, 1) / 1000:.1f}",
        f"{100 * error:.2f}",
        f"{uniform_mse:.3g}",
        f"{uniform_mse * variance / one.mse(npy):.2f}",
    ]
    width, height = png_size(tmp_path / "new/dir/bqq-demo.png")
    assert 1200 <= width <= 2400
    assert 600 <= height <= 3600


def test_demo_of_the_photo(tmp_path: Path) -> None:
    out = run("demo", "--bits", "1", "--patch", "32", "--steps", "50", "--quiet", cwd=tmp_path)
    assert "600x512, 1,228.8 KB as float32" in out
    assert bqq.load(tmp_path / "bqq-demo.safetensors")["matrix"].shape == (600, 512)
    assert png_size(tmp_path / "bqq-demo.png")[0] >= 1200


def test_demo_cuts_images_into_smaller_blocks(tmp_path: Path) -> None:
    run("demo", "--bits", "1", "--effort", "fast", "--steps", "5", "--refine", "0", "--quiet", cwd=tmp_path)
    assert max(bqq.load(tmp_path / "bqq-demo.safetensors")["matrix"].patch) == 128


def test_demo_takes_the_red_channel(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    red = np.add.outer(np.arange(12), np.arange(10)).astype(np.uint8) * 5
    rgb = np.stack([red, red * 0, 255 - red], axis=-1)
    image.fromarray(rgb).save(tmp_path / "rgb.png")
    image.fromarray(red).save(tmp_path / "grey.png")
    np.save(tmp_path / "w.npy", red)
    files = []
    for name in ("rgb.png", "grey.png", "w.npy"):
        run("demo", name, "--bits", "2", *SMALL, cwd=tmp_path)
        files.append((tmp_path / "bqq-demo.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]


def test_demo_of_a_tensor(tmp_path: Path, model: Tensors) -> None:
    out = run("demo", "model.safetensors", "--bits", "1", *SMALL, cwd=tmp_path)
    assert out.startswith("model.safetensors, a.weight: 16x24")
    out = run("demo", "model.safetensors:c.weight", "--bits", "1", *SMALL, cwd=tmp_path)
    assert out.startswith("model.safetensors, c.weight: 12x10")
    err = run("demo", "model.safetensors:ids", cwd=tmp_path, code=2)
    assert "'ids' is no 2-D floating-point tensor" in err
    err = run("demo", "model.safetensors:nope", cwd=tmp_path, code=2)
    assert "'nope' is not in the file" in err


def test_demo_of_a_constant(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.full((5, 9), 3.0))
    rows = table_rows(run("demo", "c.npy", "--bits", "1,2", *SMALL, cwd=tmp_path))
    assert [row[4] for row in rows] == ["0.00", "0.00"]
    assert (tmp_path / "bqq-demo.png").exists()


def test_demo_without_matplotlib(tmp_path: Path, npy: Dense) -> None:
    for package in ("matplotlib", "PIL"):
        folder = tmp_path / "path" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('hidden')")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "path")}
    process = start("demo", "w.npy", "--bits", "1", *SMALL, cwd=tmp_path, env=env)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "bqq: no picture without matplotlib: pip install 'bqq[plot]'\n"
    assert len(table_rows(out)) == 1
    assert (tmp_path / "bqq-demo.safetensors").exists()
    assert not (tmp_path / "bqq-demo.png").exists()
    assert "pip install 'bqq[plot]'" in run("demo", cwd=tmp_path, code=2, env=env)
    (tmp_path / "x.png").write_bytes(b"")
    assert "pip install 'bqq[plot]'" in run("demo", "x.png", cwd=tmp_path, code=2, env=env)


def test_a_wrong_isa_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", np.ones((4, 4)))
    done = subprocess.run(
        [sys.executable, "-m", "bqq", "compress", "w.npy", "w.safetensors", "--bits", "1"],
        cwd=tmp_path,
        env={**os.environ, "BQQ_ISA": "abacus"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bqq: error: BQQ_ISA is 'abacus'")
    assert done.stderr.count("\n") == 1


# --- uniform quantisation ---


def brute_force(W: Any, bits: int, grid: int) -> tuple[float, Any]:
    best, chosen = np.inf, W
    for low in np.linspace(W.min(), W.mean(), grid):
        for high in np.linspace(W.mean(), W.max(), grid):
            levels = np.linspace(low, high, 2**bits)
            nearest = np.abs(W[..., None] - levels).argmin(axis=-1)
            error = np.square(W - levels[nearest]).mean()
            if error < best:
                best, chosen = error, levels[nearest]
    return best, chosen


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_uniform_quantisation_is_the_best_of_the_grid(bits: int) -> None:
    W = np.random.default_rng(bits).standard_gamma(2.0, (7, 5)) + 10
    error, expected = brute_force(W, bits, 20)
    result = uniform_quantisation(W, bits, 20)
    assert np.square(W - result).mean() == pytest.approx(error, rel=1e-9)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert len(np.unique(result.round(9))) <= 2**bits


@pytest.mark.parametrize(("bits", "mse"), [(1, 0.3634), (2, 0.1188)])
def test_uniform_quantisation_of_a_gaussian(bits: int, mse: float) -> None:
    W = np.random.default_rng(0).standard_normal((1000, 1000))
    assert np.square(W - uniform_quantisation(W, bits)).mean() == pytest.approx(mse, rel=5e-3)


def test_uniform_quantisation_of_a_constant() -> None:
    W = np.full((3, 4), -2.5, np.float32)
    np.testing.assert_array_equal(uniform_quantisation(W, 2), W)


def test_uniform_bytes() -> None:
    assert uniform_bytes(128 * 128, 2) == 4096 + 8
    assert uniform_bytes(3, 3) == 2 + 8
