"""Inputs and helpers of the Python tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

import _build
import bqq

HERE = Path(__file__).resolve().parent

# Same examples on every run, no files left behind, no opinion on speed.
settings.register_profile("bqq", deadline=None, derandomize=True, database=None)
settings.load_profile("bqq")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def torch_randn(seed: int, m: int, n: int) -> npt.NDArray[np.float32]:
    """What ``torch.manual_seed(seed); torch.randn(m, n)`` gives on the CPU, to float32 rounding.

    Box-Muller over blocks of 16: the first 8 uniforms are radii, the last 8 angles. The last 16
    are drawn anew if the size is no multiple of 16. Needs m*n >= 16.
    """
    size = m * n
    assert size >= 16
    mt19937 = np.random.RandomState(seed)  # the generator torch uses, seeded alike

    def uniforms(count: int) -> npt.NDArray[np.float32]:
        draws = np.frombuffer(mt19937.bytes(4 * count), "<u4") & 0xFFFFFF
        return (draws / np.float32(2**24)).astype(np.float32)

    def normals(u: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        blocks = u.reshape(-1, 2, 8)
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, 0]))
        angle = np.float32(2 * np.pi) * blocks[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()

    values = uniforms(size)
    whole = size // 16 * 16
    values[:whole] = normals(values[:whole])
    if whole < size:
        values[-16:] = normals(uniforms(16))
    return values.reshape(m, n)


def standardise(W: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean 0, standard deviation 1."""
    w = W.astype(np.float64)
    return (w - w.mean()) / w.std()


def random_matrix(
    m: int, n: int, *, J: int = 1, K: int = 1, p: int = 1, l: int = 4, seed: int = 0, extras: str = ""
) -> bqq.Matrix:
    """A matrix of random bits, zero where padded, with scales of either sign around 1. Extras: "r" for an order of the
    rows, "c" of the columns, "e" for entries."""
    rng = np.random.default_rng([seed, m, n, J, K, p, l])
    rows, cols = -(-m // J), -(-n // K)
    Y = rng.integers(0, 2, (J, K, p, rows, l), dtype=np.uint8)
    Z = rng.integers(0, 2, (J, K, p, l, cols), dtype=np.uint8)
    Y[-1, :, :, m - (J - 1) * rows :] = 0
    Z[:, -1, ..., n - (K - 1) * cols :] = 0
    scales = rng.standard_normal((J, K, 3 * p + 1))
    at = rng.choice(m * n, min(m * n, 5), replace=False)
    return bqq.Matrix.from_factors(
        Y,
        Z,
        scales,
        (m, n),
        row_order=rng.permutation(m) if "r" in extras else None,
        col_order=rng.permutation(n) if "c" in extras else None,
        entries=(at // n, at % n, 30 * rng.standard_normal(at.size)) if "e" in extras else None,
    )


def dense(q: bqq.Matrix) -> npt.NDArray[np.float64]:
    """The format's formula in float64, block by block, from the public factors."""
    (m, n), (rows, cols), (J, K) = q.shape, q.patch, q.grid
    Y, Z, c = q.Y.astype(float), q.Z.astype(float), q.scales.astype(float)
    W = np.zeros((J * rows, K * cols))
    for j in range(J):
        for k in range(K):
            block = W[j * rows : (j + 1) * rows, k * cols : (k + 1) * cols]
            block += c[j, k, -1]
            for i in range(q.p):
                (r, s, t), y, z = c[j, k, 3 * i : 3 * i + 3], Y[j, k, i], Z[j, k, i]
                block += r * (y @ z) + s * y.sum(1, keepdims=True) + t * z.sum(0, keepdims=True)
    placed = np.empty((m, n))
    order = np.arange(m) if q.row_order is None else q.row_order
    placed[np.ix_(order, np.arange(n) if q.col_order is None else q.col_order)] = W[:m, :n]
    at = q.entries
    placed[at[0], at[1]] += at[2]
    return placed


def same(a: bqq.Matrix, b: bqq.Matrix) -> bool:
    """Equal shape, bits, scales, orders and entries, bit for bit."""
    return (
        np.array_equal(a.row_order, b.row_order)  # None is equal to None alone
        and np.array_equal(a.col_order, b.col_order)
        and all(map(np.array_equal, a.entries, b.entries))
        and a.shape == b.shape
        and np.array_equal(a.Y, b.Y)
        and np.array_equal(a.Z, b.Z)
        and a.scales.tobytes() == b.scales.tobytes()
    )


def available_isas() -> list[str]:
    """Instruction sets this build has and this machine can run, lowest first."""
    config = bqq.show_config("dict")
    assert config is not None
    return config["isa_available"].split()


def start_python(code: str, **environment: str) -> subprocess.Popen[str]:
    """A Python process that runs ``code`` and can import the test modules."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> str:
    """Standard output of a process that ends well and in time."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {timeout} s\n{out}{err}") from None
    assert process.returncode == 0, f"ended with {process.returncode}\n{out}{err}"
    return out


def run_isa(isa: str, code: str, timeout: float = 120) -> str:
    """Standard output of ``code`` in a process of its own under BQQ_ISA=isa."""
    return finish(start_python(code, BQQ_ISA=isa), timeout)


COMPILING = {
    *("test_consumer.py", "test_cpp.py", "test_cuda.py", "test_cuda_arrays.py", "test_docs.py", "test_jax.py"),
    *("test_onnxruntime.py", "test_openvino.py", "test_platforms.py", "test_together.py"),
}
BUILDS = {"built", "subdirectory", "sanitized", "emulated", "emulated_module", "by_nvcc"}  # fixtures that compile
LONG = {  # of the other files, what takes seconds of CPU time
    "test_mypy",
    "test_stubs",
    "test_demo_of_a_tensor",
    "test_demo_of_the_photo",
    "test_demo_takes_the_red_channel",
    "test_every_instruction_set_is_as_good",
    "test_fork",
    "test_interrupt",
    "test_l",
    "test_patch",
    "test_pools",
    "test_progress_may_raise",
    "test_errors_and_winners_of_a_tiny_run",
    "test_figures_table_and_picture",
    "test_shape_size_and_finite",
    "test_whole_run_on_a_matrix_of_ones_own",
    "test_grid_on_every_instruction_set",
    "test_fast_of_a_real_approximation",
    "test_fast_on_every_instruction_set",
    "test_offset_inputs_of_a_real_approximation",
    "test_budget_is_kept_and_told_exactly",
    "test_no_worse_than_as_many_stacks_as_bits",
    "test_block",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks as fast what needs no compiler and no long search; with -n, builds come first and fast tests last."""
    for item in items:
        name = getattr(item, "originalname", item.name)
        if item.path.name not in COMPILING and name not in LONG and item.get_closest_marker("slow") is None:
            item.add_marker("fast")
    if hasattr(config, "workerinput"):
        first = {_build_of(item): item for item in reversed(items)}
        items.sort(key=lambda item: (item.get_closest_marker("fast") is not None, item is not first[_build_of(item)]))


def _build_of(item: pytest.Item) -> str:
    """The fixture whose compiler a test waits for, or nothing."""
    return next((name for name in getattr(item, "fixturenames", ()) if name in BUILDS), "")


@pytest.fixture(scope="session")
def tree() -> Path:
    """The build tree that the tests share, configured; each builds the targets it needs."""
    if _build.cmake_command() is None or shutil.which("c++") is None:
        pytest.skip("cmake or a C++ compiler not found")
    return _build.shared_tree()


@pytest.fixture(scope="session")
def built(tree: Path) -> Path:
    """Build tree with both libraries and the C++ unit tests, warnings being errors."""
    _build.compile_all(tree, "bqq_static", "bqq_shared", "cpp_tests")
    return tree
