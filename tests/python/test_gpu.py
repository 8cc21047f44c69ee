"""Real arrays of CuPy and torch on a real GPU. What the emulation cannot show; skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bqq
from conftest import dense, random_matrix

if "cuda:0" not in bqq.show_config("dict")["cuda"]:
    pytest.skip("no CUDA device, or bqq was built without nvcc", allow_module_level=True)


class Arrays:
    """One library's way to put an array on the GPU and to take it back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = pytest.importorskip(name)

    def put(self, x: np.ndarray, dtype: str = "float32") -> Any:
        if self.name == "cupy":
            return self.module.asarray(x.astype(dtype))
        return self.module.from_numpy(np.ascontiguousarray(x)).to("cuda", getattr(self.module, dtype))

    def get(self, x: Any) -> np.ndarray:
        assert type(x) is (self.module.ndarray if self.name == "cupy" else self.module.Tensor)
        return self.module.asnumpy(x) if self.name == "cupy" else x.float().cpu().numpy()

    def stream(self) -> Any:
        if self.name == "cupy":
            return self.module.cuda.Stream(non_blocking=True)
        return self.module.cuda.stream(self.module.cuda.Stream())


@pytest.fixture(params=["cupy", "torch"])
def arrays(request):
    return Arrays(request.param)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 16, 17, 100])
def test_products(arrays, batch):
    q = random_matrix(500, 301, J=3, K=2, p=2, l=67)
    W, x, y = dense(q), numbers(301, batch), numbers(batch, 500, seed=1)
    for dtype, most in (("float32", 2e-5), ("float16", 2e-3), ("bfloat16", 1e-2)):
        if dtype == "bfloat16" and arrays.name == "cupy":
            continue
        assert relative_error(arrays.get(q @ arrays.put(x, dtype)), W @ x) < most
        assert relative_error(arrays.get(arrays.put(y, dtype) @ q), y @ W) < most
        assert relative_error(arrays.get(q.T @ arrays.put(y.T, dtype)), (y @ W).T) < most
    out = arrays.put(np.zeros((500, batch), np.float32))
    assert bqq.matmul(q, arrays.put(x), out) is out
    assert relative_error(arrays.get(out), W @ x) < 2e-5
    wide = arrays.put(numbers(301, 2 * batch + 1))[:, 1 : batch + 1]
    assert relative_error(arrays.get(q @ wide), W @ arrays.get(wide)) < 2e-5


def test_work_on_a_stream_of_its_own(arrays):
    q = random_matrix(700, 900, p=2, l=300)
    x = numbers(900, 8)
    with arrays.stream():
        at = arrays.put(x)
        for _ in range(20):
            at = at * 2 / 2
        found = q @ at
        assert relative_error(arrays.get(found), dense(q) @ x) < 2e-5


@pytest.mark.parametrize("shape", [(64, 64), (100, 130), (256, 256), (300, 520)])
def test_decompose(arrays, shape):
    """As good as the host's search, the same at each run, and what it says it is."""
    W = numbers(*shape)
    q = bqq.decompose(arrays.put(W), 2, effort="fast")
    host = bqq.decompose(W, 2, effort="fast")
    assert q.device == "cuda:0"
    assert q.error(W) < 1.02 * host.error(W)
    assert q.error(arrays.put(W)) == pytest.approx(q.error(W), rel=1e-5)
    again = bqq.decompose(arrays.put(W), 2, effort="fast")
    for name in ("Y", "Z", "scales"):
        np.testing.assert_array_equal(getattr(q, name), getattr(again, name))
    assert relative_error(arrays.get(q @ arrays.put(numbers(shape[1], 5))), dense(q) @ numbers(shape[1], 5)) < 2e-5


def test_extend_prefix_and_files(arrays, tmp_path):
    W = numbers(128, 96)
    q = bqq.decompose(arrays.put(W), 1)
    longer = bqq.extend(q, arrays.put(W), 2)
    np.testing.assert_array_equal(longer.prefix(1).Y, q.Y)
    assert longer.error(W) < q.error(W)
    bqq.save(tmp_path / "q.safetensors", {"layer": longer})
    loaded = bqq.load(tmp_path / "q.safetensors")["layer"]
    x = numbers(96, 4)
    assert relative_error(arrays.get(loaded.to("cuda") @ arrays.put(x)), arrays.get(longer @ arrays.put(x))) < 1e-6


def test_a_weight_is_searched_on_the_host(arrays):
    W, X = numbers(64, 48), numbers(200, 48, seed=1)
    q = bqq.decompose(arrays.put(W), 1, weight=arrays.put(X.T @ X), effort="fast")
    host = bqq.decompose(W, 1, weight=X.T @ X, effort="fast")
    assert q.device == "cuda:0"
    assert q.error(W) == pytest.approx(host.error(W), rel=0.05)
