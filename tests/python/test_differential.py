"""The reader of containers beside the package `safetensors`: what one takes the other takes, to the same bytes."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq

safetensors = pytest.importorskip("safetensors")

MANY = int(os.environ.get("BQQ_EXAMPLES", "1"))
BITS = {"BOOL": 8, "U8": 8, "I16": 16, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F4": 4}
NAMES = st.one_of(st.sampled_from(["a", "b", "a.b", "ü", "\u0000", "", " ", '"', "__metadata__"]), st.text(max_size=3))
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [-1, 0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, 1.0, 1e5, True, None, "1", [], {}]
)


@st.composite
def containers(draw: Any) -> bytes:
    """A file, right or nearly so."""
    header: dict[str, Any] = {}
    at = 0
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.one_of(st.dictionaries(NAMES, st.text(max_size=3), max_size=2), ODD))
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(st.lists(st.integers(0, 3), max_size=3))
        size = BITS[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size // 8]}
        at += size // 8
    for entry in header.values():
        if isinstance(entry, dict) and "shape" in entry and draw(st.integers(0, 4)) == 0:
            where = draw(st.sampled_from(["dtype", "shape", "data_offsets", "more", "element", "offset", "drop"]))
            if where == "element":
                entry["shape"] = [*entry["shape"], draw(ODD)]
            elif where == "offset":
                entry["data_offsets"][draw(st.integers(0, 1))] = draw(ODD)
            elif where == "drop":
                del entry[draw(st.sampled_from(sorted(entry)))]
            else:
                entry[where] = draw(ODD)
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0 and text:  # a byte is another one
        i = draw(st.integers(0, len(text) - 1))
        text = text[:i] + bytes([draw(st.sampled_from(b'"{}[],:\\ 09.eE-\t\n\x00\xff'))]) + text[i + 1 :]
    text += b" " * draw(st.integers(0, 9))
    length = len(text) + draw(st.sampled_from([0] * 8 + [-1, 1, 2**62, 10**8]))
    data = bytes(i % 251 for i in range(max(0, at + draw(st.sampled_from([0] * 8 + [-1, 1])))))
    return struct.pack("<Q", max(length, 0)) + text + data


def theirs(data: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        return {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in safetensors.deserialize(data)}
    except safetensors.SafetensorError:
        return None


def ours(path: Path, data: bytes) -> tuple[dict[str, tuple[str, list[int], bytes]] | None, str]:
    path.write_bytes(data)
    try:
        with bqq.open(path) as file:
            raw: Mapping[str, Any] = file._tensors
            return {name: (dtype, list(shape), bytes(b)) for name, (dtype, shape, b) in raw.items()}, ""
    except bqq.FormatError as error:
        return None, str(error)


# What bqq alone refuses: names that a C string cannot hold, keys that occur twice, sides that are no signed numbers.
STRICTER = ("contains NUL", "occurs twice", "nested deeper", "not below 2^63")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("differential") / "x.safetensors"


@settings(max_examples=600 * MANY, derandomize=MANY == 1)
@given(containers())
def test_same_as_the_package(path: Path, data: bytes) -> None:
    want, (got, error) = theirs(data), ours(path, data)
    if want is None:
        assert got is None, f"only the package refuses {data!r}"
    elif got is None:
        assert any(word in error for word in STRICTER), f"only bqq refuses {data!r}: {error}"
    else:
        assert got == want
