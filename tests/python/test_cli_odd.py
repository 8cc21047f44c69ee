"""The command line with odd input, odd streams and odd names: one line, the right exit code, no work lost."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqq
from test_cli import run

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")
W = np.random.default_rng(0).standard_normal((24, 20)).astype(np.float32)
FAST = ("--bits", "1", "--steps", "20", "--threads", "1", "--quiet")


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command in which BQQ stands for the program."""
    script = command.replace("BQQ", f"'{sys.executable}' -W error -m bqq")
    env = os.environ | environment
    return subprocess.run(["sh", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "w.npy", W)
    bqq.save(tmp_path / "m.safetensors", {"a.weight": W, "größe.weight": W, "\x1b[2J\nx": W[:2]})
    return tmp_path


def npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def zipped(path: Path) -> bytes:
    np.savez(path / "z.npz", W)
    return (path / "z.npz").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04xx", "zip file"),
        (zipped, "numpy.save"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (20, 20), }")[:40], "damaged"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (20, 20), }"), "damaged"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3), }"), "damaged"),
        (npy_header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3"), "damaged"),
        (npy_header(b"\xff\xfe{"), "damaged"),
        (npy_header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"\x80\x04.", "damaged"),
    ],
)
def test_files_that_are_no_arrays(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "x.npy").write_bytes(content(tmp_path) if callable(content) else content)
    for command in (("compress", "x.npy", "o.safetensors", "--bits", "1"), ("demo", "x.npy")):
        text = run(*command, cwd=tmp_path, code=2)
        assert "x.npy" in text
        assert words in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "x.png",
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", 20000, 20000) + b"\x08\2\0\0\0",
        ),
        ("x.dds", b"DDS " + struct.pack("<I", 124) + bytes(120)),
        ("x.gif", b"GIF89a\x01"),
        ("x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF"),
    ],
)
def test_images_that_pillow_refuses_its_own_way(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in run("demo", name, cwd=tmp_path, code=2)


def test_globs_before_the_files(folder: Path) -> None:
    run("compress", *FAST, "--only", "a*", "m.safetensors", "o.safetensors", cwd=folder)
    assert isinstance(bqq.load(folder / "o.safetensors")["a.weight"], bqq.Matrix)
    assert "required: IN, OUT" in run("compress", *FAST, "--only", "a*", cwd=folder, code=2)


def test_masks_pass_through(tmp_path: Path) -> None:
    lowest = np.triu(np.full((8, 8), np.finfo(np.float32).min, np.float32), 1)
    tensors = {"w": W, "mask": lowest, "z": np.where(lowest < 0, -np.inf, np.float32(0)).astype(np.float32)}
    bqq.save(tmp_path / "m.safetensors", tensors)
    out = run("compress", "m.safetensors", "o.safetensors", *FAST, cwd=tmp_path)
    assert "mask: has values below -1e+38" in out
    loaded = bqq.load(tmp_path / "o.safetensors")
    assert isinstance(loaded["w"], bqq.Matrix)
    for name in ("mask", "z"):
        np.testing.assert_array_equal(loaded[name], tensors[name])
    text = run("compress", "m.safetensors", "p.safetensors", *FAST, "--only", "mask", cwd=tmp_path, code=2)
    assert "tensor 'mask'" in text
    assert "1e+38" in text


def test_what_is_known_before_the_work(folder: Path) -> None:
    np.save(folder / "large.npy", W * 1e6)
    text = run("compress", "large.npy", "o.safetensors", *FAST, "--scales", "float16", cwd=folder, code=2)
    assert "use --scales float32" in text
    (folder / "d.safetensors").mkdir()
    assert "no file" in run("compress", "w.npy", "d.safetensors", *FAST, "--force", cwd=folder, code=2)
    header = json.dumps({"": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
    (folder / "n.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "no name" in run("compress", "n.safetensors", "o.safetensors", *FAST, cwd=folder, code=2)


def test_eight_bit_floats_are_named(tmp_path: Path) -> None:
    bqq.save(tmp_path / "m.safetensors", {"w": bqq.RawTensor("F8_E4M3", (2, 3), np.zeros(6, np.uint8))})
    told = run("compress", "m.safetensors", "o.safetensors", *FAST, cwd=tmp_path, code=2)
    assert "F8_E4M3" in told
    assert "folder" in told


@pytest.mark.parametrize("factors", ["w_scale_inv", "w_scale"])
def test_factors_of_eight_bit_floats_pass_through(factors: str, tmp_path: Path) -> None:
    W = np.random.default_rng(0).standard_normal((40, 40)).astype(np.float32)
    raw = bqq.RawTensor("F8_E5M2", (64, 64), np.zeros(4096, np.uint8))
    bqq.save(tmp_path / "m.safetensors", {"w": raw, factors: np.ones((1, 1), np.float32), "v": W})
    told = run("compress", "m.safetensors", "o.safetensors", *FAST, cwd=tmp_path)
    assert "w: of type F8_E5M2; left as it is" in told
    found = bqq.load(tmp_path / "o.safetensors")
    assert isinstance(found["v"], bqq.Matrix)
    assert found["w"] == raw
    np.testing.assert_array_equal(found[factors], np.ones((1, 1)))
    run("compress", "m.safetensors", "p.safetensors", *FAST, "--only", factors, cwd=tmp_path)
    assert isinstance(bqq.load(tmp_path / "p.safetensors")[factors], bqq.Matrix)


def test_consoles_that_lack_letters(folder: Path) -> None:
    for command in ("BQQ compress m.safetensors o.safetensors " + " ".join(FAST), "BQQ info o.safetensors"):
        done = shell(command, folder, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert r"gr\xf6\xdfe.weight" in done.stdout
        assert r"\x1b[2J\nx" in done.stdout
        assert "\x1b" not in done.stdout


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_streams(folder: Path, closed: str) -> None:
    done = shell(f"BQQ compress w.npy o.safetensors {' '.join(FAST[:-1])} {closed}", folder)
    assert done.returncode == 0
    assert bqq.load(folder / "o.safetensors")["matrix"].shape == W.shape


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full")
def test_a_full_stdout(folder: Path) -> None:
    done = shell(f"BQQ compress w.npy o.safetensors {' '.join(FAST)} >/dev/full", folder)
    assert done.returncode == 1
    assert done.stderr.startswith("bqq: error: ")
    assert done.stderr.count("\n") == 1
    assert bqq.load(folder / "o.safetensors")["matrix"].shape == W.shape


@posix
def test_paths_that_are_no_text(folder: Path) -> None:
    os.rename(os.fsencode(folder) + b"/w.npy", os.fsencode(folder) + b"/w\xff.npy")
    done = shell(f"BQQ compress w*.npy o.safetensors {' '.join(FAST)}", folder, PYTHONUTF8="1")
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_without_stderr() -> None:
    code = "import sys, numpy, bqq; sys.stderr = None; bqq.decompose(numpy.eye(9), 1, steps=5, progress=True)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_variables_that_tqdm_cannot_use(folder: Path) -> None:
    done = shell("BQQ compress w.npy o.safetensors --bits 1 --steps 20", folder, TQDM_NCOLS="wide")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "TQDM_NCOLS" in done.stderr
    assert not (folder / "o.safetensors").exists()
    assert shell("BQQ info m.safetensors", folder, TQDM_NCOLS="wide").returncode == 0


def test_suffixes_in_capitals(folder: Path) -> None:
    (folder / "w.npy").rename(folder / "W.NPY")
    run("compress", "W.NPY", "O.SAFETENSORS", *FAST, cwd=folder)
    assert "24x20" in run("info", "O.SAFETENSORS", cwd=folder)


@posix
@pytest.mark.parametrize("command", ["compress", "demo"])
@pytest.mark.parametrize("name", ["pipe.npy", "pipe.safetensors", "pipe.png"])
def test_pipes_are_not_waited_for(tmp_path: Path, command: str, name: str) -> None:
    if (command, name) == ("compress", "pipe.png"):
        pytest.skip("refused by its name")
    os.mkfifo(tmp_path / name)
    rest = ["out.safetensors", *FAST] if command == "compress" else ["--quiet"]
    assert "not a regular file" in run(command, name, *rest, cwd=tmp_path, code=2)
