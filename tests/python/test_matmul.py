"""Products: every shape, stride, dtype and instruction set against a float64 product."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import available_isas, dense, random_matrix, run_isa

SIZES = (1, 7, 33, 129, 257)
BATCHES = (0, 1, 2, 3, 4, 15, 16, 17, 64)
TOLERANCE = 2e-5  # of the norm of the result: what the documentation promises


def close(actual, expected, tolerance=TOLERANCE):
    """Relative to the norm of the whole result."""
    assert actual.shape == expected.shape
    error = np.linalg.norm(np.asarray(actual, np.float64) - expected)
    assert error <= tolerance * np.linalg.norm(expected), error / np.linalg.norm(expected)


def numbers(rng, shape, dtype=np.float32, offset=0.0):
    return (rng.standard_normal(shape) * 3 + offset).astype(dtype)


def check_products(q, rng, batch, offset=0.0, threads=None):
    """All four products and the two with vectors."""
    m, n = q.shape
    W = q.reconstruct().astype(np.float64)
    right, left = numbers(rng, (n, batch), offset=offset), numbers(rng, (batch, m), offset=offset)
    pairs = [(q, right, W), (q.T, left.T, W.T)]
    if batch:
        pairs += [(q, right[:, 0], W), (q.T, left[0], W.T)]
    for a, x, oracle in pairs:
        close(bqq.matmul(a, x, threads=threads), oracle @ x.astype(np.float64))
        close(bqq.matmul(x.T, a.T, threads=threads), x.T.astype(np.float64) @ oracle.T)


def check_grid():
    """The whole grid on the instruction set in use; returns the number of matrices."""
    rng = np.random.default_rng(0)
    inner = [(1, 1), (2, 7), (3, 8), (1, 65), (4, 33), (2, 300), (16, 20)]
    grid = [{"m": m, "n": n, "p": p, "l": l} for m, n, (p, l) in itertools.product(SIZES, SIZES, inner)]
    grid += [
        {"m": m, "n": n, "J": J, "K": K, "p": p, "l": 11}
        for m, n, J, K in ((10, 5, 4, 3), (257, 129, 3, 2), (33, 257, 1, 5), (64, 64, 8, 8))
        for p in (1, 3)
    ]
    batches = itertools.cycle(BATCHES)
    for i, arguments in enumerate(grid):
        q = random_matrix(**arguments)
        for offset in (0.0, 1000.0):
            try:
                check_products(q, rng, next(batches), offset, threads=1 + i % 2)
            except AssertionError as error:
                raise AssertionError(f"{arguments}, offset {offset}: {error}") from error
    return len(grid)


@pytest.mark.parametrize("isa", available_isas())
def test_grid_on_every_instruction_set(isa):
    code = "import bqq, test_matmul as t; print(bqq.show_config('dict')['isa'], t.check_grid())"
    assert run_isa(isa, code, timeout=300).split() == [isa, str(25 * 7 + 8)]


def check_fast():
    """The stated error of the fast class on the instruction set in use; returns the worst of a few shapes."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for m, n, p, l, J, K in (
        (384, 384, 2, 192, 1, 1),
        (300, 200, 1, 32, 5, 4),
        (257, 1000, 4, 100, 2, 8),
        (40, 9, 2, 8, 1, 1),
    ):
        q = random_matrix(m, n, p=p, l=l, J=J, K=K)
        W = dense(q)
        for batch in (1, 2, 7, 8, 33):
            x = rng.standard_normal((n, batch)).astype(np.float32)
            y = W @ x.astype(np.float64)
            error = bqq.matmul(q, x, precision="fast", threads=1 + batch % 2) - y
            worst = max(worst, (error**2).sum() / (y**2).sum())
            left = bqq.matmul(x.T, q.T, precision="fast")
            np.testing.assert_array_equal(left.T, bqq.matmul(q, x, precision="fast"))
    assert worst <= 5e-4
    return worst


@pytest.mark.parametrize("isa", available_isas())
def test_fast_on_every_instruction_set(isa):
    assert 1e-7 < float(run_isa(isa, "import test_matmul as t; print(t.check_fast())")) <= 5e-4


def check_fast_inputs():
    """The promise of the fast class where it is hardest: rows without a mean, inputs with one, or with long tails."""
    rng = np.random.default_rng(0)
    W = numbers(rng, (130, 200))
    q = bqq.decompose(W - W.mean(1, keepdims=True), 2, patch=64, steps=100, refine=False)
    W_hat = q.reconstruct().astype(np.float64)
    worst = 0.0
    for batch in (1, 2, 5, 8, 16, 33):
        normal = rng.standard_normal((200, batch))
        for x in (
            normal,
            normal + 3,
            normal - 10,
            np.maximum(normal, 0),
            rng.standard_t(5, normal.shape),
            1e20 * normal,
        ):
            x = x.astype(np.float32)
            y = W_hat @ x.astype(np.float64)
            error = bqq.matmul(q, x, precision="fast") - y
            worst = max(worst, (error**2).sum() / (y**2).sum())
    return worst


@pytest.mark.parametrize("isa", available_isas())
def test_fast_of_a_real_approximation(isa):
    assert float(run_isa(isa, "import test_matmul as t; print(t.check_fast_inputs())")) <= 5e-4


@pytest.mark.parametrize("precision", ["float16", "", None, 8, []])
def test_unknown_precision(precision):
    with pytest.raises(ValueError, match=r"precision is .*expected 'float32' or 'fast'"):
        bqq.matmul(random_matrix(5, 4), np.ones(4), precision=precision)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("blocks", [{}, {"J": 3, "K": 2}])
def test_batches(batch, blocks):
    q = random_matrix(50, 37, p=2, l=19, **blocks)
    check_products(q, np.random.default_rng(batch), batch)


@pytest.mark.parametrize("p", [1, 2, 15, 16, 64])
@pytest.mark.parametrize("l", [1, 8, 40, 300])
def test_stacks_and_inner_dimensions(p, l):
    check_products(random_matrix(33, 20, p=p, l=l), np.random.default_rng(0), 5)


@cache
def approximation(shape):
    return bqq.decompose(numbers(np.random.default_rng(0), shape), 2, patch=64, steps=100)


@pytest.mark.parametrize("offset", [1e3, -1e3, 1e6])
@pytest.mark.parametrize("shape", [(64, 64), (130, 200)])
def test_offset_inputs_of_a_real_approximation(shape, offset):
    """Rows of a centred matrix nearly cancel a common offset: float32 must keep its digits."""
    q = approximation(shape)
    for batch in (1, 20):
        check_products(q, np.random.default_rng(batch), batch, offset)


def test_against_the_formula():
    """The oracle of the other tests is right: the formula in float64 from the factors."""
    q = random_matrix(23, 31, J=2, K=3, p=3, l=6)
    W = dense(q)
    close(q.reconstruct(), W, 1e-6)
    close(q @ np.eye(31), W)
    close(np.eye(23) @ q, W)


# --- dtypes ---

RESULTS = {
    "?": "f4",
    "i1": "f4",
    "u1": "f4",
    "i2": "f4",
    "u2": "f4",
    "i4": "f8",
    "u4": "f8",
    "i8": "f8",
    "u8": "f8",
    "f2": "f4",
    "f4": "f4",
    "f8": "f8",
    "g": "f8",
    ">f4": "f4",
    ">f8": "f8",
    ">i2": "f4",
}


@pytest.mark.parametrize(("dtype", "result"), RESULTS.items())
def test_dtypes(dtype, result):
    q = random_matrix(21, 13, p=2, l=5)
    rng = np.random.default_rng(0)
    for x in (np.abs(numbers(rng, 13)), np.abs(numbers(rng, (13, 6)))):
        x = x.astype(dtype)
        for y in (q @ x, (x.T @ q.T).T):
            assert type(y) is np.ndarray
            assert y.dtype == result
            assert y.dtype.isnative
            close(y, dense(q) @ x.astype(np.float64))


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    q = random_matrix(21, 13, p=2, l=5)
    x = numbers(np.random.default_rng(0), (13, 6)).astype(ml_dtypes.bfloat16)
    y = q @ x
    assert y.dtype == np.float32
    close(y, dense(q) @ x.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int8", "bool"])
def test_torch(dtype):
    torch = pytest.importorskip("torch")
    q = random_matrix(21, 13, J=2, p=2, l=5)
    x = torch.from_numpy(numbers(np.random.default_rng(0), (13, 6))).to(getattr(torch, dtype))
    expected = dense(q) @ x.double().numpy()
    products = (
        q @ x,
        (x.T @ q.T).T,
        torch.stack([q @ x[:, i] for i in range(6)], 1),
        bqq.matmul(q, x.T.contiguous().T),
        torch.cat([q @ x[:, :0], q @ x], 1),
    )
    for y in products:
        assert isinstance(y, torch.Tensor)
        assert y.dtype == (torch.float64 if dtype == "float64" else torch.float32)
        close(y.numpy(), expected)


def test_torch_parameters_and_out():
    torch = pytest.importorskip("torch")
    q = random_matrix(21, 13, p=2, l=5)
    x = torch.nn.Parameter(torch.from_numpy(numbers(np.random.default_rng(0), (13, 6)))).detach()
    expected = dense(q) @ x.double().numpy()
    close((q @ x).numpy(), expected)
    wide = torch.zeros(6, 50)
    for out in (torch.zeros(21, 6), torch.zeros(21, 6, dtype=torch.float64), wide[:, 3:24].T):
        assert bqq.matmul(q, x, out) is out
        close(out.numpy(), expected)
    assert not wide[:, :3].any()
    assert not wide[:, 24:].any()
    mixed = np.zeros((21, 6))
    assert bqq.matmul(q, x, mixed) is mixed
    close(mixed, expected)


def test_other_array_libraries():
    """By protocol: a minimal array-API namespace in, its arrays out."""

    class Array:
        def __init__(self, data):
            self.data = data

        def __array__(self, dtype=None, copy=None):
            return self.data

        def __array_namespace__(self, api_version=None):
            return Namespace

    class Namespace:
        asarray = Array

    q = random_matrix(5, 4)
    y = q @ Array(np.ones(4))
    assert isinstance(y, Array)
    close(y.data, dense(q).sum(1))


def test_lists_and_scalars_in_lists():
    q = random_matrix(5, 3)
    close(q @ [1, 2, 3], dense(q) @ [1, 2, 3])
    close([[1.5, 2, 3, 4, 5]] @ q, [[1.5, 2, 3, 4, 5]] @ dense(q))


# --- strides and dimensions ---


def strided_forms(x):
    """The same numbers in memory every other way."""
    double = np.zeros([2 * s for s in x.shape], x.dtype)
    every = tuple(slice(None, None, 2) for _ in x.shape)
    double[every] = x
    fields = np.zeros(x.shape, [("pad", "i1"), ("x", x.dtype)])  # neither aligned nor whole strides
    fields["x"] = x
    readonly = x.copy()
    readonly.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    flip = np.flip(np.flip(x).copy())
    return [x, np.asfortranarray(x), double[every], fields["x"], readonly, raw, flip]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("shape", [(13,), (13, 5), (3, 13, 5), (2, 3, 13, 5), (2, 0, 13, 5)])
def test_strides_and_dimensions(shape, dtype):
    q = random_matrix(9, 13, J=2, K=2, p=2, l=7)
    W = dense(q)
    x = numbers(np.random.default_rng(0), shape, dtype)
    expected = W @ x.astype(np.float64)
    transposed = x.T if x.ndim < 3 else np.moveaxis(x, -2, -1)
    for form in strided_forms(x):
        close(q @ form, expected)
    for form in strided_forms(transposed):
        close(form @ q.T, transposed.astype(np.float64) @ W.T)


def test_zero_strides():
    q = random_matrix(9, 13, p=2, l=7)
    x = numbers(np.random.default_rng(0), 13)
    close(q @ np.broadcast_to(x[:, None], (13, 6)), np.repeat(dense(q) @ x[:, None], 6, 1))
    close(q @ np.broadcast_to(np.float32(2), (13, 6)), dense(q) @ np.full((13, 6), 2.0))
    close(q @ np.broadcast_to(x[:, None], (4, 13, 3)), dense(q) @ np.tile(x[:, None], (4, 1, 3)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(13,), (13, 5), (13, 20), (3, 13, 5)])
def test_out(shape, dtype):
    q = random_matrix(9, 13, p=2, l=7)
    W, x = dense(q), numbers(np.random.default_rng(0), shape)
    expected, tolerance = W @ x.astype(np.float64), 1e-3 if dtype == np.float16 else TOLERANCE
    transposed = x.T if x.ndim < 3 else np.moveaxis(x, -2, -1)
    for out in strided_forms(np.zeros(expected.shape, dtype)):
        if not out.flags.writeable:
            continue
        assert bqq.matmul(q, x, out) is out
        close(out, expected, tolerance)
        out[...] = np.nan
        assert bqq.matmul(q, x, out=out, threads=2) is out
        close(out, expected, tolerance)
        left = np.moveaxis(out, -2, -1) if x.ndim > 1 else out
        left[...] = np.nan
        assert bqq.matmul(transposed, q.T, left) is left
        close(out, expected, tolerance)


def test_out_leaves_its_surroundings_alone():
    q, x = random_matrix(9, 13, p=2, l=7), np.ones((13, 6), np.float32)
    frame = np.full((30, 30), 5, np.float32)
    inner = frame[20:2:-2, 3:21:3]
    bqq.matmul(q, x, inner)
    close(inner, dense(q) @ x.astype(np.float64))
    inner[...] = 5
    np.testing.assert_array_equal(frame, 5)


def test_out_may_interleave_with_the_operand():
    """Side by side in one array without a common element is no overlap."""
    q = random_matrix(9, 9, p=2, l=7)
    both = np.ones((9, 8), np.float32)
    expected = dense(q) @ both[:, ::2].astype(np.float64)
    close(bqq.matmul(q, both[:, ::2], both[:, 1::2]), expected)
    np.testing.assert_array_equal(both[:, ::2], 1)


def test_the_operand_is_not_changed():
    q, x = random_matrix(9, 13), numbers(np.random.default_rng(0), (13, 5))
    before = x.copy()
    q @ x
    x.T @ q.T
    np.testing.assert_array_equal(x, before)


def test_float16_result_overflows_to_infinity():
    q = bqq.Matrix.from_factors([[[1]]], [[[1]]], [0, 0, 0, 1e6])
    out = np.zeros(1, np.float16)
    assert np.isposinf(bqq.matmul(q, [1.0], out))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_operands_stay_in_their_column(value):
    q = random_matrix(9, 13, p=2, l=7)
    for batch in (1, 2, 3, 4, 20):
        x = np.ones((13, batch), np.float32)
        x[4, -1] = value
        y = q @ x
        close(y[:, :-1], (dense(q) @ np.ones((13, batch)))[:, :-1])
        assert not np.isfinite(y[:, -1]).any()


# --- what it costs ---


def test_cost():
    q = random_matrix(20, 13, J=3, K=2, p=2, l=9)
    c = bqq.cost(q, 5)
    assert c["plane_bytes"] == q._core.Y.nbytes + q._core.Z.nbytes
    assert c["scale_bytes"] == 4 * 3 * 2 * 7
    assert (c["input_bytes"], c["output_bytes"]) == (4 * 13 * 5, 4 * 20 * 5)
    assert c["bytes"] == q.nbytes + 4 * (13 + 20) * 5
    bits = sum(y.size for y in q.Y[:, :, :, :, :].reshape(3, -1)[:2]) + q.Y[2, :, :, :6].size
    bits += q.Z[:, 0].size + q.Z[:, 1, ..., :6].size
    assert c["bit_operations"] == bits * 5  # those of rows and columns that exist
    assert bqq.cost(q)["bit_operations"] == bits
    assert bqq.cost(q, 0)["bit_operations"] == 0
    with pytest.raises(ValueError, match="batch is -1"):
        bqq.cost(q, -1)
    with pytest.raises(TypeError, match="batch"):
        bqq.cost(q, 1.5)
    with pytest.raises(TypeError, match=r"expected a bqq\.Matrix"):
        bqq.cost(np.ones((3, 3)))


# --- the matrix as an operand ---


def test_transpose():
    q = random_matrix(20, 13, J=3, K=2, p=2, l=9)
    assert q.T.T is q
    assert q.T.shape == (13, 20)
    np.testing.assert_array_equal(q.T.reconstruct(), q.reconstruct().T)


def test_python_operators_and_numpy():
    q = random_matrix(6, 4)
    W, x = q.reconstruct(), np.ones(4)
    close(q @ x, W @ x)
    y = np.ones(6)
    close(y @ q, y @ W)
    y = np.ones((1, 6))
    close(y @ q, y @ W)
    np.testing.assert_array_equal(np.asarray(q), W)
    np.testing.assert_array_equal(np.array(q, np.float64), W.astype(np.float64))
    assert np.asarray(q).dtype == np.float32
    close(
        np.linalg.norm(np.asarray(q, dtype=np.float64), keepdims=True),
        np.linalg.norm(W, keepdims=True),
    )
    with pytest.raises(TypeError):
        np.add(q, 1)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy= is new in NumPy 2")
def test_asarray_without_a_copy_is_refused():
    with pytest.raises(ValueError, match="copy"):
        np.asarray(random_matrix(6, 4), copy=False)


@pytest.mark.parametrize("grid", [{}, {"J": 5, "K": 3}])
@pytest.mark.parametrize("batch", [1, 3, 4, 33, 200])
def test_threads_do_not_change_the_result(grid, batch):
    q = random_matrix(150, 97, p=3, l=40, **grid)
    x = numbers(np.random.default_rng(0), (97, batch))
    first = bqq.matmul(q, x, threads=1)
    for threads in (2, 4, 1000, None):
        assert bqq.matmul(q, x, threads=threads).tobytes() == first.tobytes()
        assert q.reconstruct(threads=threads).tobytes() == q.reconstruct().tobytes()


def test_columns_do_not_depend_on_their_place():
    """A column of a full panel gives the same bits wherever it stands."""
    q = random_matrix(33, 29, J=2, p=2, l=17)
    x = numbers(np.random.default_rng(0), (29, 64))
    y, rolled = q @ x, q @ np.roll(x, 21, axis=1)
    np.testing.assert_array_equal(np.roll(y, 21, axis=1), rolled)


def test_concurrent_products():
    """Threads of the caller may share one matrix, its first product included."""
    from concurrent.futures import ThreadPoolExecutor

    x = numbers(np.random.default_rng(0), (97, 5))
    for seed in range(5):
        q = random_matrix(150, 97, p=2, l=40, seed=seed)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _, q=q: (q @ x, x.T @ q.T), range(8)))
        for y, z in results:
            np.testing.assert_array_equal(y, results[0][0])
            np.testing.assert_array_equal(z.T, y)


@st.composite
def problems(draw):
    size = st.integers(1, 70)
    m, n = draw(size), draw(size)
    blocks = {}
    for name, side in (("J", m), ("K", n)):
        patch = draw(st.integers(1, side))
        blocks[name] = -(-side // patch) if -(-side // patch) <= 6 else 1
    q = random_matrix(m, n, p=draw(st.integers(1, 5)), l=draw(st.integers(1, 80)), **blocks)
    lead = draw(st.lists(st.integers(0, 3), max_size=2))
    batch = draw(st.one_of(st.none(), st.integers(0, 40)))
    return q, (n,) if batch is None else (*lead, n, batch)


@settings(max_examples=300)
@given(
    problem=problems(),
    dtype=st.sampled_from(["f2", "f4", "f8", "i1", "i8", "?", ">f4"]),
    out=st.sampled_from([None, "f2", "f4", "f8"]),
    steps=st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), min_size=8, max_size=8),
    offset=st.sampled_from([0.0, 100.0]),
    threads=st.integers(1, 3),
    transposed=st.booleans(),
)
def test_any_product(problem, dtype, out, steps, offset, threads, transposed):
    q, shape = problem
    rng = np.random.default_rng(len(shape))

    def spread(dtype, shape, steps):
        """Uninitialised array with these steps between its elements."""
        whole = np.zeros([abs(s) * size for s, size in zip(steps, shape, strict=False)], dtype)
        return whole[tuple(slice(None, None, s) for s, _ in zip(steps, shape, strict=False))]

    x = spread(dtype, shape, steps[:4])
    x[...] = numbers(rng, shape, offset=offset).astype(dtype)
    expected = dense(q) @ x.astype(np.float64)
    target = None if out is None else spread(out, expected.shape, steps[4:])
    if transposed and x.ndim > 1:
        swap = None if target is None else np.swapaxes(target, -1, -2)
        y = np.swapaxes(bqq.matmul(np.swapaxes(x, -1, -2), q.T, swap, threads=threads), -1, -2)
    else:
        y = bqq.matmul(q, x, target, threads=threads)
    if out == "f2":
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(y, expected.astype("f2"), rtol=2e-3, atol=0.1)
    else:
        close(y, expected)
    if target is not None:
        np.testing.assert_array_equal(target, y)
