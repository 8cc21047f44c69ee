"""bqq.open: what stays in the file, what is checked when, and what outlives what."""

from __future__ import annotations

import gc
import os
import re
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqq
from conftest import dense, finish, random_matrix, same, start_python

Q = random_matrix(30, 41, J=2, K=2, p=3, l=17)
ARRAY = np.arange(6.0).reshape(2, 3)
RAW = bqq.RawTensor("BF16", (2,), np.arange(4, dtype=np.uint8))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    bqq.save(path, {"q": Q, "x": ARRAY, "raw": RAW, "empty": np.zeros((0, 2))}, metadata={"format": "pt"})
    return path


def test_a_mapping_of_names(path: Path) -> None:
    file = bqq.open(path)
    assert isinstance(file, bqq.File)
    assert file.names() == list(file) == list(file.keys()) == ["empty", "q", "raw", "x"]
    assert len(file) == 4
    assert "q" in file
    assert "Q" not in file
    assert file.get("Q") is None
    with pytest.raises(KeyError, match="Q"):
        file["Q"]
    assert same(file["q"], Q)
    np.testing.assert_array_equal(file["x"], ARRAY)
    assert file["raw"] == RAW
    assert file["empty"].shape == (0, 2)
    assert file.metadata == {"format": "pt"}
    assert file.sizes == {"empty": 0, "q": Q.nbytes, "raw": 4, "x": 48}
    assert dict(file).keys() == {"empty", "q", "raw", "x"}
    assert re.fullmatch(r"bqq\.File\('.*w\.safetensors', 4 names, \d+ bytes\)", repr(file))


def test_sizes_are_those_of_the_file(path: Path) -> None:
    bqq.save(path, {"q": Q}, scales="float16")
    assert bqq.open(path).sizes == {"q": Q.nbytes - 2 * Q.scales.size}


def test_the_same_matrix_as_long_as_it_is_held(path: Path) -> None:
    file = bqq.open(path)
    first = file["q"]
    assert file["q"] is first
    x = np.ones(41, np.float32)
    np.testing.assert_array_equal(file["q"] @ x, Q @ x)
    np.testing.assert_array_equal(np.ones(30, np.float32) @ file["q"], np.ones(30, np.float32) @ Q)
    np.testing.assert_allclose(file["q"].T.reconstruct(), dense(Q).T, rtol=1e-6, atol=1e-6)


def test_arrays_are_read_only_views(path: Path) -> None:
    x = bqq.open(path)["x"]
    assert not x.flags.owndata
    assert not x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1
    assert not bqq.open(path)["raw"].data.flags.writeable


def test_arrays_that_are_not_aligned_are_copies(path: Path) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    path.write_bytes(struct.pack("<Q", size + 1) + data[8:9] + b" " + data[9:])
    for read, writeable in ((bqq.open, False), (bqq.load, True)):
        tensors: Any = read(path)
        assert same(tensors["q"], Q)
        assert tensors["x"].flags.aligned
        assert tensors["x"].flags.writeable == writeable
        np.testing.assert_array_equal(tensors["x"], ARRAY)


def test_after_closing(path: Path) -> None:
    with bqq.open(path) as file:
        q, x, raw = file["q"], file["x"], file["raw"]
    for name in ("q", "x", "Q"):
        with pytest.raises(ValueError, match="closed"):
            file[name]
    file.close()
    assert "closed" in repr(file)
    assert file.names() == ["empty", "q", "raw", "x"]
    assert file.metadata == {"format": "pt"}
    del file
    gc.collect()
    path.unlink()
    assert same(q, Q)  # the planes come from the mapping, which is still there
    np.testing.assert_array_equal(q @ np.ones(41), Q @ np.ones(41))
    np.testing.assert_array_equal(x, ARRAY)
    assert raw == RAW


def test_replacing_the_file_is_harmless(path: Path) -> None:
    file = bqq.open(path)
    x = file["x"]
    bqq.save(path, {"y": np.zeros(1)})
    assert same(file["q"], Q)
    np.testing.assert_array_equal(x, ARRAY)
    bqq.save(path, file)  # and what is open saves over itself
    assert same(bqq.load(path)["q"], Q)


def test_what_was_loaded_may_be_cut_short(path: Path) -> None:
    loaded = bqq.load(path)
    os.truncate(path, 0)
    assert same(loaded["q"], Q)
    np.testing.assert_array_equal(loaded["x"], ARRAY)


def test_damage_is_found_when_the_matrix_is_asked_for(path: Path) -> None:
    bqq.save(path, {"a": Q, "b": Q})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last plane of b
    path.write_bytes(data)
    file = bqq.open(path)
    assert same(file["a"], Q)
    for _ in range(2):
        with pytest.raises(bqq.FormatError, match='"b": the checksum does not match'):
            file["b"]
    with pytest.raises(bqq.FormatError, match='"b"'):
        bqq.load(path)


def test_a_truncated_file_is_refused_at_once(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(bqq.FormatError, match="truncated"):
        bqq.open(path)


def test_many_threads(path: Path) -> None:
    for _ in range(20):
        file = bqq.open(path)
        seen: list[bqq.Matrix] = []
        threads = [threading.Thread(target=lambda file=file, seen=seen: seen.append(file["q"])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 8
        assert all(q is seen[0] for q in seen)


MEMORY = """
import bqq, numpy as np, sys
def resident(what):
    total = 0
    with open("/proc/self/smaps") as f:
        for line in f:
            fields = line.split()
            if "-" in fields[0] and not fields[0].endswith(":"):
                mapped = line.rstrip().endswith("w.safetensors")
            elif fields[0] == "Rss:" and mapped == what:
                total += int(fields[1]) * 1024
    return total
X = np.ones((4, 4096), np.float32)
small = bqq.open(sys.argv[2])["q"]
X[:, :64] @ small  # threads and their workspaces
before = resident(False), resident(True)
file = bqq.open(sys.argv[1])
opened = resident(False), resident(True)
q = file["q"]
checked = resident(False), resident(True)
y = X @ q
used = resident(False), resident(True)
print(*(b - a for a, b in zip(before, opened)), *(b - a for a, b in zip(opened, checked)),
      *(b - a for a, b in zip(checked, used)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_product_from_a_file(tmp_path: Path) -> None:
    """Planes once in the mapping, once prepared, nothing more."""
    rng = np.random.default_rng(0)
    side, blocks, p, l = 4096, 16, 4, 128
    Y = rng.integers(0, 256, (blocks, blocks, p, side // blocks, l // 8), np.uint8)
    Z = rng.integers(0, 256, (blocks, blocks, p, l, side // blocks // 8), np.uint8)
    scales = rng.standard_normal((blocks, blocks, 3 * p + 1)).astype(np.float32)
    big = bqq.Matrix(bqq._core.Matrix(side, side, Y, Z, scales))
    names = [tmp_path / "big" / "w.safetensors", tmp_path / "small"]
    names[0].parent.mkdir()
    bqq.save(names[0], {"q": big})
    bqq.save(names[1], {"q": random_matrix(64, 64, p=4)})
    code = f"import sys; sys.argv[1:] = {[str(name) for name in names]!r}\n{MEMORY}"
    numbers = [int(word) for word in finish(start_python(code)).split()]
    opened, opened_mapped, checked, checked_mapped, used, used_mapped = numbers
    planes = Y.nbytes + Z.nbytes
    assert planes > 8e6
    # opening touches the header, checking maps the planes, a product prepares them once: 1.01 times their size,
    # beside partial results of the threads
    assert opened < 1e6
    assert opened_mapped < 1e6
    assert checked < 1e6
    assert 0.9 * planes < checked_mapped < 1.1 * planes
    assert 0.9 * planes < used < 1.4 * planes
    assert used_mapped < 0.1 * planes
