"""Numbers at the edges of their types, arrays of every make: the right answer, or an error that names the argument."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

import bqq
from bqq import ann
from conftest import dense, finish, random_matrix, same, start_python

RNG = np.random.default_rng(0)
G = RNG.standard_normal((24, 18))
FAST = {"steps": 60, "refine": 30}


def with_outlier(value):
    W = G.copy()
    W[3, 4] = value
    return W


def constant_rows():
    return np.repeat(np.arange(24.0)[:, None], 18, 1)


MATRICES = {
    "denormal": G * 1e-40,
    "denormal, one": np.full((3, 3), 1e-45),
    "1e-38": G * 1e-38,
    "1e37": G * 1e37,
    "1e38": np.clip(G, -1, 1) * 1e38,
    "two of 1e38": np.where(G > 0, 1e38, -1e38),
    "outlier": with_outlier(1e6),
    "huge outlier": with_outlier(1e30),
    "largest outlier": with_outlier(-1e38),
    "constant rows": constant_rows(),
    "constant columns": constant_rows().T,
    "zero columns": G * (np.arange(18) % 3 > 0),
    "one column": G * (np.arange(18) == 5),
    "zero": np.zeros((24, 18)),
    "zeros of both signs": np.where(G > 0, 0.0, -0.0),
    "constant": np.full((24, 18), 3.7),
    "far from zero": G + 1e6,
    "hardly not constant": 1 + G * 1e-7,
    "rank 1": np.outer(G[:, 0], G[0]),
    "two levels": (G > 0) * 1.0,
    "one of them": with_outlier(0) * 0 + with_outlier(1) * (np.abs(G - 1) > 9),
    "1 x 1": np.full((1, 1), -2.5),
    "row": G[:1],
    "column": G[:, :1],
    "2 x 1": G[:2, :1],
    "long row": RNG.standard_normal((1, 1500)),
}


def squared(a):
    return float(np.sum(np.square(a, dtype=np.float64)))


def no_worse_than_the_mean(q, W):
    W = np.asarray(W, np.float32).astype(np.float64)
    error, of_mean = squared(dense(q) - W), squared(W - W.mean())
    rounding = (2e-7 * np.abs(W).max()) ** 2 * W.size  # of the scales, to float32
    return error <= of_mean * (1 + 1e-5) + rounding + 1e-88


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("name", MATRICES)
def test_no_worse_than_the_mean(name, p, schedule):
    W = MATRICES[name]
    for patch in (None, 7):
        q = bqq.decompose(W, p, patch=patch, schedule=schedule, **FAST)
        assert np.isfinite(q.scales).all()
        assert no_worse_than_the_mean(q, W)
        assert np.isfinite(q.reconstruct()).all() or np.abs(W).max() > 9e37
        assert no_worse_than_the_mean(bqq.extend(q, W, p + 1, schedule=schedule, **FAST), W)


@pytest.mark.parametrize("effort", ["fast", "default", "best"])
@pytest.mark.parametrize("name", [name for name in MATRICES if name != "long row"])
def test_efforts(name, effort):
    W = MATRICES[name][:9, :8]
    assert no_worse_than_the_mean(bqq.decompose(W, 2, effort=effort), W)


@pytest.mark.parametrize("name", MATRICES)
def test_products_of_what_came_out(name):
    """Both classes, both sides; a result that float32 holds is finite."""
    q = bqq.decompose(MATRICES[name], 2, **FAST)
    W_hat = dense(q)
    X = RNG.standard_normal((q.shape[1], 9)).astype(np.float32)
    for precision, limit in (("float32", 2e-5), ("fast", 0.1)):
        got, want = bqq.matmul(q, X, precision=precision), W_hat @ X
        sizes = np.abs(W_hat).max() * np.abs(X).max() * q.shape[1] + 1e-36
        assert (np.abs(got - want) <= limit * sizes).all() or np.abs(want).max() > 1e38
        got = bqq.matmul(q.T, W_hat / (np.abs(W_hat).max() + 1e-300), precision=precision)
        assert np.isfinite(got).all() or np.abs(W_hat).max() > 1e36


@pytest.mark.parametrize("size", [1e-40, 1e-38, 1e-30, 1e-20, 1e-10, 1e10, 1e19, 1e20, 1e30, 1e37])
def test_encode(size):
    """Squares of such numbers do not fit float32: the bits are those of the same numbers around one."""
    W = G * size
    q = bqq.decompose(W, 2, **FAST)
    coded = bqq.encode(q, W, effort="fast")
    assert squared(dense(coded) - W.astype(np.float32)) <= squared(dense(q) - W.astype(np.float32)) * 1.02
    for other in (W * 0, W + 1e6 * size, np.sign(W) * 1e38):
        rows = np.clip(other, -1e38, 1e38)
        alone = bqq.encode(q, rows[:1], effort="fast")
        np.testing.assert_array_equal(bqq.encode(q, rows, effort="fast").Y[0, 0, :, 0], alone.Y[0, 0, :, 0])


@pytest.mark.parametrize("name", ["constant rows", "zero", "rank 1", "row", "outlier", "constant", "two of 1e38"])
def test_encode_what_was_decomposed(name):
    W = MATRICES[name]
    q = bqq.decompose(W, 2, **FAST)
    assert squared(dense(bqq.encode(q, W, effort="fast")) - W) <= squared(dense(q) - W) * 1.1 + 1e-10 * squared(W)


# --- arrays of every make ---


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = memory.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


F = G.astype(np.float32)
MAKES = {
    "negative strides": (F[::-1, ::-1].copy()[::-1, ::-1], F),
    "every other": (np.repeat(np.repeat(F, 2, 0), 3, 1)[::2, ::3], F),
    "transposed": (F.T.copy().T, F),
    "broadcast": (np.broadcast_to(F[0], (6, 18)), np.tile(F[0], (6, 1))),
    "unaligned": (unaligned(F), F),
    "read-only": (read_only(F), F),
    "big-endian": (F.astype(">f4"), F),
    "float64": (F.astype(np.float64), F),
    "longdouble": (F.astype(np.longdouble), F),
    "float16": (F.astype(np.float16), F.astype(np.float16).astype(np.float32)),
    "int8": ((F * 10).astype(np.int8), (F * 10).astype(np.int8).astype(np.float32)),
    "uint64": (np.abs(F * 10).astype(np.uint64), np.abs(F * 10).astype(np.uint64).astype(np.float32)),
    "bool": (F > 0, (F > 0).astype(np.float32)),
    "nothing masked": (np.ma.MaskedArray(F, np.zeros(F.shape, bool)), F),
    "no mask": (np.ma.MaskedArray(F), F),
    "lists": (F.tolist(), F),
}


@pytest.mark.parametrize("make", MAKES)
def test_arrays_of_every_make(make):
    W, plain = MAKES[make]
    before = np.array(W, copy=True)
    assert same(bqq.decompose(W, 1, **FAST), bqq.decompose(plain, 1, **FAST))
    q = random_matrix(9, plain.shape[0], p=2, l=5)
    if make not in ("longdouble", "uint64"):
        np.testing.assert_allclose(
            np.asarray(bqq.matmul(q, W)), dense(q) @ plain, rtol=0, atol=1e-3 * np.abs(plain).max()
        )
    np.testing.assert_array_equal(np.asarray(W), before)


def test_arrays_that_are_not_aligned():
    """All that takes an array: what it must not do is seen by the undefined behaviour sanitizer."""
    F32, X = F[:6, :5].copy(), RNG.standard_normal((60, 8)).astype(np.float32)
    q, ids, codec = bqq.decompose(F32, 1, steps=9, refine=9), np.arange(60)[::-1].copy(), ann.train(X, 4, effort="fast")
    index = ann.Index(codec)
    index.add(X)

    def indexed(X, ids):
        index = ann.Index(codec)
        index.add(X, ids)
        index.remove(unaligned(ids[:3]))
        return np.concatenate([index.ids, *index.search(unaligned(X[:2]), 3, ids=unaligned(ids[20:]))], axis=None)

    calls = {
        "extend": lambda make: bqq.extend(q, make(F32), 2, **FAST),
        "encode": lambda make: bqq.encode(q, make(F32)),
        "weight": lambda make: bqq.decompose(F32, 1, weight=make(F32.T @ F32), **FAST),
        "weights": lambda make: bqq.decompose(F32, 1, weight=make(np.arange(1, 6.0)), **FAST),
        "error": lambda make: q.error(make(F32)),
        "with_scales": lambda make: q.with_scales(make(q.scales * 2)),
        "from_planes": lambda make: bqq.Matrix.from_planes(*q.planes, make(q.scales), q.shape),
        "from_factors": lambda make: bqq.Matrix.from_factors(q.Y[0, 0], q.Z[0, 0], make(q.scales.ravel())),
        "train": lambda make: ann.train(make(X), 4, effort="fast").encode(X),
        "codes": lambda make: codec.encode(make(X)),
        "index": lambda make: indexed(make(X), make(ids)),
        "range_search": lambda make: index.range_search(make(X), 1.0)[1],
        "reconstruct": lambda make: index.reconstruct(make(ids)),
        "rows": lambda make: ann.search(q, make(F32), 2)[1],
        "left": lambda make: make(F32.T.copy()) @ q,
        "out": lambda make: bqq.matmul(q, F32.T.copy(), out=make(np.zeros((6, 6), np.float32))),
    }
    for name, call in calls.items():
        got, want = call(unaligned), call(np.array)
        assert same(got, want) if isinstance(want, bqq.Matrix) else np.array_equal(got, want), name


@pytest.mark.parametrize(
    ("error", "bad"),
    [
        (ValueError, np.full((3, 3), np.nan)),
        (ValueError, np.full((3, 3), np.inf)),
        (ValueError, np.full((3, 3), 1.1e38)),
        (ValueError, np.full((3, 3), -3.4e38)),
        (ValueError, np.full((3, 3), 1e300)),
        (ValueError, np.full((3, 3), 1e-300)),  # zeros in float32
        (ValueError, np.ma.masked_greater(F, 0)),
        (ValueError, np.zeros((0, 5))),
        (ValueError, np.zeros((5, 0))),
        (ValueError, np.zeros((2, 2, 2))),
        (ValueError, np.float32(1)),
        (TypeError, F.astype(complex)),
        (TypeError, F.astype(object)),
        (TypeError, F.astype(str)),
        (TypeError, F.astype("m8[s]")),
    ],
)
def test_what_is_no_matrix(error, bad):
    for call in (lambda: bqq.decompose(bad, 1), lambda: bqq.extend(random_matrix(3, 3), bad, 2)):
        with pytest.raises(error, match=r"^W"):
            call()


def test_overlapping_out():
    q, memory = random_matrix(8, 8, p=2, l=5), np.ones((9, 8), np.float32)
    for X, out in ((memory[:8], memory[:8]), (memory[:8], memory[1:]), (memory[1:], memory[:8][::-1])):
        with pytest.raises(ValueError, match="out shares memory with X"):
            bqq.matmul(q, X, out=out)
    both = np.ones((8, 16), np.float32)
    bqq.matmul(q, both[:, ::2], out=both[:, 1::2])  # beside each other
    np.testing.assert_allclose(both[:, 1::2], dense(q) @ np.ones((8, 8)), rtol=1e-5, atol=1e-5)
    assert (both[:, ::2] == 1).all()


def test_special_values_in_a_product():
    """As in any product of floats: what is not finite spoils its own column and no other."""
    q = random_matrix(40, 30, J=2, K=2, p=2, l=9)
    for batch in (1, 3, 40):
        for value in (np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0):
            X = RNG.standard_normal((30, batch)).astype(np.float32)
            clean = q @ X
            X[7, batch // 2] = value
            got = q @ X
            others = np.arange(batch) != batch // 2
            np.testing.assert_array_equal(got[:, others], clean[:, others])
            spoiled = got[:, batch // 2]
            assert np.isfinite(spoiled).all() == (abs(value) < 1e30) or value == 3e38
            assert np.isfinite(value) or not np.isfinite(spoiled).any()


# --- sizes ---


@pytest.mark.parametrize(("p", "l"), [(64, 3), (64, 65), (1, 4096), (1, 4097), (2, 3000)])
def test_many_stacks_and_wide_ones(p, l):
    W = G[:6, :5]
    q = bqq.decompose(W, p, l=l, steps=3, refine=2)
    assert (q.p, q.l) == (p, l)
    assert no_worse_than_the_mean(q, W)
    np.testing.assert_allclose(q @ np.eye(5), dense(q), rtol=0, atol=1e-4 * np.abs(q.scales).max() * l)


@pytest.mark.skipif(not sys.platform.startswith("linux") or sys.maxsize < 2**32, reason="sparse files, 64 bits")
def test_beyond_two_to_the_31(tmp_path):
    """Strides, offsets and sizes that do not fit 32 bits, over a file of holes."""
    size = 5 * 2**31
    hole = tmp_path / "hole"
    hole.touch()
    os.truncate(hole, size)
    far = np.memmap(hole, np.float32, "r+")[:: 2**29]  # rows 2 GiB apart
    far = np.lib.stride_tricks.as_strided(far, (5, 4), (2**31, 4))
    far[...] = F[:5, :4]
    assert same(bqq.decompose(far, 1, **FAST), bqq.decompose(F[:5, :4], 1, **FAST))
    q = random_matrix(6, 5, l=3)
    np.testing.assert_array_equal(q @ far, q @ F[:5, :4].copy())
    np.testing.assert_array_equal(far.T @ q.T, F[:5, :4].T @ q.T)

    header = b'{"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path = tmp_path / "big.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\7")
    with bqq.open(path) as file:
        assert file["x"].shape == (size,)
        assert (file["x"][0], file["x"][-1]) == (0, 7)


TOO_LARGE = """
import resource
import numpy as np
import bqq
from bqq import ann
from conftest import random_matrix
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
calls = {
    "l": lambda: bqq.decompose(np.ones((3000, 3000)) + np.eye(3000), 64, l=65535, patch=3000, steps=1, refine=1),
    "encode": lambda: bqq.encode(random_matrix(2, 3, p=64, l=1000), np.ones((2, 3))),
    "batch": lambda: bqq.matmul(random_matrix(2000, 1), np.ones((1, 2**21), np.float32)),
}
for name, call in calls.items():
    try:
        call()
    except MemoryError as error:
        print(name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory")
def test_what_does_not_fit_memory():
    assert finish(start_python(TOO_LARGE)) == "l\nencode\nbatch\n"


# --- weights ---


WEIGHTS = {
    "indefinite": (False, np.diag(np.where(np.arange(18) % 2, 1.0, -1.0)) + 0.1),
    "negative": (False, -np.eye(18)),
    "negative diagonal": (False, -np.ones(18)),
    "one negative": (False, np.where(np.arange(18) == 3, -1e-3, 1.0)),
    "not symmetric": (False, np.triu(np.ones((18, 18)))),
    "nan": (False, np.full((18, 18), np.nan)),
    "inf": (False, np.full(18, np.inf)),
    "zero": (False, np.zeros((18, 18))),
    "zero diagonal": (False, np.zeros(18)),
    "rank 1": (None, np.ones((18, 18))),
    "singular": (None, np.cov(G[:4].T)),
    "one column": (None, (np.arange(18) == 2) * 1.0),
    "1e30": (True, np.eye(18) * 1e30),
    "1e38": (True, np.full(18, 1e38)),
    "1e-38": (True, np.eye(18) * 1e-38),
    "1e-45": (True, np.full(18, 1e-45)),
    "all sizes": (True, 10.0 ** np.linspace(-30, 30, 18)),
}


def in_metric(E, H):
    return float(np.einsum("ij,jk,ik", E, H, E))


@pytest.mark.parametrize("patch", [None, 7])
@pytest.mark.parametrize("damping", [0.01, 0])
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name, damping, patch):
    """An error that names the weight, or bits and scales that are no worse in its metric than the mean."""
    legal, weight = WEIGHTS[name]
    if legal is None:  # with damping
        legal = damping > 0
    options = {"weight": weight, "damping": damping, "patch": patch, **FAST}
    if not legal:
        with pytest.raises(ValueError, match=r"^weight"):
            bqq.decompose(G, 2, **options)
        return
    H = np.asarray(np.diag(weight) if weight.ndim == 1 else weight, np.float64)
    H = H + np.eye(18) * damping * np.trace(H) / 18
    q = bqq.decompose(G, 2, **options)
    assert np.isfinite(dense(q)).all()
    assert in_metric(dense(q) - F, H) <= in_metric(F - F.mean(dtype=float), H) * (1 + 1e-4) + 1e-80
    coded = bqq.encode(bqq.decompose(G, 1, **FAST), G, weight=weight, damping=damping)
    assert np.isfinite(dense(coded)).all()
