"""Bad input: the right exception, and a message that names the argument and the value."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

import bqq
from conftest import available_isas, finish, random_matrix, run_isa, start_python

W = np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)
Q = random_matrix(12, 9, p=2, l=5)
X = W.T
HUGE = 2**70


def check(error, words, call, *args, **kwargs):
    """``call`` raises exactly ``error``-kind and its message holds every one of ``words``."""
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    for word in words:
        assert re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", message), f"{word!r}: {message!r}"
    assert "incompatible" not in message, "an error of the binding, not of the argument"


def with_value(value, dtype=np.float64):
    array = np.ones((3, 4), dtype)
    array[1, 2] = array[2, 0] = value
    return array


# --- the matrix ---

BAD_MATRICES = [
    (ValueError, ["W[1, 2]", "nan"], with_value(np.nan)),
    (ValueError, ["W[1, 2]", "inf"], with_value(np.inf)),
    (ValueError, ["W[1, 2]", "inf"], with_value(-np.inf, np.float16)),
    (ValueError, ["W[1, 2]", "1e+39", "float32"], with_value(1e39)),
    (ValueError, ["W[1, 2]", "-1e+300", "float32"], with_value(-1e300)),
    (ValueError, ["W", "()", 2], np.float32(1)),
    (ValueError, ["W", "(3,)", 2], np.ones(3)),
    (ValueError, ["W", "(1, 2, 3)", 2], np.ones((1, 2, 3))),
    (ValueError, ["W", "(0, 3)"], np.ones((0, 3))),
    (ValueError, ["W", "(3, 0)"], np.ones((3, 0))),
    (TypeError, ["W", "complex64"], np.ones((2, 2), np.complex64)),
    (TypeError, ["W", "object"], np.ones((2, 2), object)),
    (TypeError, ["W", "<U1"], np.array([["a", "b"]])),
    (TypeError, ["W", "|S1"], np.array([[b"a", b"b"]])),
    (TypeError, ["W", "datetime64[s]"], np.zeros((2, 2), "M8[s]")),
    (TypeError, ["W", "list"], [[1, 2], [3]]),
    (TypeError, ["W"], None),
    (TypeError, ["W"], "matrix.npy"),
    (TypeError, ["W"], {"a": 1}),
    (TypeError, ["W"], np.ones((2, 2), [("a", "f4")])),
]


@pytest.mark.parametrize(("error", "words", "matrix"), BAD_MATRICES)
@pytest.mark.parametrize("function", ["decompose", "extend", "error", "mse"])
def test_matrix(function, error, words, matrix):
    call = {
        "decompose": lambda w: bqq.decompose(w, 1, steps=1),
        "extend": lambda w: bqq.extend(Q, w, 3, steps=1),
        "error": Q.error,
        "mse": Q.mse,
    }[function]
    check(error, words, call, matrix)


def test_number_too_large_for_float64():
    big = np.longdouble("1e4000")
    if not np.isfinite(big):
        pytest.skip("long double is double")
    check(ValueError, ["W[1, 2]", "float32"], bqq.decompose, with_value(big, np.longdouble), 1)


def test_masked_elements():
    """A masked element is no number: like NaN, with its place."""
    masked = np.ma.masked_invalid(with_value(np.nan))
    check(ValueError, ["W[1, 2]"], bqq.decompose, masked, 1)


@pytest.mark.parametrize("call", [lambda w: bqq.extend(Q, w, 3), Q.error, Q.mse])
def test_shape_of_the_matrix(call):
    check(ValueError, ["W", "(9, 12)", "(12, 9)"], call, W.T)


@pytest.mark.parametrize(
    ("error", "words", "make"),
    [
        (ValueError, ["W", "meta"], lambda t: t.ones(3, 3, device="meta")),
        (TypeError, ["W", "complex64"], lambda t: t.ones(3, 3, dtype=t.complex64)),
        (TypeError, ["W"], lambda t: t.ones(3, 3).to_sparse()),
        (ValueError, ["W[0, 0]", "nan"], lambda t: t.full((3, 3), t.nan)),
        (ValueError, ["W", "(3,)"], lambda t: t.ones(3)),
    ],
)
def test_torch(error, words, make):
    torch = pytest.importorskip("torch")
    check(error, words, bqq.decompose, make(torch), 1)


class OnDevice:
    """An array of another library, on a device of another make (ROCm; test_cuda_arrays.py has CUDA's)."""

    shape = (3, 3)

    def __dlpack_device__(self):
        return (10, 0)

    def __dlpack__(self, **_):
        raise AssertionError("must not be asked for")


def test_other_device():
    check(ValueError, ["W", "device"], bqq.decompose, OnDevice(), 1)
    check(ValueError, ["X", "device"], bqq.matmul, Q, OnDevice())


# --- numbers ---

RANGES = [
    ("p", [0, -1, 65, 2**62, HUGE, -HUGE]),
    ("l", [0, -3, 65536, 2**62, HUGE]),
    ("patch", [0, -1, HUGE]),
    ("steps", [0, -1, HUGE]),
    ("seed", [-1, 2**64, HUGE]),
    ("threads", [0, -2]),
]
TYPES = [1.0, 2.5, "2", [1], 1j, np.float64(1), np.array([1, 2]), np.array(1.5), int]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in RANGES for v in values])
def test_out_of_range(name, value):
    arguments = {"p": 1, "steps": 1, name: value}
    check(ValueError, [name, value], bqq.decompose, W, **arguments)
    if name not in ("l", "patch"):
        arguments = {"p": 3, "steps": 1, name: value}
        check(ValueError, [name, value], bqq.extend, Q, W, **arguments)


@pytest.mark.parametrize("name", [name for name, _ in RANGES])
@pytest.mark.parametrize("value", TYPES, ids=str)
def test_not_an_integer(name, value):
    arguments = {"p": 1, "steps": 1, name: value}
    check(TypeError, [name], bqq.decompose, W, **arguments)


def test_no_p():
    check(TypeError, ["p", "None"], bqq.decompose, W, None)


@pytest.mark.parametrize("p", [1, 0, -1, 65, HUGE])
def test_extend_p(p):
    check(ValueError, ["p", p, 2, 64], bqq.extend, Q, W, p)


@pytest.mark.parametrize("k", [0, -1, 3, HUGE])
def test_prefix_out_of_range(k):
    check(ValueError, ["k", k], Q.prefix, k)


@pytest.mark.parametrize("k", [*TYPES, None], ids=str)
def test_prefix_type(k):
    check(TypeError, ["k"], Q.prefix, k)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_of_products(threads):
    for call in (
        lambda: bqq.matmul(Q, X, threads=threads),
        lambda: bqq.matmul(W.T, Q, threads=threads),
        lambda: bqq.matmul(Q, np.zeros((9, 0)), threads=threads),
        lambda: Q.reconstruct(threads=threads),
    ):
        check(ValueError, ["threads", threads], call)


def test_steps_beyond_what_can_be_counted():
    """The total is steps x stacks x blocks: an error, or a total that is right."""
    totals = []
    try:
        bqq.decompose(np.ones((2, 2)), 4, steps=2**62, progress=lambda _, t: totals.append(t))
    except ValueError as error:
        assert "steps" in str(error)  # noqa: PT017
    else:
        assert totals[-1] == 2**64


@pytest.mark.parametrize("effort", ["slow", "", None, 1])
def test_effort(effort):
    check((ValueError, TypeError), ["effort", "fast", "best"], bqq.decompose, W, 1, effort=effort)


@pytest.mark.parametrize("refine", [0, -1, HUGE, 2.5, "yes"])
def test_refine(refine):
    check((ValueError, TypeError), ["refine"], bqq.decompose, W, 1, refine=refine, steps=5)


@pytest.mark.parametrize("schedule", ["fast", "Paper", "", None, 1, ["paper"]])
def test_schedule(schedule):
    for call, args in ((bqq.decompose, (W, 1)), (bqq.extend, (Q, W, 3))):
        check((ValueError, TypeError), ["schedule"], call, *args, schedule=schedule)
        check((ValueError, TypeError), ["schedule"], call, *args, schedule=schedule, steps=5)


@pytest.mark.parametrize("progress", [3, "yes", [], 0])
def test_progress(progress):
    check(TypeError, ["progress"], bqq.decompose, W, 1, progress=progress)


@pytest.mark.parametrize("q", [W, None, "q"], ids=["array", "None", "str"])
def test_extend_of_no_matrix(q):
    check(TypeError, ["q"], bqq.extend, q, W, 3)


def test_show_config_mode():
    check(ValueError, ["mode", "'json'"], bqq.show_config, "json")


# --- products ---


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Q @ np.ones(12), ["X", "(12,)", 9]),
        (lambda: Q @ np.ones((12, 9)), ["X", "(12, 9)", 9]),
        (lambda: Q @ np.ones((9, 8, 7)), ["X", "(9, 8, 7)", 9]),
        (lambda: Q @ np.float32(3), ["X", "()", 9]),
        (lambda: np.ones(9) @ Q, ["X", "(9,)", 12]),
        (lambda: np.ones((12, 9)) @ Q, ["X", "(12, 9)", 12]),
        (lambda: 3.0 @ Q, ["X", "()", 12]),
        (lambda: Q.T @ np.ones(9), ["X", "(9,)", 12]),
        (lambda: np.ones(12) @ Q.T, ["X", "(12,)", 9]),
        (lambda: bqq.matmul(Q, np.ones((8, 2))), ["X", "(8, 2)", 9]),
    ],
)
def test_operand_shapes(call, words):
    check(ValueError, words, call)


@pytest.mark.parametrize(
    ("operand", "word"),
    [
        (np.ones(9, complex), "complex128"),
        (np.ones(9, object), "object"),
        (np.array(["a"] * 9), "<U1"),
        (None, "X"),
        ("abc", "X"),
        ([[1], [2, 3]], "list"),
    ],
)
def test_operand_types(operand, word):
    check(TypeError, ["X", word], bqq.matmul, Q, operand)


def test_gradients_are_not_lost_without_a_word():
    torch = pytest.importorskip("torch")
    w = torch.ones(9, requires_grad=True)
    for operand in (w, 2 * w, torch.nn.Parameter(torch.ones(9, 3))):
        check(ValueError, ["X requires a gradient", "detach()"], bqq.matmul, Q, operand)
        check(
            ValueError,
            ["X requires a gradient", "detach()"],
            lambda X: X @ Q,
            operand.mT if operand.ndim > 1 else operand,
        )
        plain = operand.detach()
        np.testing.assert_array_equal(bqq.matmul(Q, plain), bqq.matmul(Q, plain.numpy()))
    check(ValueError, ["out requires a gradient"], bqq.matmul, Q, torch.ones(9), torch.ones(9, requires_grad=True))
    with torch.no_grad():
        np.testing.assert_array_equal(Q @ w, Q @ np.ones(9, np.float32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's of its own tracer
def test_forward_gradients_and_traces_are_not_lost_without_a_word():
    torch = pytest.importorskip("torch")
    x, forward = torch.ones(9), torch.autograd.forward_ad
    with forward.dual_level():
        dual = forward.make_dual(x, x)
        check(ValueError, ["X has a forward gradient"], bqq.matmul, Q, dual)
        check(ValueError, ["X has a forward gradient"], bqq.matmul, dual, Q)
        np.testing.assert_array_equal(Q @ forward.unpack_dual(dual).primal, Q @ np.ones(9, np.float32))
    with pytest.raises(ValueError, match="X is being traced"):
        torch.jit.trace(lambda v: Q @ v, x)
    np.testing.assert_array_equal(Q @ x, Q @ np.ones(9, np.float32))


def test_arrays_without_values_of_their_own():
    torch = pytest.importorskip("torch")
    check(ValueError, ["W", "meta", "no values"], bqq.decompose, torch.empty(3, 3, device="meta"), 1)
    sparse = pytest.importorskip("scipy.sparse")
    for operand in (sparse.eye(9), sparse.csr_array(np.eye(9))):
        check(TypeError, ["W", "sparse", "toarray()"], bqq.decompose, operand, 1)
        check(TypeError, ["X", "sparse", "toarray()"], bqq.matmul, Q, operand)


def test_columns_that_may_lack_values():
    class DataFrame:  # as pandas has it, of nullable columns
        def __array__(self, dtype=None, copy=None):
            return np.array([[1], [None], [3]], object)

        def to_numpy(self, dtype):
            return np.ones((3, 1), dtype)

    check(TypeError, ["W", "DataFrame", "to_numpy("], bqq.decompose, DataFrame(), 1)


@pytest.mark.parametrize("size", [1e-300, -1e-60])
def test_too_small_for_float32(size):
    check(ValueError, ["W", "too small for float32"], bqq.decompose, np.full((3, 3), size), 1)
    assert bqq.decompose(np.full((3, 3), 1e-38), 1).reconstruct().any()
    assert not bqq.decompose(np.zeros((3, 3)), 1).reconstruct().any()


def test_small_floats_of_ml_dtypes():
    """All or none: what decompose takes, matmul takes; what it does not take is named."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("float8_e5m2", "float8_e4m3fn", "int4"):
        ones = np.ones((9, 9), getattr(ml_dtypes, name))
        try:
            bqq.decompose(ones, 1, steps=1)
        except TypeError as error:
            assert name in str(error)  # noqa: PT017
            check(TypeError, ["X", name], bqq.matmul, Q, ones)
        else:
            np.testing.assert_allclose(Q @ ones, Q @ np.ones((9, 9)))


@pytest.mark.parametrize("pair", [(W, X), (Q, Q.T), (Q, None), (3, 4)])
def test_matmul_takes_one_matrix_and_one_array(pair):
    check(TypeError, [], bqq.matmul, *pair)


def test_product_of_two_matrices():
    """As matmul: q @ q must not unpack one of the two behind the caller's back."""
    check(TypeError, ["Matrix"], lambda: Q @ Q.T)


def out_cases():
    readonly = np.zeros(12, np.float32)
    readonly.flags.writeable = False
    buffer = np.zeros(24, np.float32)
    both = np.zeros((12, 9), np.float32)
    return [
        (ValueError, ["out", "(11,)", "(12,)"], X[:, 0], np.zeros(11, np.float32)),
        (ValueError, ["out", "(12, 1)", "(12,)"], X[:, 0], np.zeros((12, 1), np.float32)),
        (ValueError, ["out", "(9, 12)", "(12, 12)"], X, np.zeros((9, 12), np.float32)),
        (ValueError, ["out"], X[:, 0], readonly),
        (ValueError, ["out", "X"], buffer[:9], buffer[:12]),
        (ValueError, ["out", "X"], buffer[8:17], buffer[16::-1][:12]),
        (ValueError, ["out", "X"], both.T[:, :3], both[:, :3]),
        (TypeError, ["out", "int32"], X[:, 0], np.zeros(12, np.int32)),
        (TypeError, ["out", "complex64"], X[:, 0], np.zeros(12, np.complex64)),
        (TypeError, ["out", ">f4"], X[:, 0], np.zeros(12, ">f4")),
        (TypeError, ["out"], X[:, 0], [0.0] * 12),
        (TypeError, ["out"], X[:, 0], "out"),
        (TypeError, ["out"], W.T, random_matrix(12, 12)),
    ]


@pytest.mark.parametrize(("error", "words", "operand", "out"), out_cases())
def test_out(error, words, operand, out):
    before = np.array(out) if isinstance(out, np.ndarray) else None
    check(error, words, bqq.matmul, Q, operand, out)
    if before is not None:
        np.testing.assert_array_equal(out, before)


def test_out_of_torch():
    """bfloat16 cannot be written through NumPy: an error, or the result; never a silent nothing."""
    torch = pytest.importorskip("torch")
    out = torch.zeros(12, dtype=torch.bfloat16)
    try:
        bqq.matmul(Q, torch.from_numpy(X[:, 0].copy()), out)
    except TypeError as error:
        assert "out" in str(error)  # noqa: PT017
    else:
        np.testing.assert_allclose(out.float().numpy(), Q @ X[:, 0], rtol=1e-2)
    for bad in (torch.zeros(12, dtype=torch.int32), torch.zeros(12, dtype=torch.complex64)):
        check(TypeError, ["out"], bqq.matmul, Q, X[:, 0], bad)


# --- from_factors ---

Y, Z, C = np.ones((2, 4, 3)), np.zeros((2, 3, 5)), np.arange(7.0)


@pytest.mark.parametrize(
    ("error", "words", "args"),
    [
        (ValueError, ["Y"], (2 * Y, Z, C)),
        (ValueError, ["Y"], (-Y, Z, C)),
        (ValueError, ["Y"], (Y * np.nan, Z, C)),
        (ValueError, ["Z"], (Y, Z + 0.5, C)),
        (ValueError, ["Y", "()"], ("bits", Z, C)),
        (ValueError, ["Y", "(4, 3)"], (Y[0], Z, C)),
        (ValueError, ["Z"], (Y, Z[:1], C)),
        (ValueError, ["Z"], (Y, Z[:, :2], C)),
        (ValueError, ["scales"], (Y, Z, C[:6])),
        (ValueError, ["scales", "(1, 7)"], (Y, Z, C[None])),
        (ValueError, ["scale"], (Y, Z, np.where(C == 2, np.nan, C))),
        (ValueError, ["scale"], (Y, Z, np.where(C == 2, np.inf, C))),
        (ValueError, ["scale"], (Y, Z, np.where(C == 2, 1e300, C))),
        (TypeError, ["scales"], (Y, Z, C * 1j)),
        ((TypeError, ValueError), ["scales"], (Y, Z, "scales")),
        (ValueError, ["shape", 6], (Y, Z, C, (6, 5))),
        (ValueError, ["shape", 3], (Y, Z, C, (3, 5))),
        (ValueError, [-4], (Y, Z, C, (-4, 5))),
        (ValueError, ["shape"], (Y, Z, C, (HUGE, 5))),
        ((TypeError, ValueError), ["shape"], (Y, Z, C, (4, 5, 6))),
        ((TypeError, ValueError), ["shape"], (Y, Z, C, 4)),
        (TypeError, ["shape"], (Y, Z, C, (4.0, 5))),
        (ValueError, ["p", 0], (Y[:0], Z[:0], C[:1])),
        (ValueError, ["l", 0], (Y[..., :0], Z[:, :0], C)),
        (ValueError, ["p", 65], (np.ones((65, 2, 2)), np.ones((65, 2, 2)), np.ones(196))),
        (
            ValueError,
            ["Y", 2],
            (np.ones((2, 1, 1, 3, 2)), np.ones((2, 1, 1, 2, 3)), np.ones((2, 1, 4)), (5, 3)),
        ),
        (
            ValueError,
            ["Z"],
            (np.ones((1, 2, 1, 3, 2)), np.ones((1, 2, 1, 2, 3)), np.ones((1, 2, 4)), (3, 5)),
        ),
        (
            ValueError,
            [4],
            (np.zeros((4, 1, 1, 2, 2)), np.zeros((4, 1, 1, 2, 3)), np.ones((4, 1, 4)), (5, 3)),
        ),
    ],
)
def test_from_factors(error, words, args):
    check(error, words, bqq.Matrix.from_factors, *args)


# --- files ---


@pytest.mark.parametrize(
    ("error", "words", "items", "options"),
    [
        (TypeError, ["name", 1], {1: Q}, {}),
        (ValueError, ["empty"], {"": Q}, {}),
        (ValueError, ["empty"], {"": W}, {}),
        (ValueError, ["__metadata__"], {"__metadata__": Q}, {}),
        (ValueError, ["NUL"], {"a\0b": W}, {}),
        (ValueError, ["name"], {"\udc80": W}, {}),
        (ValueError, ["name"], {"\udc80": Q}, {}),
        (ValueError, ["a.bqq_y"], {"a.bqq_y": W}, {}),
        (ValueError, ["a.bqq_scales"], {"a": Q, "a.bqq_scales": W}, {}),
        (TypeError, ["x", "complex128"], {"x": W.astype(complex)}, {}),
        (TypeError, ["x", "object"], {"x": None}, {}),
        (TypeError, ["x", "<U1"], {"x": np.array(["a"])}, {}),
        (TypeError, ["x", "list"], {"x": [[1], [1, 2]]}, {}),
        (TypeError, ["tensors"], W, {}),
        (TypeError, ["tensors"], 5, {}),
        (ValueError, ["scales", "'half'"], {"a": Q}, {"scales": "half"}),
        (ValueError, ["bqq"], {"a": Q}, {"metadata": {"bqq": "1"}}),
        (ValueError, ["bqq.a"], {"a": Q}, {"metadata": {"bqq.a": "1"}}),
        (TypeError, ["metadata"], {"a": Q}, {"metadata": {"k": 1}}),
        (TypeError, ["metadata"], {"a": Q}, {"metadata": {1: "v"}}),
        (TypeError, ["metadata"], {"a": Q}, {"metadata": 7}),
        (ValueError, ["metadata"], {"a": Q}, {"metadata": {"k": "\udc80"}}),
    ],
)
def test_save(tmp_path, error, words, items, options):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    check(error, words, bqq.save, path, items, **options)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("error", "words", "tensor"),
    [
        (ValueError, ["x", 4, 6], bqq.RawTensor("F8_E4M3", (2, 3), np.zeros(4, np.uint8))),
        (ValueError, ["x", "Q7"], bqq.RawTensor("Q7", (4,), np.zeros(4, np.uint8))),
        (ValueError, ["x", -4], bqq.RawTensor("U8", (-4, -1), np.zeros(4, np.uint8))),
        (TypeError, ["x"], bqq.RawTensor("BF16", (2,), np.zeros(2, np.float32))),
    ],
)
def test_save_raw(tmp_path, error, words, tensor):
    check(error, words, bqq.save, tmp_path / "w.safetensors", {"x": tensor})
    assert not list(tmp_path.iterdir())


def test_scales_too_large_for_float16(tmp_path):
    q = bqq.Matrix.from_factors(Y, Z, C * 1e10)
    check(ValueError, ["big", "float16"], bqq.save, tmp_path / "w", {"big": q}, scales="float16")
    assert not list(tmp_path.iterdir())


def test_paths(tmp_path):
    missing, folder = tmp_path / "missing.safetensors", tmp_path / "folder"
    folder.mkdir()
    for error, words, call, args in (
        (OSError, ["missing.safetensors"], bqq.load, (missing,)),
        (OSError, ["folder"], bqq.load, (folder,)),
        (OSError, ["folder"], bqq.save, (folder, Q)),
        (OSError, ["nowhere"], bqq.save, (tmp_path / "nowhere" / "w", Q)),
        (ValueError, ["NUL"], bqq.load, ("a\0b",)),
        (ValueError, ["NUL"], bqq.save, (f"{tmp_path}/a\0b", Q)),
        (TypeError, ["int"], bqq.load, (5,)),
        (TypeError, ["int"], bqq.save, (5, Q)),
    ):
        check(error, words, call, *args)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# --- the instruction set ---


@pytest.mark.parametrize("name", ["nope", "AVX2", "avx1024", "generic ", "sse"])
def test_unknown_instruction_set(name):
    """Importing and looking at a matrix work; computing says what is wrong."""
    code = """if True:
        import bqq
        q = bqq.Matrix.from_factors([[[1, 0]]], [[[1], [0]]], [1, 2, 3, 4])
        print(q)
        for call in (lambda: bqq.decompose([[1.0, 2.0]], 1), lambda: q @ [1.0]):
            try:
                call()
            except RuntimeError as error:
                print(error)
        """
    lines = finish(start_python(code, BQQ_ISA=name)).splitlines()
    assert len(lines) == 3
    for line in lines[1:]:
        assert "BQQ_ISA" in line
        assert repr(name) in line
        assert "generic" in line


def test_instruction_set_caps():
    code = "import bqq; print(bqq.show_config('dict')['isa'])"
    for isa in available_isas():
        assert run_isa(isa, code).strip() == isa
    assert run_isa("", code).strip() == available_isas()[-1]


def test_unsupported_instruction_set():
    config = bqq.show_config("dict")
    assert config is not None
    missing = set(config["isa_built"].split()) - set(available_isas())
    if not missing:
        pytest.skip("this machine can run all instruction sets of the build")
    code = """if True:
        import bqq
        try:
            bqq.decompose([[1.0, 2.0]], 1)
        except RuntimeError as error:
            print(error)
        """
    for name in missing:
        assert name in run_isa(name, code)


def test_no_warnings_from_legal_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = bqq.decompose(W.astype(np.float16), 1, steps=3)
        assert np.isfinite(q @ X).all()


def test_dlpack_alone_is_enough():
    class Exporter:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    assert bqq.decompose(Exporter(W.copy()), 1, steps=5, refine=5).shape == W.shape


@pytest.mark.parametrize("shape", [(2**63 - 1, 9), (12, 2**63 - 1), (2**62, 2**62), (-(2**63), 9), (2**41, 9)])
def test_planes_of_a_huge_shape(shape):
    """What pickles call with whatever they hold."""
    restore, (_, grid, p, l, *arrays) = Q.__reduce__()
    with pytest.raises(bqq.FormatError):
        restore(shape, grid, p, l, *arrays)
