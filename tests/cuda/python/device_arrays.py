"""Arrays on a CUDA device through the public functions, on the emulated device.

Run by tests/python/test_cuda_arrays.py with the emulated module in place of the installed one.
"""

from __future__ import annotations

import gc
import pickle
import threading
import types
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bqq
from bqq import _core, _cuda
from conftest import dense, random_matrix, same
from fake_arrays import FAST, KINDS, LEGACY, FakeArray, FakeDLPack, dlpack, dlpack_versioned, free, interface, numbers

BATCHES = (0, 1, 2, 3, 5, 16, 17, 65)


def close(actual: Any, expected: npt.NDArray[Any], tolerance: float = 2e-5) -> None:
    """A result of ours on the device, against float64, relative to the norm."""
    assert isinstance(actual, _cuda.DeviceArray)
    assert actual.shape == expected.shape
    error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    assert error <= tolerance * np.linalg.norm(expected), error / np.linalg.norm(expected)


def to_bfloat16(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
    """The bits of x cut to bfloat16, and their values."""
    bits = (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)
    return bits, from_bfloat16(bits)


def from_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


# --- products ---


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("grid", [{}, {"J": 3, "K": 2}])
def test_products(batch, grid):
    """q @ X, X @ q and those of the transpose, of matrices and of vectors."""
    q = random_matrix(50, 37, p=2, l=19, **grid)
    W = dense(q)
    right, left = numbers((37, batch)), numbers((batch, 50), 1)
    close(q @ FakeArray(right), W @ right)
    close(FakeArray(left) @ q, left @ W)
    close(q.T @ FakeArray(left.T), W.T @ left.T)
    close(FakeArray(right.T) @ q.T, right.T @ W.T)
    if batch:
        close(q @ FakeArray(right[:, 0]), W @ right[:, 0])
        close(FakeArray(left[0]) @ q, left[0] @ W)


@pytest.mark.parametrize(("m", "n", "p", "l"), [(1, 1, 1, 1), (7, 129, 3, 8), (129, 7, 2, 65), (33, 20, 5, 40)])
@pytest.mark.parametrize("offset", [0, 1000])
def test_shapes_and_offsets(m, n, p, l, offset):
    q = random_matrix(m, n, p=p, l=l)
    x = numbers((n, 4)) + np.float32(offset)
    close(q @ FakeArray(x), dense(q) @ x.astype(np.float64))


@KINDS
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_dtypes(kind, dtype):
    q = random_matrix(21, 13, J=2, p=2, l=5)
    x = numbers((13, 6)).astype(dtype)
    y = q @ kind(x)
    assert y.dtype == ("f8" if dtype == "f8" else "f4")
    close(y, dense(q) @ x.astype(np.float64))
    assert FakeDLPack.alive == 0


@KINDS
@pytest.mark.parametrize("batch", [3, 20])
def test_bfloat16(kind, batch):
    q = random_matrix(21, 13, p=2, l=5)
    bits, x = to_bfloat16(numbers((13, batch)))
    y = q @ kind(bits, bfloat16=True)
    assert y.dtype == np.float32
    close(y, dense(q) @ x.astype(np.float64))


def strided_forms(x):
    every = tuple(slice(None, None, 2) for _ in x.shape)
    back = tuple(slice(None, None, -1) for _ in x.shape)
    doubled = np.repeat(x, 2, 0) if x.ndim == 1 else np.repeat(np.repeat(x, 2, 0), 2, 1)
    return {
        "rows": np.ascontiguousarray(x),
        "columns": np.asfortranarray(x),
        "every second": doubled[every],
        "backwards": np.ascontiguousarray(x[back])[back],
    }


@pytest.mark.parametrize("form", ["rows", "columns", "every second", "backwards"])
def test_strides_of_operand_and_out(form):
    q = random_matrix(23, 17, p=2, l=9)
    x = numbers((17, 5))
    expected = dense(q) @ x
    given = FakeArray(strided_forms(x)[form])
    close(q @ given, expected)
    out = FakeArray(strided_forms(np.zeros((23, 5), np.float32))[form])
    assert bqq.matmul(q, given, out) is out
    np.testing.assert_allclose(out.get(), expected, rtol=0, atol=1e-4)
    vector = FakeArray(strided_forms(x[:, 0])[form])
    close(q @ vector, dense(q) @ x[:, 0])


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (3, 1, 2)])
def test_more_dimensions(shape):
    """(..., n, batch) and (..., m), contiguous or not."""
    q = random_matrix(9, 7, p=2, l=5)
    W = dense(q)
    right, left = numbers((*shape, 7, 4)), numbers((*shape, 9), 1)
    close(q @ FakeArray(right), W @ right)
    turned = np.asfortranarray(right)
    close(q @ FakeArray(turned), W @ right)
    out = FakeArray(np.zeros((4, *shape, 9), np.float32).transpose(*range(1, right.ndim), 0))
    bqq.matmul(q, FakeArray(right), out)
    np.testing.assert_allclose(out.get(), W @ right, atol=1e-3)
    close(FakeArray(left) @ q, left @ W)
    wide = np.zeros((*shape, 12), np.float32)
    wide[..., 1:10] = left
    close(FakeArray(wide[..., 1:10]) @ q, left @ W)


@KINDS
def test_out(kind):
    q = random_matrix(21, 13, p=2, l=5)
    x = numbers((13, 6))
    expected = dense(q) @ x
    for dtype, tolerance in (("f4", 2e-5), ("f8", 2e-5), ("f2", 2e-3)):
        out = kind(np.zeros((21, 6), dtype))
        assert bqq.matmul(q, kind(x), out) is out
        error = np.linalg.norm((out if kind is interface else out.array).get() - expected)
        assert error <= tolerance * np.linalg.norm(expected)
    out = kind(np.zeros((21, 6), np.uint16), bfloat16=True)
    assert bqq.matmul(q, kind(x), out) is out
    error = np.linalg.norm(from_bfloat16((out if kind is interface else out.array).get()) - expected)
    assert error <= 4e-3 * np.linalg.norm(expected)


def test_out_beside_its_operand_in_one_buffer():
    q = random_matrix(6, 5)
    both = FakeArray(np.concatenate([numbers((4, 5)), np.zeros((4, 6), np.float32)], 1))
    x, y = FakeArray.__new__(FakeArray), FakeArray.__new__(FakeArray)
    for part, first, width in ((x, 0, 5), (y, 5, 6)):
        part.__dict__.update(both.__dict__, shape=(4, width), address=both.address + 4 * first, base=0)
    bqq.matmul(x, q.T, y)
    all_of_it = both.get()
    np.testing.assert_allclose(all_of_it[:, 5:], all_of_it[:, :5] @ dense(q).T, atol=1e-4)
    y.shape = (4, 5)
    y.address = both.address + 16
    with pytest.raises(ValueError, match="out shares memory with X"):
        bqq.matmul(x, random_matrix(5, 5), y)


def test_fast_is_at_least_as_exact():
    q = random_matrix(40, 70, p=2, l=20)
    x = numbers((70, 3))
    close(bqq.matmul(q, FakeArray(x), precision="fast", threads=2), dense(q) @ x)


# --- bad input ---


@pytest.mark.parametrize("left", [False, True])
def test_bad_operands(left):
    q = random_matrix(5, 4)

    def multiply(x, **more):
        return bqq.matmul(x, q.T, **more) if left else bqq.matmul(q, x, **more)

    good = np.ones(4, np.float32)
    cases = [
        (FakeArray(np.ones(3, np.float32)), {}, ValueError, r"X has shape \(3,\), expected 4"),
        (FakeArray(np.ones((), np.float32)), {}, ValueError, r"X has shape \(\)"),
        (FakeArray(np.ones(4, np.complex64)), {}, TypeError, "X has dtype complex64"),
        (FakeArray(np.ones(4, np.int32)), {}, TypeError, "X has dtype int32"),
        (FakeArray(np.ones(4, ">f4")), {}, TypeError, "X has dtype float32 in foreign byte order"),
        (FakeArray(good, stream=0), {}, ValueError, "X has stream 0"),
        (FakeArray(good, on_host=True), {}, ValueError, "X claims to be on a CUDA device, but its memory is not"),
        (FakeArray(good), {"precision": "int4"}, ValueError, "precision is 'int4'"),
        (FakeArray(good), {"threads": 0}, ValueError, "threads is 0"),
        (FakeArray(good), {"out": np.empty(5, np.float32)}, ValueError, "out is on the host"),
        (FakeArray(good), {"out": [0] * 5}, ValueError, "out is on the host"),
        (
            FakeArray(good),
            {"out": FakeArray(np.empty(4, np.float32))},
            ValueError,
            r"out has shape \(4,\), expected \(5,\)",
        ),
        (FakeArray(good), {"out": FakeArray(np.empty(5, np.int32))}, TypeError, "out has dtype int32"),
        (FakeArray(good), {"out": FakeArray(np.empty(5, np.float32), read_only=True)}, ValueError, "out is read-only"),
        (good, {"out": FakeArray(np.empty(5, np.float32))}, ValueError, "out is on a CUDA device"),
    ]
    for x, more, error, text in cases:
        with pytest.raises(error, match=text):
            multiply(x, **more)
    odd = FakeArray(good)
    odd.strides = (6,)
    with pytest.raises(ValueError, match=r"X has strides \(6,\), expected multiples of the 4 bytes"):
        multiply(odd)
    beyond = FakeArray(good)
    beyond.strides = (1 << 16,)
    with pytest.raises(ValueError, match="its memory is not"):
        multiply(beyond)


def test_read_only_operands_are_fine_and_read_only_dlpack_out_is_not():
    q = random_matrix(5, 4)
    x = np.ones(4, np.float32)
    close(q @ FakeArray(x, read_only=True), dense(q) @ x)
    close(q @ dlpack_versioned(x, read_only=True), dense(q) @ x)
    with pytest.raises(ValueError, match="out is read-only"):
        bqq.matmul(q, FakeArray(x), dlpack_versioned(np.empty(5, np.float32), read_only=True))
    assert FakeDLPack.alive == 0


def test_memory_that_is_gone():
    q = random_matrix(5, 4)
    x = FakeArray(np.ones(4, np.float32))
    free(x.base)
    x.base = 0
    with pytest.raises(ValueError, match="its memory is not"):
        q @ x


@pytest.mark.parametrize(
    ("W", "error", "text"),
    [
        (np.ones(4, np.float32), ValueError, r"W has 1 dimensions \(shape \(4,\)\), expected 2"),
        (np.ones((0, 4), np.float32), ValueError, "W is empty"),
        (np.ones((3, 4), np.int8), TypeError, "W has dtype int8"),
        (np.array([[1, 2], [3, np.nan]], np.float32), ValueError, r"(?i)W\[1, 1\] is nan"),
        (np.array([[1, np.inf], [3, 4]]), ValueError, r"(?i)W\[0, 1\] is inf"),
    ],
)
def test_bad_matrices(W, error, text):
    with pytest.raises(error, match=text):
        bqq.decompose(FakeArray(W), 1)


@pytest.mark.parametrize(
    ("weight", "error", "text"),
    [
        (np.ones(6, np.float32), ValueError, r"weight has shape \(6,\), expected \(5, 5\) or \(5,\)"),
        (np.ones((5, 5, 1), np.float32), ValueError, "weight has 3 dimensions .*expected 1 or 2"),
        (np.ones(5, np.int32), TypeError, "weight has dtype int32"),
        (np.array([1, 2, np.nan, 1, 1], np.float32), ValueError, r"weight\[2\] is nan"),
        (-np.ones(5, np.float32), ValueError, "weight"),
    ],
)
def test_bad_weights(weight, error, text):
    W = FakeArray(numbers((6, 5)))
    for given in (FakeArray(weight), dlpack(weight)):
        with pytest.raises(error, match=text):
            bqq.decompose(W, 1, weight=given)
    q = random_matrix(6, 5)
    with pytest.raises(error, match=text):
        bqq.extend(q, W, 2, weight=FakeArray(weight))


@pytest.mark.parametrize(
    ("argument", "value"), [("p", 0), ("p", 65), ("l", 0), ("patch", 0), ("steps", 0), ("seed", -1)]
)
def test_bad_parameters(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is {value}"):
        bqq.decompose(FakeArray(numbers((6, 5))), **{"p": 1, argument: value})


# --- decompositions ---


@pytest.mark.parametrize(("kind", "dtype"), [(interface, "f4"), (dlpack, "f2"), (dlpack_versioned, "f8")])
def test_decompose(kind, dtype):
    """As good as on the host, there, and the same each time."""
    x = np.linspace(0, 3, 12)
    W = (np.sin(x[:, None]) + np.cos(2 * x[None, :10]) + 0.05 * numbers((12, 10))).astype(dtype)
    q = bqq.decompose(kind(W), 2, **FAST)
    host = bqq.decompose(W, 2, **FAST)
    assert (q.device, q.shape, q.p, q.l, q.nbytes) == ("cuda:0", host.shape, host.p, host.l, host.nbytes)
    assert q.error(W) < 1.5 * host.error(W) + 0.02
    assert q.error(kind(W)) == pytest.approx(q.error(W), rel=1e-6)
    np.testing.assert_allclose(np.asarray(q), dense(q), atol=1e-5)
    assert same(q, bqq.decompose(kind(W), 2, **FAST))
    assert same(q, bqq.decompose(kind(np.asfortranarray(W)), 2, **FAST))
    assert FakeDLPack.alive == 0


def test_decompose_bfloat16_and_strides():
    bits, W = to_bfloat16(numbers((5, 8)))
    expected = bqq.decompose(FakeArray(W), 1, **FAST)
    assert same(bqq.decompose(FakeArray(bits, bfloat16=True), 1, **FAST), expected)
    wide = np.full((5, 14), np.nan, np.float32)
    wide[:, 3:11] = W
    assert same(bqq.decompose(FakeArray(wide[:, 3:11]), 1, **FAST), expected)
    for form in strided_forms(W).values():
        assert same(bqq.decompose(FakeArray(form), 1, **FAST), expected)


def test_blocks_extend_and_prefix():
    W = numbers((7, 6))
    one = bqq.decompose(FakeArray(W), 1, patch=4, **FAST)
    two = bqq.decompose(FakeArray(W), 2, patch=4, **FAST)
    longer = bqq.extend(one, FakeArray(W), 2, **FAST)
    assert same(longer, two)
    assert longer.device == "cuda:0"
    assert one.error(W) > two.error(W)
    host = one.to("cpu")
    assert same(bqq.extend(host, FakeArray(W), 2, **FAST), two)
    calls: list[tuple[int, int]] = []
    assert same(bqq.extend(one, FakeArray(W), 1, **FAST, progress=lambda *step: calls.append(step)), one)
    assert not calls  # nothing to do, as on the host
    assert host.device == "cpu"
    turned = bqq.extend(one.T, FakeArray(W.T), 2, **FAST)
    assert turned.device == "cuda:0"
    assert turned.error(W.T) < one.error(W)
    first = two.prefix(1)
    assert first.device == "cuda:0"
    np.testing.assert_array_equal(first.Y, one.Y)
    with pytest.raises(ValueError, match=r"W is on the host, q on cuda:0"):
        bqq.extend(one, W, 2)
    with pytest.raises(ValueError, match=r"W has shape \(6, 7\), expected \(7, 6\)"):
        bqq.extend(one, FakeArray(W.T.copy()), 2)


@pytest.mark.parametrize("kind", [interface, dlpack, np.asarray])
@pytest.mark.parametrize("whole", [False, True])
def test_weights(kind, whole):
    """The host's search on copies: its very bits, on the device of W."""
    W, X = numbers((9, 6)), numbers((20, 6), 1)
    weight = X.T @ X if whole else np.square(X).sum(0)
    q = bqq.decompose(FakeArray(W), 1, patch=4, weight=kind(weight), damping=0.1, **FAST)
    host = bqq.decompose(W, 1, patch=4, weight=weight, damping=0.1, **FAST)
    assert (q.device, host.device) == ("cuda:0", "cpu")
    assert same(q, host)
    assert not same(q, bqq.decompose(W, 1, patch=4, **FAST))
    close(q @ FakeArray(numbers((6, 2), 2)), dense(host) @ numbers((6, 2), 2))
    close(q.reconstruct(), dense(host), 1e-6)
    longer = bqq.extend(q, FakeArray(W), 2, weight=kind(weight), **FAST)
    assert longer.device == "cuda:0"
    assert same(longer, bqq.extend(host, W, 2, weight=weight, **FAST))
    turned = bqq.extend(q.T, FakeArray(W.T), 2, weight=FakeArray(np.ones(9, np.float32)), **FAST)
    assert same(turned, bqq.extend(host.T, W.T, 2, weight=np.ones(9), **FAST))
    steps = []
    bqq.decompose(FakeArray(W), 1, weight=kind(weight), progress=lambda *now: steps.append(now), **FAST)
    assert steps[-1][0] == steps[-1][1] > 0
    assert FakeDLPack.alive == 0


@pytest.mark.parametrize("kind", [interface, dlpack, np.asarray])
def test_encode(kind):
    """The host's search on copies: its very bits, on the device of the rows."""
    W, rows = numbers((9, 6)), numbers((4, 6), 1)
    weight = np.square(numbers((20, 6), 2)).sum(0)
    host = bqq.decompose(W, 2, patch=9, **FAST)
    expected = bqq.encode(host, rows, weight=weight)
    for q in (host, host.to("cuda")):
        e = bqq.encode(q, FakeArray(rows), weight=kind(weight))
        assert e.device == "cuda:0"
        assert same(e, expected)
        close(e @ FakeArray(W.T.copy()), dense(expected) @ W.T)
    with pytest.raises(ValueError, match="rows is on the host, q on cuda:0"):
        bqq.encode(host.to("cuda"), rows)
    with pytest.raises(ValueError, match="rows has 1 dimensions"):
        bqq.encode(host, FakeArray(rows[0]))


def test_progress_and_cancelling():
    calls = []
    bqq.decompose(FakeArray(numbers((6, 5))), 1, progress=lambda done, total: calls.append((done, total)), **FAST)
    assert calls
    assert calls[-1][0] == calls[-1][1] > 0

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bqq.decompose(FakeArray(numbers((6, 5))), 1, progress=stop, **FAST)


# --- where a matrix is ---


def test_to_and_back():
    q = random_matrix(21, 13, J=2, K=2, p=2, l=5)
    assert q.device == "cpu"
    assert q.to("cpu") is q
    on = q.to("cuda")
    assert (on.device, on.shape, on.grid, on.patch) == ("cuda:0", q.shape, q.grid, q.patch)
    assert on.to("cuda:0") is on
    assert same(on, q)
    assert same(on.to("cpu"), q)
    assert (on.T.shape, on.T.patch, on.T.nbytes) == (q.T.shape, q.T.patch, q.T.nbytes)
    assert same(on.T, q.T)
    assert same(on.T.to("cpu"), q.T)
    assert on.T.T is on
    assert same(pickle.loads(pickle.dumps(on)), q)
    assert "21x13" in repr(on)
    for device, error in (
        ("cuda:1", "expected a number below 1"),
        ("gpu", "expected 'cpu', 'cuda'"),
        (0, "device is 0"),
    ):
        with pytest.raises(ValueError, match=error):
            q.to(device)
    x = numbers((13, 2))
    close(on @ FakeArray(x), dense(q) @ x)
    close(FakeArray(x.T) @ on.T, x.T @ dense(q).T)
    for wrong in (lambda: on @ x, lambda: x.T @ on.T, lambda: bqq.matmul(on, x[:, 0])):
        with pytest.raises(ValueError, match=r"X is on the host, the matrix on cuda:0"):
            wrong()


def test_reconstruct_and_save(tmp_path):
    q = bqq.decompose(FakeArray(numbers((12, 9))), 2, **FAST)
    close(q.reconstruct(), dense(q), 1e-6)
    close(q.T.reconstruct(), dense(q).T, 1e-6)
    bqq.save(tmp_path / "q.safetensors", {"layer": q})
    assert same(bqq.load(tmp_path / "q.safetensors")["layer"], q)


def test_planes_stay_on_the_device_and_leave_with_the_matrix():
    q = random_matrix(21, 13, p=2, l=5)
    x = FakeArray(numbers((13, 2)))
    q @ x
    (planes,) = q._planes.copies.values()
    FakeArray(x.get().T.copy()) @ q.T
    q @ x
    assert q.T._planes is q._planes
    assert list(q._planes.copies.values()) == [planes]
    result = q @ x
    address = result._memory.address
    assert _core.device_of("result", address) == 0
    gone: list[int] = []
    weakref.finalize(q, gone.append, 1)
    gc.disable()
    try:
        del q, planes, result
        assert gone == [1]
    finally:
        gc.enable()
    with pytest.raises(ValueError, match="its memory is not"):
        _core.device_of("result", address)


def test_threads_share_a_matrix():
    q = random_matrix(30, 20, p=2, l=9)
    x = numbers((20, 3))
    results: list[Any] = [None] * 4

    def work(i):
        results[i] = (q if i % 2 else q.T) @ FakeArray(x if i % 2 else numbers((30, 2)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, y in enumerate(results):
        close(y, dense(q) @ x if i % 2 else dense(q).T @ numbers((30, 2)))


# --- results for libraries we do not know ---


def test_our_arrays_are_arrays_on_the_device():
    q = random_matrix(21, 13, p=2, l=5)
    x = numbers((13, 4))
    y = q @ FakeArray(x)
    assert y.device == "cuda:0"
    assert "DeviceArray(shape=(21, 4)" in repr(y)
    back = y_again = random_matrix(8, 21) @ y  # by __cuda_array_interface__
    assert isinstance(y_again, _cuda.DeviceArray)
    np.testing.assert_allclose(np.asarray(back), dense(random_matrix(8, 21)) @ np.asarray(y), rtol=1e-4, atol=1e-3)
    capsule = y.__dlpack__(stream=LEGACY)
    address, code, bits, device, shape, strides, read_only, owner = _core.from_dlpack(capsule)
    assert (address, code, bits, device) == (y._memory.address, 2, 32, 0)
    assert (shape, strides, read_only) == ((21, 4), (4, 1), False)
    del y, capsule
    assert _core.device_of("y", address) == 0  # the tensor keeps the memory
    del owner
    with pytest.raises(ValueError, match="its memory is not"):
        _core.device_of("y", address)
    unused = (q @ FakeArray(x)).__dlpack__()
    del unused
    with pytest.raises(ValueError, match="only be copied"):
        (q @ FakeArray(x)).__array__(copy=False)


def test_libraries_that_say_how_to_make_their_arrays():
    class Known(FakeArray):
        def __array_namespace__(self, api_version=None):
            return types.SimpleNamespace(from_dlpack=lambda ours: ("known", ours))

    q = random_matrix(5, 4)
    name, y = q @ Known(np.ones(4, np.float32))
    assert name == "known"
    close(y, dense(q).sum(1))


def test_arrays_of_a_known_library_come_back(library):
    W = numbers((12, 9))
    q = bqq.decompose(library.asarray(W), 1, **FAST)
    for x in (numbers((9, 3)), np.arange(9, dtype=np.int16), np.ones((9, 2), bool), np.ones(9, np.int64)):
        y = q @ library.asarray(x)
        assert type(y) is library.array_type
        assert y.get().dtype == np.result_type(x.dtype, np.float32)
        np.testing.assert_allclose(y.get(), dense(q) @ x, atol=1e-3)
    assert type(q.reconstruct()) is library.array_type
    assert type(q.prefix(1).T.reconstruct()) is library.array_type
    assert type(q.to("cpu").reconstruct()) is np.ndarray
    with pytest.raises(TypeError, match=r"out has dtype (torch\.)?int32"):
        bqq.matmul(q, library.asarray(numbers((9, 3))), library.asarray(np.zeros((12, 3), np.int32)))
