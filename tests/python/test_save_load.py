"""Files: what goes in comes out, other readers agree."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import dense, random_matrix, same

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("v*.safetensors"))
NUMPY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
NAMES = ["w", "layer.0.weight", "a/b\\c", "ünï—😀", 'q"uo\nte', " ", "bqq", "a.bqq_yy", "x" * 500]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


def round_trip(path, items, **options):
    bqq.save(path, items, **options)
    loaded = bqq.load(path)
    assert sorted(loaded) == sorted(items)
    return loaded


def header_of(data):
    (size,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + size])


def with_header(data, header):
    """The file with another header over the same tensor data."""
    (size,) = struct.unpack_from("<Q", data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


# --- round trips ---


@pytest.mark.parametrize(
    "q",
    [
        random_matrix(1, 1, p=1, l=1),
        random_matrix(30, 41, p=3, l=17),
        random_matrix(13, 20, J=3, K=3, p=2, l=9),
        random_matrix(64, 64, p=64, l=8),
    ],
    ids=repr,
)
def test_matrix(path, q):
    loaded = round_trip(path, {"w": q, "t": q.T})
    assert same(loaded["w"], q)
    assert same(loaded["t"], q.T)
    x = np.ones(q.shape[1])
    np.testing.assert_array_equal(loaded["w"] @ x, q @ x)
    assert os.path.getsize(path) < 2 * q.nbytes + 2000


def test_a_single_matrix_is_called_matrix(path):
    q = random_matrix(5, 4)
    bqq.save(path, q)
    (loaded,) = bqq.load(path).items()
    assert loaded[0] == "matrix"
    assert same(loaded[1], q)


@pytest.mark.parametrize("dtype", [*NUMPY_DTYPES, ">f4", ">i2", ">u8"])
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3), (2, 1, 3, 2)])
def test_arrays(path, dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    loaded = round_trip(path, {"x": values, "w": random_matrix(3, 5)})["x"]
    assert loaded.dtype == values.dtype.newbyteorder("=")
    assert loaded.shape == shape
    np.testing.assert_array_equal(loaded, values)
    loaded[...] = 0  # one's own, not the file's
    np.testing.assert_array_equal(bqq.load(path)["x"], values)


def test_complex64(path):
    """The format has C64 and NumPy has complex64."""
    x = np.array([[1 + 2j, 3]], np.complex64)
    np.testing.assert_array_equal(round_trip(path, {"x": x})["x"], x)


def test_special_values_keep_their_bits(path):
    x = np.array([np.nan, np.inf, -0.0, 5e-324], np.float64)
    x.view(np.uint64)[0] |= 12345
    assert round_trip(path, {"x": x})["x"].tobytes() == x.tobytes()


def test_layout_of_the_array_does_not_matter(path):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    for form in (x[::-1, ::2], x.T, np.asfortranarray(x), np.broadcast_to(x[0], (3, 6))):
        np.testing.assert_array_equal(round_trip(path, {"x": form})["x"], form)
    np.testing.assert_array_equal(round_trip(path, {"x": [[1, 2], [3, 4]]})["x"], [[1, 2], [3, 4]])
    assert round_trip(path, {"x": 2.5})["x"] == 2.5


FLOAT8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("BF16", 16),
        *((name, 8) for name in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("F4", 4),
    ],
)
def test_raw_tensors(path, dtype, bits):
    raw = bqq.RawTensor(dtype, (4, 3), np.arange(12 * bits // 8, dtype=np.uint8))
    for again in (round_trip(path, {"x": raw})["x"], round_trip(path, bqq.load(path))["x"]):
        assert isinstance(again, bqq.RawTensor)
        assert (again.dtype, again.shape) == (dtype, (4, 3))
        assert again.data.tobytes() == raw.data.tobytes()
        assert "RawTensor" in repr(again)
    if dtype == "BF16":
        wide = raw.data.view("<u2").astype(np.uint32) << 16
        values = np.asarray(raw)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, wide.view(np.float32).reshape(4, 3))
        assert np.asarray(raw, np.float64).dtype == np.float64
    elif dtype in FLOAT8:
        assert np.asarray(raw).dtype == np.float32
        assert np.asarray(raw, np.float64).dtype == np.float64
    else:
        with pytest.raises(TypeError, match=dtype):
            np.asarray(raw)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_eight_bit_floats_have_the_values_of_ml_dtypes(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8)
    want = codes.view(getattr(ml_dtypes, FLOAT8[dtype])).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(bqq.RawTensor(dtype, (256,), codes)), want)


def test_raw_tensors_compare():
    make = lambda value: bqq.RawTensor("BF16", (2,), np.full(4, value, np.uint8))  # noqa: E731
    assert make(1) == make(1)
    assert make(1) != make(2)
    assert make(1) != "BF16"


def test_bfloat16_of_ml_dtypes(path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(12).reshape(3, 4).astype(ml_dtypes.bfloat16)
    for form in (x, x.T, x[::2], x[:0], x[0, 0]):
        loaded = round_trip(path, {"x": form})["x"]
        assert isinstance(loaded, bqq.RawTensor)
        assert loaded.dtype == "BF16"
        np.testing.assert_array_equal(np.asarray(loaded), np.asarray(form).astype(np.float32))


def test_torch(path):
    torch = pytest.importorskip("torch")
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    for dtype in ("float64", "float32", "float16", "int64", "uint8", "bool", "bfloat16"):
        for form in (x, x.T, x[:0], x[0, 0], torch.nn.Parameter(x)):
            tensor = form.to(getattr(torch, dtype))
            loaded = round_trip(path, {"x": tensor})["x"]
            assert isinstance(loaded, bqq.RawTensor) == (dtype == "bfloat16")
            np.testing.assert_array_equal(np.asarray(loaded), tensor.detach().float().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_names(path, name):
    q, x = random_matrix(3, 4), np.arange(3)
    assert same(round_trip(path, {name: q, name + "'": x})[name], q)
    np.testing.assert_array_equal(round_trip(path, {name: x, name + "'": q})[name], x)


def test_many_tensors(path):
    items: dict[str, Any] = {f"layer.{i}": random_matrix(3, 4, seed=i) for i in range(50)}
    items |= {f"bias.{i}": np.full(i, i, np.float32) for i in range(50)}
    loaded = round_trip(path, items)
    assert all(same(loaded[f"layer.{i}"], items[f"layer.{i}"]) for i in range(50))
    assert all(np.array_equal(loaded[f"bias.{i}"], items[f"bias.{i}"]) for i in range(50))
    assert round_trip(path, {}) == {}


def test_order_does_not_matter(path):
    items = {"b": random_matrix(3, 4), "a": np.arange(3), "c": np.ones(2)}
    bqq.save(path, items, metadata={"k": "v", "a": "b"})
    first = path.read_bytes()
    bqq.save(path, dict(reversed(items.items())), metadata={"a": "b", "k": "v"})
    assert path.read_bytes() == first


def test_scales_float16(path):
    q = random_matrix(30, 41, J=2, p=3, l=17)
    loaded = round_trip(path, {"w": q}, scales="float16")["w"]
    np.testing.assert_array_equal(loaded.Y, q.Y)
    np.testing.assert_array_equal(loaded.scales, q.scales.astype(np.float16).astype(np.float32))
    assert header_of(path.read_bytes())["w.bqq_scales"]["dtype"] == "F16"
    assert same(round_trip(path, {"w": loaded}, scales="float16")["w"], loaded)
    small = path.stat().st_size
    bqq.save(path, {"w": q})
    assert path.stat().st_size == small + 2 * q.scales.size


def test_paths(tmp_path):
    q = random_matrix(3, 4)

    class Fancy:
        def __fspath__(self):
            return str(tmp_path / "fancy")

    names = [Fancy(), str(tmp_path / "str"), tmp_path / "ünï 😀", os.fsencode(tmp_path / "bytes")]
    for name in names:
        bqq.save(name, q)
        assert same(bqq.load(name)["matrix"], q)
    assert len(list(tmp_path.iterdir())) == len(names)


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="any bytes")
def test_path_that_is_no_unicode(tmp_path):
    """os.listdir gives such names with surrogate escapes."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    q = random_matrix(3, 4)
    bqq.save(name, q)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]
    assert same(bqq.load(name)["matrix"], q)


def test_missing_file_is_the_usual_exception(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        bqq.load(tmp_path / "missing")
    assert "missing" in str(caught.value)


def test_a_failed_save_leaves_the_old_file(path):
    bqq.save(path, {"w": random_matrix(3, 4)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        bqq.save(path, {"w": random_matrix(3, 4), "x": object()})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_file_is_not_replaced(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    for name in (path, "/dev/null"):
        with pytest.raises(OSError, match="not a regular file"):
            bqq.save(name, random_matrix(3, 4))
        for read in (bqq.load, bqq.open):
            with pytest.raises(OSError, match="not a regular file"):
                read(name)
    assert path.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["fifo"]


def test_errors_of_the_system_are_the_usual_exceptions(tmp_path):
    for call in (bqq.load, bqq.open, lambda path: bqq.save(path, random_matrix(3, 4))):
        with pytest.raises(FileNotFoundError) as caught:
            call(tmp_path / "missing" / "w")
        assert caught.value.filename == tmp_path / "missing" / "w"


def test_saving_over_a_loaded_file(path):
    q, x = random_matrix(30, 40, p=2, l=20), np.arange(1000.0)
    bqq.save(path, {"w": q, "x": x})
    loaded = bqq.load(path)
    bqq.save(path, {"y": np.zeros(1)})
    assert same(loaded["w"], q)
    np.testing.assert_array_equal(loaded["x"], x)


def test_readers_see_the_old_or_the_new_file(path):
    """One thread replaces the file again and again while another reads it."""
    matrices = [random_matrix(64, 48, p=2, l=30, seed=seed) for seed in range(2)]
    bqq.save(path, matrices[0])
    stop = threading.Event()

    def write():
        i = 0
        while not stop.is_set():
            i ^= 1
            bqq.save(path, matrices[i])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            loaded = bqq.load(path)["matrix"]
            assert any(same(loaded, q) for q in matrices)
    finally:
        stop.set()
        writer.join()


# --- metadata and other readers ---


def test_metadata(path):
    metadata = {"note": "ünï", "empty": "", 'q"uote': "a\nb", "bqq_note": "mine"}
    bqq.save(path, {"w": random_matrix(3, 4)}, metadata=metadata)
    stored = header_of(path.read_bytes())["__metadata__"]
    assert stored.keys() == metadata.keys() | {"bqq", "bqq.w"}
    assert metadata.items() <= stored.items()
    assert stored["bqq"] == "1"


def test_metadata_comes_back(path):
    metadata = {"format": "pt", "note": "ünï\0", "": "empty"}
    bqq.save(path, {"w": random_matrix(3, 4), "x": np.arange(3)}, metadata=metadata)
    first = path.read_bytes()
    loaded = bqq.load(path)
    assert isinstance(loaded, dict)
    assert loaded.metadata == metadata
    bqq.save(path, loaded)
    assert path.read_bytes() == first
    with bqq.open(path) as file:
        assert file.metadata == metadata
        bqq.save(path, file)
    assert path.read_bytes() == first
    bqq.save(path, loaded, metadata={"other": "1"})
    assert bqq.load(path).metadata == {"other": "1"}
    bqq.save(path, loaded, metadata={})
    assert bqq.load(path).metadata == {}
    bqq.save(path, dict(loaded))
    assert bqq.load(path).metadata == {}
    again = pickle.loads(pickle.dumps(loaded))
    assert isinstance(again, bqq.Tensors)
    assert again.metadata == metadata


def test_null_for_no_metadata(path):
    """The format's own reader takes it."""
    bqq.save(path, {"x": np.arange(3)})
    header = header_of(path.read_bytes())
    header["__metadata__"] = None
    path.write_bytes(with_header(path.read_bytes(), header))
    assert bqq.load(path).metadata == {}
    np.testing.assert_array_equal(bqq.load(path)["x"], np.arange(3))


def test_the_safetensors_package_reads_our_files(path):
    numpy_api = pytest.importorskip("safetensors.numpy")
    from safetensors import safe_open

    q, x = random_matrix(13, 20, J=3, K=3, p=2, l=9), np.arange(6.0).reshape(2, 3)
    bqq.save(path, {"w": q, "x": x, "empty": np.zeros((0, 2))}, metadata={"note": "v"})
    tensors = numpy_api.load_file(path)
    assert {name: (t.shape, str(t.dtype)) for name, t in tensors.items()} == {
        "w.bqq_y": ((3, 3, 2, 5, 2), "uint8"),
        "w.bqq_z": ((3, 3, 2, 9, 1), "uint8"),
        "w.bqq_scales": ((3, 3, 7), "float32"),
        "x": ((2, 3), "float64"),
        "empty": ((0, 2), "float64"),
    }
    np.testing.assert_array_equal(tensors["x"], x)
    np.testing.assert_array_equal(tensors["w.bqq_scales"], q.scales)
    np.testing.assert_array_equal(np.unpackbits(tensors["w.bqq_y"], axis=-1, count=9, bitorder="little"), q.Y)
    with safe_open(path, "np") as file:
        assert file.metadata()["note"] == "v"
        assert json.loads(file.metadata()["bqq.w"])["shape"] == [13, 20]


def test_we_read_files_of_the_safetensors_package(path):
    numpy_api = pytest.importorskip("safetensors.numpy")
    arrays = {f"x.{d}": np.arange(6).reshape(2, 3).astype(d) for d in NUMPY_DTYPES}
    numpy_api.save_file(arrays, path, metadata={"format": "np"})
    loaded = bqq.load(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


def test_matrices_survive_the_safetensors_package(path):
    """Read and written again by the other library: another order, the same matrices."""
    numpy_api = pytest.importorskip("safetensors.numpy")
    q = random_matrix(13, 20, J=3, K=3, p=2, l=9)
    bqq.save(path, {"w": q, "bias": np.ones(3, np.float16)})
    metadata = header_of(path.read_bytes())["__metadata__"]
    numpy_api.save_file(numpy_api.load_file(path), path, metadata=metadata)
    assert same(bqq.load(path)["w"], q)


def test_the_reader_of_the_format_page(path):
    pytest.importorskip("safetensors")
    page = (ROOT / "cpp" / "FORMAT.md").read_text("utf-8")
    namespace: dict[str, Any] = {}
    exec(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)[0], namespace)
    q = random_matrix(13, 20, J=3, K=3, p=2, l=9)
    for scales in ("float32", "float16"):
        bqq.save(path, {"w": q}, scales=scales)
        expected = dense(bqq.load(path)["w"])
        np.testing.assert_allclose(namespace["load"](path, "w"), expected, rtol=1e-12, atol=1e-12)


# --- golden files ---


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda p: p.name)
def test_golden_files_load(golden, path):
    loaded = bqq.load(golden)
    matrices = {name: q for name, q in loaded.items() if isinstance(q, bqq.Matrix)}
    assert matrices
    for q in matrices.values():
        np.testing.assert_allclose(q.reconstruct(), dense(q), rtol=1e-6, atol=1e-6)
    metadata = header_of(golden.read_bytes())["__metadata__"]
    own = {key: v for key, v in metadata.items() if key != "bqq" and not key.startswith("bqq.")}
    bqq.save(path, loaded, metadata=own)
    assert path.read_bytes() == golden.read_bytes()


def test_golden_file_of_version_1():
    if not GOLDEN:
        pytest.skip("no golden files")
    loaded = bqq.load(GOLDEN[0])
    blocks, tiny = loaded["layer.blocks"], loaded["tiny"]
    assert (blocks.shape, blocks.grid, blocks.p, blocks.l) == ((7, 10), (2, 3), 2, 9)
    assert (tiny.shape, tiny.grid, tiny.p, tiny.l) == ((3, 5), (1, 1), 1, 2)
    assert loaded["bias"].dtype == np.float32


def test_example_of_the_format_page(path):
    """The page's bytes are the library's bytes."""
    page = (ROOT / "cpp" / "FORMAT.md").read_text("utf-8")
    lines = re.findall(r"^[0-9a-f]{8}  ([0-9a-f ]{47,48}) ?\s*\|", page, re.M)
    Y, Z = [[[1, 0], [0, 1], [1, 1]]], [[[1, 1, 0, 0, 1], [0, 1, 1, 0, 1]]]
    q = bqq.Matrix.from_factors(Y, Z, [0.5, -0.25, 0.125, 1])
    bqq.save(path, {"w": q})
    assert path.read_bytes() == bytes.fromhex("".join(lines))


# --- anything ---


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
shapes = st.lists(st.integers(0, 4), max_size=4)
arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 100, shape).astype(dtype),
    st.sampled_from(NUMPY_DTYPES),
    shapes,
    st.integers(0, 99),
)
matrices = st.builds(
    lambda m, n, p, l, seed: random_matrix(m, n, p=p, l=l, seed=seed),
    *[st.integers(1, 20)] * 2,
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(0, 99),
)


@settings(max_examples=100)
@given(
    items=st.dictionaries(names.filter(lambda s: s != "__metadata__" and ".bqq_" not in s), arrays | matrices),
    metadata=st.dictionaries(
        names.filter(lambda s: s != "bqq" and not s.startswith("bqq.")),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
)
def test_any_content(tmp_path_factory, items, metadata):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    loaded = round_trip(path, items, metadata=metadata)
    for name, value in items.items():
        if isinstance(value, bqq.Matrix):
            assert same(loaded[name], value)
        else:
            assert loaded[name].dtype == value.dtype
            np.testing.assert_array_equal(loaded[name], value)
    assert metadata.items() <= header_of(path.read_bytes())["__metadata__"].items()


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_eight_bit_floats_keep_their_bytes(path, name):
    stored = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"}
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    tensor = torch.tensor([[1.0, 2.0, 0.5], [4.0, 8.0, 0.25]]).to(getattr(torch, name))
    array = np.array([[1.0, 2.0, 0.5], [4.0, 8.0, 0.25]]).astype(getattr(ml_dtypes, name))
    bqq.save(path, {"t": tensor, "transposed": tensor.T, "a": array, "scalar": tensor[0, 1]})
    loaded = bqq.load(path)
    dtype = stored.get(name, "F8_" + name.removeprefix("float8_").upper())
    assert {key: (t.dtype, t.shape) for key, t in loaded.items()} == {
        "t": (dtype, (2, 3)),
        "transposed": (dtype, (3, 2)),
        "a": (dtype, (2, 3)),
        "scalar": (dtype, ()),
    }
    np.testing.assert_array_equal(loaded["t"].data, array.view(np.uint8).ravel())
    np.testing.assert_array_equal(loaded["t"].data, loaded["a"].data)
    np.testing.assert_array_equal(loaded["transposed"].data, array.T.copy().view(np.uint8).ravel())
    assert loaded["scalar"].data == array.view(np.uint8)[0, 1]
