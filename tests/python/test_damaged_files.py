"""Damaged files: refused with a FormatError, whatever the bytes."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import random_matrix, same
from test_save_load import header_of, with_header

SAMPLE = random_matrix(7, 10, J=2, K=3, p=2, l=9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "w.safetensors"
    items = {"w": SAMPLE, "x": np.arange(5, dtype=np.float32)}
    bqq.save(path, items, metadata={"note": "v"})
    return path.read_bytes()


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(bqq.FormatError) as caught:
        bqq.load(path)
    assert path.name in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_truncated(path, good):
    for size in {*range(0, len(good), 7), *range(20), len(good) - 1}:
        refused(path, good[:size])
    refused(path, good + b"\0")


def test_flipped_bits(path, good):
    """Every bit of a matrix and its record is guarded; elsewhere a flip must not crash."""
    (size,) = struct.unpack_from("<Q", good)
    header, base = header_of(good), 8 + size
    guarded = [
        range(base + begin, base + end)
        for name, entry in header.items()
        if name.startswith("w.")
        for begin, end in [entry["data_offsets"]]
    ]
    for at in (at for places in guarded for at in places):
        refused(path, good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
    for at in range(base):
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        try:
            loaded = bqq.load(path)
        except bqq.FormatError:
            continue
        assert all(same(q, SAMPLE) for q in loaded.values() if isinstance(q, bqq.Matrix))


def edits():
    """Changes of the header that make it wrong."""

    def entry(name, **changes):
        return lambda header: header[name].update(changes)

    def record(**changes):
        def edit(header):
            fields = json.loads(header["__metadata__"]["bqq.w"]) | changes
            header["__metadata__"]["bqq.w"] = json.dumps(fields)

        return edit

    return {
        "dtype": entry("w.bqq_y", dtype="I8"),
        "unknown dtype": entry("x", dtype="F7"),
        "shape": entry("w.bqq_z", shape=[1]),
        "negative shape": entry("x", shape=[-5]),
        "huge shape": entry("x", shape=[2**62, 2**62]),
        "float shape": entry("x", shape=[5.5]),
        "offsets reversed": entry("x", data_offsets=[20, 0]),
        "offsets outside": entry("x", data_offsets=[2**40, 2**40 + 20]),
        "offsets negative": entry("x", data_offsets=[-20, 0]),
        "offsets overlap": entry("x", data_offsets=[0, 20]),
        "offsets of three": entry("x", data_offsets=[0, 10, 20]),
        "no offsets": lambda h: h["x"].pop("data_offsets"),
        "missing plane": lambda h: h.pop("w.bqq_y"),
        "renamed plane": lambda h: h.update({"v.bqq_y": h.pop("w.bqq_y")}),
        "missing record": lambda h: h["__metadata__"].pop("bqq.w"),
        "record without planes": lambda h: h["__metadata__"].update({"bqq.v": h["__metadata__"]["bqq.w"]}),
        "missing version": lambda h: h["__metadata__"].pop("bqq"),
        "newer version": lambda h: h["__metadata__"].update(bqq="3"),
        "odd version": lambda h: h["__metadata__"].update(bqq="one"),
        "metadata of numbers": lambda h: h["__metadata__"].update(note=1),
        "no metadata": lambda h: h.pop("__metadata__"),
        "record is no JSON": lambda h: h["__metadata__"].update({"bqq.w": "{"}),
        "record of extras": record(extra=1),
        "p": record(p=1),
        "p zero": record(p=0),
        "p huge": record(p=2**63 - 1),
        "l": record(l=10),
        "shape of W": record(shape=[7, 9]),
        "huge W": record(shape=[2**40, 2**40]),
        "grid": record(grid=[3, 2]),
        "block": record(block=[4, 5]),
        "checksum": record(crc32="00000000"),
        "short checksum": record(crc32="0"),
    }


@pytest.mark.parametrize("name", edits())
def test_wrong_headers(path, good, name):
    header = header_of(good)
    edits()[name](header)
    refused(path, with_header(good, header))


def test_newer_version_says_so(path, good):
    header = header_of(good)
    header["__metadata__"]["bqq"] = "3"
    path.write_bytes(with_header(good, header))
    with pytest.raises(bqq.FormatError, match="newer"):
        bqq.load(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 100_000) + b'{"a":' * 20_000,
        struct.pack("<Q", 5) + b'{"\xff"',
        b"\x93NUMPY\x01\0" + b"\0" * 100,
    ],
    ids=range(10),
)
def test_no_container_at_all(path, data):
    refused(path, data)


@settings(max_examples=150)
@given(data=st.data())
def test_random_damage(tmp_path_factory, good, data):
    """Any handful of changed bytes: the same matrix, or a FormatError."""
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 8))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(changed)
    try:
        loaded = bqq.load(path)
    except bqq.FormatError:
        return
    assert all(same(q, SAMPLE) for q in loaded.values() if isinstance(q, bqq.Matrix))
