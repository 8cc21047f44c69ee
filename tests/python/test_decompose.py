"""decompose and extend: quality, reproducibility, unusual inputs, progress, interruption."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest

import bqq
from conftest import (
    available_isas,
    finish,
    random_matrix,
    run_isa,
    same,
    standardise,
    start_python,
    torch_randn,
)

FAST = {"steps": 100, "refine": 20}


def noise(m, n, seed=0):
    return np.random.default_rng(seed).standard_normal((m, n)).astype(np.float32)


@pytest.fixture(scope="module")
def gaussian():
    """The matrix of the published 128 x 128 table."""
    return standardise(torch_randn(1, 128, 128))


# --- inputs ---


def test_torch_randn_known_values():
    first = torch_randn(1, 128, 128).ravel()[:6]
    expected = [-1.5256, -0.7502, -0.6540, -1.6095, -0.1002, -0.6092]
    np.testing.assert_allclose(first, expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 4), (128, 128), (3, 7), (33, 129)])
def test_torch_randn_equals_torch(shape):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    np.testing.assert_allclose(torch_randn(5, *shape), torch.randn(*shape).numpy(), atol=2e-6)


# --- quality ---


def paper_quality(W, steps, limits):
    q = bqq.decompose(W, 1, schedule="paper", steps=steps)
    for limit in limits:
        assert q.mse(W) <= limit
        q = bqq.extend(q, W, q.p + 1, schedule="paper", steps=steps) if q.p < len(limits) else q


def test_paper_quality_in_short(gaussian):
    paper_quality(gaussian, 5000, [0.345, 0.117])


@pytest.mark.slow
def test_paper_quality(gaussian):
    paper_quality(gaussian, None, [0.330, 0.108])


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
def test_error_never_rises_with_p(schedule):
    W = noise(48, 40)
    errors = [bqq.decompose(W, p, schedule=schedule, steps=300).mse(W) for p in range(1, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < W.var()
    assert errors[-1] < errors[0] / 2


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
def test_more_steps_help(schedule):
    W = noise(64, 64)
    errors = [bqq.decompose(W, 1, schedule=schedule, steps=s, refine=False).mse(W) for s in (100, 3000)]
    assert errors[1] < errors[0]


def test_error_and_mse_are_those_of_the_reconstruction():
    W = noise(37, 21)
    q = bqq.decompose(W, 2, patch=16, **FAST)
    difference = W.astype(float) - q.reconstruct()
    assert q.mse(W) == pytest.approx((difference**2).mean(), rel=1e-5)
    assert q.error(W) == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(W.astype(float)), rel=1e-5)


def test_defaults_of_the_schedules():
    W = noise(9, 8)
    assert same(bqq.decompose(W, 1), bqq.decompose(W, 1, schedule="adaptive", steps=2000))
    assert same(
        bqq.decompose(W, 1, schedule="paper"),
        bqq.decompose(W, 1, schedule="paper", steps=50_000),
    )


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
@pytest.mark.parametrize(("shape", "l"), [((40, 24), 3), ((64, 48), 4), ((64, 64), 8)])
def test_planted_factors_are_found(shape, l, schedule):
    """Noise-free products of +-1 factors come back exactly from most starts."""
    rng = np.random.default_rng(1)
    Y, Z = rng.integers(0, 2, (1, shape[0], l)), rng.integers(0, 2, (1, l, shape[1]))
    W = bqq.Matrix.from_factors(Y, Z, [1, -0.5, -0.5, l / 4]).reconstruct()
    options = {"schedule": schedule, "steps": 2000}
    errors = [bqq.decompose(W, 1, l, seed=seed, **options).error(W) for seed in range(5)]
    assert sorted(errors)[2] < 1e-6


# --- the same result again ---


def test_extend_equals_decompose():
    W = noise(50, 45)
    for schedule in ("adaptive", "paper"):
        for patch in (None, 16):
            options = {"schedule": schedule, "seed": 7, **FAST}
            whole = bqq.decompose(W, 3, patch=patch, **options)
            grown = bqq.extend(bqq.decompose(W, 1, patch=patch, **options), W, 2, **options)
            assert same(grown, bqq.decompose(W, 2, patch=patch, **options))
            assert same(bqq.extend(grown, W, 3, **options), whole)
            assert same(bqq.extend(whole, W, 3, **options), whole)


def test_extend_of_a_hand_made_matrix_keeps_its_bits():
    W = noise(20, 13)
    q = random_matrix(20, 13, J=2, K=2, p=2, l=5)
    grown = bqq.extend(q, W, 4, **FAST)
    assert grown.p == 4
    np.testing.assert_array_equal(grown.Y[:, :, :2], q.Y)
    np.testing.assert_array_equal(grown.Z[:, :, :2], q.Z)
    assert grown.mse(W) < min(q.mse(W), W.var())


def test_prefix_has_the_bits_of_a_smaller_p():
    W = noise(40, 30)
    q = bqq.decompose(W, 3, patch=20, **FAST)
    for k in (1, 2, 3):
        small, prefix = bqq.decompose(W, k, patch=20, **FAST), q.prefix(k)
        np.testing.assert_array_equal(prefix.Y, small.Y)
        np.testing.assert_array_equal(prefix.Z, small.Z)


@pytest.mark.parametrize(("shape", "patch"), [((33, 33), None), ((70, 45), 16), ((7, 300), 128), ((5, 5), 1)])
def test_threads_do_not_change_the_result(shape, patch):
    W = noise(*shape)
    first, *others = (bqq.decompose(W, 2, patch=patch, threads=threads, **FAST) for threads in (1, 2, 4, 1000, None))
    for other in others:
        assert same(first, other)


def test_threads_from_the_environment():
    code = "import bqq; print(bqq.show_config('dict')['threads'])"
    assert finish(start_python(code, BQQ_NUM_THREADS="1")).strip() == "1"
    assert finish(start_python(code, BQQ_NUM_THREADS="", OMP_NUM_THREADS="1")).strip() == "1"


def test_seed():
    W = noise(24, 24)
    seeds = (0, 1, 2**32, 2**32 + 1, 2**64 - 1)
    first, again = ([bqq.decompose(W, 1, seed=s, **FAST) for s in seeds] for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for i, a in enumerate(first) for b in first[:i])


def test_blocks_are_independent():
    """A block's bits depend on its own numbers and place only."""
    W = noise(40, 20)
    other = W.copy()
    other[20:] = 0
    a, b = (bqq.decompose(w, 1, patch=20, **FAST) for w in (W, other))
    np.testing.assert_array_equal(a.Y[0], b.Y[0])
    np.testing.assert_array_equal(a.scales[0], b.scales[0])
    assert not np.array_equal(a.Y[1], b.Y[1])


def test_blocks_have_random_numbers_of_their_own():
    W = np.tile(noise(16, 16), (2, 2))
    Y = bqq.decompose(W, 1, patch=16, steps=1).Y
    assert len({Y[j, k].tobytes() for j in range(2) for k in range(2)}) == 4


def test_input_is_not_changed_and_its_layout_does_not_matter():
    W = noise(30, 20)
    expected = bqq.decompose(W, 1, **FAST)
    wide = np.zeros((60, 40), np.float32)
    wide[::-2, ::2] = W
    readonly = W.copy()
    readonly.flags.writeable = False
    for other in (
        W.astype(np.float64),
        np.asfortranarray(W),
        wide[::-2, ::2],
        W.astype(">f4"),
        W.tolist(),
        readonly,
    ):
        before = np.array(other)
        assert same(bqq.decompose(other, 1, **FAST), expected)
        np.testing.assert_array_equal(np.array(other), before)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f8", "g"])
def test_real_dtypes(dtype):
    W = (noise(12, 10) * 4).astype(dtype)
    assert same(bqq.decompose(W, 1, **FAST), bqq.decompose(W.astype(np.float32), 1, **FAST))


def test_bfloat16_and_torch():
    W = np.round(noise(12, 10) * 8) / 8  # exact in bfloat16
    expected = bqq.decompose(W, 1, **FAST)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert same(bqq.decompose(W.astype(ml_dtypes.bfloat16), 1, **FAST), expected)
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(W)
    for other in (
        tensor,
        tensor.T.contiguous().T,
        tensor.to(torch.bfloat16),
        tensor.half(),
        tensor.double().requires_grad_(),
        torch.nn.Parameter(tensor),
    ):
        q = bqq.decompose(other, 1, **FAST)
        assert same(q, expected)
        assert q.error(other) == expected.error(W)


@pytest.mark.parametrize("isa", available_isas()[:-1])
def test_every_instruction_set_is_as_good(isa):
    code = "import test_decompose as t; print(t.mse_of_a_sample())"
    assert float(run_isa(isa, code)) == pytest.approx(mse_of_a_sample(), rel=0.05)


def mse_of_a_sample():
    W = noise(96, 80)
    return bqq.decompose(W, 2, patch=48, steps=500).mse(W)


# --- unusual matrices ---


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.25, 1e-30, -1e30, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (13, 17)])
def test_constant_is_exact(shape, value, schedule):
    W = np.full(shape, value, np.float32)
    q = bqq.decompose(W, 2, patch=8, schedule=schedule, **FAST)
    np.testing.assert_array_equal(q.reconstruct(), W)
    assert q.error(W) == 0
    assert q.mse(W) == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 40), (40, 1), (2, 2), (3, 100), (100, 3)])
@pytest.mark.parametrize("p", [1, 4])
def test_thin_shapes(shape, p):
    W = noise(*shape)
    q = bqq.decompose(W, p, **FAST)
    assert q.shape == shape
    assert q.mse(W) <= W.var() * (1 + 1e-5) + 1e-12
    np.testing.assert_allclose(q @ np.ones(shape[1]), q.reconstruct().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
@pytest.mark.parametrize("scale", [1e-35, 1e-30, 1e-10, 1e10, 1e30, 1e37])
def test_magnitude_does_not_matter(scale, schedule):
    W = noise(32, 24)
    options = {"schedule": schedule, "steps": 300}
    expected = bqq.decompose(W, 2, **options).error(W)
    scaled = W.astype(np.float64) * scale
    q = bqq.decompose(scaled, 2, **options)
    assert q.error(scaled) == pytest.approx(expected, rel=0.1)
    assert np.isfinite(q.reconstruct()).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_whole_range_of_float32(seed):
    """A scale that float32 cannot hold is an error, not a broken matrix."""
    for size, finite in ((3.4e38, 1), (1.4e-45, np.inf)):
        W = np.where(noise(16, 16, seed) > 0, size, -size)
        try:
            q = bqq.decompose(W, 1, seed=seed, **FAST)
        except ValueError as error:
            assert "W" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(q.scales).all()
            assert q.error(W) < finite


@pytest.mark.parametrize("schedule", ["adaptive", "paper"])
@pytest.mark.parametrize("offset", [1000.0, -1000.0])
def test_large_offset(offset, schedule):
    W = noise(48, 48)
    options = {"schedule": schedule, "steps": 500}
    plain = bqq.decompose(W, 2, **options).mse(W)
    shifted = (W.astype(np.float64) + offset).astype(np.float32)
    assert bqq.decompose(shifted, 2, **options).mse(shifted) == pytest.approx(plain, rel=0.2)


def test_heavy_outlier():
    """The adaptive schedule keeps the other elements useful."""
    W = noise(64, 64)
    rest = np.ones(W.shape, bool)
    rest[20, 30] = False
    plain = bqq.decompose(W, 2).mse(W)
    W[20, 30] = 40
    error = (W - bqq.decompose(W, 2).reconstruct())[rest].var()
    assert error < 0.5
    assert plain < error


def test_few_distinct_values():
    W = np.zeros((30, 30))
    W[11, 17] = 1
    assert bqq.decompose(W, 1).mse(W) <= W.var() * (1 + 1e-6)
    rank_one = np.outer(np.arange(30) % 2, np.arange(25) % 3 == 0) * 5.0 - 2
    assert min(bqq.decompose(rank_one, 1, l=1, seed=s).error(rank_one) for s in range(4)) < 1e-6


# --- shapes: l, patch, size ---


@pytest.mark.parametrize("l", [1, 2, 7, 8, 9, 31, 64, 100])
def test_l(l):
    W = noise(19, 23)
    q = bqq.decompose(W, 2, l, steps=30)
    assert q.l == l
    assert q.Y.shape == (1, 1, 2, 19, l)
    assert q.Z.shape == (1, 1, 2, l, 23)
    assert same(q, bqq.decompose(W, 2, l=l, steps=30))


@pytest.mark.parametrize(
    ("shape", "patch", "grid", "block"),
    [
        ((100, 100), None, (1, 1), (100, 100)),
        ((512, 9), None, (1, 1), (512, 9)),
        ((513, 9), None, (3, 1), (171, 9)),
        ((9, 600), None, (1, 3), (9, 200)),
        ((100, 100), 30, (4, 4), (25, 25)),
        ((101, 99), 30, (4, 4), (26, 25)),
        ((10, 7), 3, (4, 3), (3, 3)),
        ((5, 3), 1, (5, 3), (1, 1)),
        ((5, 3), 1000, (1, 1), (5, 3)),
    ],
)
def test_patch(shape, patch, grid, block):
    W = noise(*shape)
    q = bqq.decompose(W, 1, patch=patch, steps=20)
    assert (q.grid, q.patch) == (grid, block)
    rows, cols = block
    assert q.l == max(1, int(rows * cols / (rows + cols) + 0.5))
    assert q.mse(W) <= W.var() * (1 + 1e-5)
    last_rows, last_cols = shape[0] - (grid[0] - 1) * rows, shape[1] - (grid[1] - 1) * cols
    assert not q.Y[-1, :, :, last_rows:].any()
    assert not q.Z[:, -1, ..., last_cols:].any()


@pytest.mark.parametrize(("shape", "patch", "p"), [((30, 41), 16, 3), ((128, 128), None, 2)])
def test_size_counts_padding(shape, patch, p):
    q = bqq.decompose(noise(*shape), p, patch=patch, steps=10)
    (rows, cols), (J, K) = q.patch, q.grid
    planes = p * (rows * -(-q.l // 8) + q.l * -(-cols // 8))
    assert q.nbytes == J * K * (planes + 4 * (3 * p + 1))
    assert q.bits_per_weight == 8 * q.nbytes / (shape[0] * shape[1])


# --- progress ---


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("size", "p", "steps"), [(64, 2, 2000), (8, 1, 1), (200, 1, 200)])
def test_progress_callable(size, p, steps, threads):
    calls = []
    W = noise(size, size)
    options = {"patch": 64, "steps": steps, "refine": 30, "threads": threads}
    q = bqq.decompose(W, p, progress=lambda *a: calls.append(a), **options)
    total = q.grid[0] * q.grid[1] * p * (steps + 30)
    assert [t for _, t in calls] == [total] * len(calls)
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] == total
    assert same(q, bqq.decompose(W, p, **options))


def test_progress_of_extend_counts_new_stacks_only():
    W, calls = noise(20, 20), []
    q = bqq.decompose(W, 2, **FAST)
    bqq.extend(q, W, 5, progress=lambda *a: calls.append(a), **FAST)
    assert calls[-1] == (360, 360)


@pytest.mark.parametrize("answer", [False, None, 0, "stop"])
def test_what_progress_returns_does_not_matter(answer):
    W = noise(20, 20)
    q = bqq.decompose(W, 1, progress=lambda done, total: answer, **FAST)
    assert same(q, bqq.decompose(W, 1, **FAST))


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("enough"), Stop("enough"), KeyboardInterrupt()])
@pytest.mark.parametrize(("patch", "threads"), [(None, 1), (None, 2), (64, 1), (64, 2)])
def test_progress_may_raise(error, patch, threads):
    calls = []

    def progress(done, total):
        calls.append((done, total))
        raise error

    W = noise(128, 128)
    with pytest.raises(type(error)) as caught:
        bqq.decompose(W, 2, patch=patch, steps=1_000_000, threads=threads, progress=progress)  # would take minutes
    assert caught.value is error
    assert calls[0][0] < calls[0][1]
    assert len(calls) == 1, "called again after it had raised"
    assert bqq.decompose(W, 1, patch=patch, threads=threads, steps=5).shape == (128, 128)


def test_progress_is_called_once_after_it_raised_in_slow_steps():
    """One step takes longer than the time between two reports."""
    calls = []

    def progress(done, total):
        calls.append(done)
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        bqq.decompose(noise(1024, 512), 1, patch=512, steps=50, threads=2, progress=progress)
    assert len(calls) == 1


def test_progress_bar(capsys):
    W = noise(20, 20)
    with_bar = bqq.decompose(W, 1, progress=True, **FAST)
    assert "120/120" in capsys.readouterr().err
    for silent in (None, False):
        assert same(bqq.decompose(W, 1, progress=silent, **FAST), with_bar)
        assert capsys.readouterr().err == ""


# --- signals and processes ---

INTERRUPTED = """
import sys, time
import numpy as np
import bqq
W = np.random.default_rng(0).standard_normal((256, 256)).astype("f4")
def report(done, total):
    print("running", flush=True)
try:
    bqq.decompose(W, 2, patch={patch}, steps=10_000_000, threads={threads}, progress=report)
except KeyboardInterrupt:
    print("interrupted", flush=True)
q = bqq.decompose(W, 1, patch={patch}, steps=5, threads={threads})
print("healthy", (q @ W).shape == (256, 256))
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("patch", "threads"), [(None, 1), (64, 1), (64, 2)])
def test_interrupt(patch, threads):
    process = start_python(INTERRUPTED.format(patch=patch, threads=threads))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    lines = finish(process, timeout=30).split("\n")
    assert [line for line in lines if line != "running"] == ["interrupted", "healthy True", ""]


FORKING = """
import os, signal, sys
import numpy as np
import bqq
W = np.random.default_rng(0).standard_normal((96, 96)).astype("f4")
def work():
    q = bqq.decompose(W, 1, patch=24, steps=20, threads=2)
    return q.scales.tobytes() + bqq.matmul(q, W, threads=2).tobytes()
before = work() if {threaded} else None
child = os.fork()
if not child:
    signal.alarm(50)  # ends a child that hangs
    after = work()
    os._exit(0 if before in (None, after) else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
again = work()
sys.exit(code or (0 if before in (None, again) else 2))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("threaded", [True, False])
def test_fork(threaded):
    finish(start_python(FORKING.format(threaded=threaded)), timeout=60)


FORKING_AFTER_ANOTHER_USER_OF_OPENMP = """
import ctypes, os, signal, sys
import numpy as np
import bqq
if "libgomp.so.1" not in open("/proc/self/maps").read():
    sys.exit(0)
gomp, libc = ctypes.CDLL("libgomp.so.1"), ctypes.CDLL(None)
gomp.GOMP_parallel(libc.free, None, 2, 0)  # starts its workers
child = os.fork()
if not child:
    signal.alarm(15)  # ends a child that hangs
    bqq.decompose(np.random.default_rng(0).random((64, 64)), 1, patch=16, steps=5, threads=2)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp and fork")
def test_fork_after_another_library_used_openmp():
    """The first call of this library may come after the fork that lost the workers."""
    finish(start_python(FORKING_AFTER_ANOTHER_USER_OF_OPENMP), timeout=20)


POOL = """
import concurrent.futures, multiprocessing, pickle
import numpy as np
import bqq
def work(seed):
    W = np.random.default_rng(seed).standard_normal((64, 64)).astype("f4")
    return bqq.decompose(W, 1, patch=16, steps=20, threads=2)
first = work(0)
with concurrent.futures.{executor} as executor:
    results = list(executor.map(work, range(4)))
assert results[0].scales.tobytes() == first.scales.tobytes()
assert [q.shape for q in results] == [(64, 64)] * 4
"""


@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_pools(kind):
    if kind == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork")
    executor = {
        "fork": "ProcessPoolExecutor(2, multiprocessing.get_context('fork'))",
        "threads": "ThreadPoolExecutor(4)",
    }[kind]
    finish(start_python(POOL.format(executor=executor)), timeout=60)


def test_show_config(capsys):
    config = bqq.show_config("dict")
    assert config is not None
    assert config["version"] == bqq.__version__
    assert config["isa"] in config["isa_available"].split()
    assert set(config["isa_available"].split()) <= set(config["isa_built"].split())
    assert bqq.show_config() is None
    printed = capsys.readouterr().out
    assert all(f"{key} " in printed and value in printed for key, value in config.items())


@pytest.mark.parametrize("seed", [0, 1])
def test_effort_and_refinement_lower_the_error(seed):
    W = standardise(torch_randn(seed, 64, 64))
    errors = [bqq.decompose(W, 1, effort=effort, seed=seed).mse(W) for effort in ("fast", "default")]
    none = bqq.decompose(W, 1, refine=False, seed=seed).mse(W)
    assert errors[1] < errors[0]
    assert errors[1] < none
    assert bqq.decompose(W, 1, refine=50, seed=seed).mse(W) <= none
    paper = {"schedule": "paper", "steps": 1500, "seed": seed}
    assert bqq.decompose(W, 1, refine=True, **paper).mse(W) < bqq.decompose(W, 1, **paper).mse(W)


def test_default_settings_on_distances():
    """100 random cities like TSPLIB's rd100, whose published MSE is 0.0146 and 0.0023 at one and two bits."""
    points = np.random.default_rng(3).uniform(0, 1000, (100, 2))
    W = standardise(np.round(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))))
    q = bqq.decompose(W, 2)
    assert q.prefix(1).mse(W) < 0.0146
    assert q.mse(W) < 0.003


@pytest.mark.parametrize("size", [40, 140])
def test_refine_true_is_the_efforts_own_number(size):
    """Under the paper's schedule too, which refines nothing unless asked to."""
    W = noise(size, size)
    options = {"schedule": "paper", "steps": 100, "effort": "fast"}
    assert same(bqq.decompose(W, 1, refine=True, **options), bqq.decompose(W, 1, refine=1500, **options))
    assert same(bqq.decompose(W, 1, refine=False, **options), bqq.decompose(W, 1, **options))
    assert same(bqq.decompose(W, 1, refine=True, effort="fast"), bqq.decompose(W, 1, effort="fast"))
