"""The same arguments give the same bits: whatever the threads, the process, the rows and columns beside them."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bqq
from conftest import available_isas, finish, random_matrix, run_isa, same, start_python

W = np.random.default_rng(0).standard_normal((70, 90)).astype(np.float32)
FAST: dict[str, Any] = {"patch": 24, "steps": 40, "refine": 20}
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "generic.json"

RESULTS = """
import json, sys, zlib
import numpy as np
import bqq
W = np.random.default_rng(0).integers(-99, 100, (70, 90)).astype(np.float32)
def crc(*arrays):
    return zlib.crc32(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
fast = {"patch": 24, "steps": 40, "refine": 20, "seed": 3}
results = {}
for name, options in {
    "adaptive": {}, "paper": {"schedule": "paper"}, "effort": {"steps": None, "refine": None, "effort": "fast"},
    "diagonal": {"weight": np.arange(1, 91)}, "weight": {"weight": W.T @ W},
}.items():
    q = bqq.decompose(W, 2, **fast | options)
    results[name] = crc(q.Y, q.Z, q.scales)
    more = {key: value for key, value in (fast | options).items() if key != "patch"}
    results[name + ", extended"] = crc(bqq.extend(q, W, 3, **more).Y)
book = bqq.decompose(W, 2, steps=40, refine=20)
results["encode"] = crc(bqq.encode(book, W[::-1], effort="fast").Y)
results["reconstruct"] = crc(q.reconstruct())
X = np.random.default_rng(1).integers(-9, 10, (90, 50)).astype(np.float32)
for precision in ("float32", "fast"):
    results[f"product, {precision}"] = crc(*(bqq.matmul(q, X[:, :n], precision=precision) for n in (1, 5, 50)))
print(json.dumps(results))
"""


@pytest.mark.parametrize("weight", ["none", "diagonal", "whole"])
def test_threads(weight):
    options = FAST | {"weight": {"none": None, "diagonal": np.arange(1, 91), "whole": W.T @ W}[weight]}
    q = bqq.decompose(W, 2, threads=1, **options)
    longer = bqq.extend(q, W, 3, threads=1, steps=9, refine=9)
    book = bqq.decompose(W, 2, steps=20, refine=9, threads=1)
    for threads in (2, 3, 7):
        assert same(bqq.decompose(W, 2, threads=threads, **options), q)
        assert same(bqq.extend(q, W, 3, threads=threads, steps=9, refine=9), longer)
        assert same(bqq.encode(book, W, threads=threads, effort="fast"), bqq.encode(book, W, threads=1, effort="fast"))
        np.testing.assert_array_equal(q.reconstruct(threads=threads), q.reconstruct(threads=1))


@pytest.mark.parametrize("precision", ["float32", "fast"])
@pytest.mark.parametrize("batch", [1, 3, 17, 64, 300])
def test_products(precision, batch):
    """Threads, strides and the columns beside it do not change a column."""
    q = random_matrix(700, 500, J=3, K=2, p=2, l=120)
    X = np.random.default_rng(batch).standard_normal((500, batch)).astype(np.float32)
    want = bqq.matmul(q, X, precision=precision, threads=1)
    for threads in (2, 5):
        np.testing.assert_array_equal(bqq.matmul(q, X, precision=precision, threads=threads), want)
    np.testing.assert_array_equal(bqq.matmul(q, np.asfortranarray(X), precision=precision), want)
    order = np.random.default_rng(0).permutation(batch)
    np.testing.assert_array_equal(bqq.matmul(q, X[:, order], precision=precision), want[:, order])
    others = X * 1e3
    others[:, 0] = X[:, 0]
    np.testing.assert_array_equal(bqq.matmul(q, others, precision=precision)[:, 0], want[:, 0])


def test_a_block_does_not_depend_on_those_beside_it():
    """Its random numbers are those of its place, its bits those of its own part of W."""
    q = bqq.decompose(W, 2, **FAST)
    other = W.copy()
    other[24:] *= -3
    other[:, 24:] += 5
    again = bqq.decompose(other, 2, **FAST)
    np.testing.assert_array_equal(again.Y[0, 0], q.Y[0, 0])
    np.testing.assert_array_equal(again.scales[0, 0], q.scales[0, 0])


def test_processes():
    environments: list[dict[str, str]] = [{}, {"OMP_NUM_THREADS": "1"}, {"BQQ_NUM_THREADS": "3", "PYTHONHASHSEED": "7"}]
    results = [json.loads(finish(start_python(RESULTS, **extra))) for extra in environments]
    assert results[0] == results[1] == results[2]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64") or sys.platform != "linux", reason="x86-64 and glibc")
def test_generic_gives_what_it_always_gave():
    """The portable instruction set, on any x86-64. Written by: python tests/python/test_determinism.py"""
    assert json.loads(run_isa("generic", RESULTS)) == json.loads(GOLDEN.read_text())


LEVELS = """
import sys
import numpy as np
import bqq
from conftest import random_matrix
q = random_matrix(300, 260, J=2, K=2, p=2, l=60)
X = np.random.default_rng(0).standard_normal((260, 70)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
errors = [bqq.decompose(W, 1, steps=500, refine=500, seed=seed).mse(W) for seed in range(4)]
products = {
    f"{precision} {n}": bqq.matmul(q, X[:, :n], precision=precision)
    for precision in ("float32", "fast") for n in (1, 9, 70)
}
np.savez(sys.argv[1], reconstruct=q.reconstruct(), mean_error=np.mean(errors), **products)
"""


def test_what_may_differ_between_levels(tmp_path):
    """Digits of a product, within the bound of its class; which bits a search finds, not how good they are."""
    found = {}
    for isa in available_isas():
        path = tmp_path / f"{isa}.npz"
        run_isa(isa, LEVELS.replace("sys.argv[1]", repr(str(path))))
        found[isa] = np.load(path)
    generic = found["generic"]
    for isa, results in found.items():
        np.testing.assert_array_equal(results["reconstruct"], generic["reconstruct"], err_msg=isa)
        assert abs(results["mean_error"] / generic["mean_error"] - 1) < 0.03, isa
        for name in results.files:
            if " " in name:
                limit = 4e-5 if name.startswith("float32") else 2 * np.sqrt(5e-4)
                norms = np.linalg.norm(generic[name], axis=0)
                assert (np.linalg.norm(results[name] - generic[name], axis=0) <= limit * norms).all(), (isa, name)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(json.loads(run_isa("generic", RESULTS)), indent=2) + "\n")
