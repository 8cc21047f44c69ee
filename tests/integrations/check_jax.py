"""Run by test_jax.py in a process of its own: products against bqq itself, JAX's rules against calculus."""

from __future__ import annotations

import os
import re
from pathlib import Path

if hasattr(os, "sched_setaffinity"):  # before XLA counts its threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["BQQ_TEST_CPUS"])])

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _matrices import calibrated

import bqq
import bqq_jax

SHAPES = [(40, 24), (300, 200), (1536, 384)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def pair(request):
    W = np.random.default_rng(0).standard_normal(request.param).astype(np.float32)
    q = bqq.decompose(W, p=2, steps=50, refine=1)
    return q, bqq_jax.Weight(q)


def inputs(*shape, dtype=np.float32, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def close(a, b, tolerance=1e-5):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def through(q, x):
    """What bqq makes of the rows of x."""
    x = np.asarray(x)
    return (q @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], q.shape[0])


def test_product_is_bqqs(pair):
    q, W = pair
    for shape in ((q.shape[1],), (1, q.shape[1]), (7, q.shape[1]), (2, 3, q.shape[1]), (0, q.shape[1])):
        x = inputs(*shape)
        for f in (bqq_jax.product, jax.jit(bqq_jax.product), jax.jit(lambda w, x: bqq_jax.product(W, x))):
            y = f(W, x)
            assert y.dtype == x.dtype
            close(y, through(q, x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(pair, dtype):
    q, W = pair
    x = inputs(5, q.shape[1], dtype=dtype)
    y = bqq_jax.product(W, x)
    assert y.dtype == x.dtype
    close(y, through(q, x.astype(np.float32)), 1e-2)


def test_fast(pair):
    q, _ = pair
    x = inputs(64, q.shape[1])
    close(bqq_jax.product(bqq_jax.Weight(q, precision="fast"), x), through(q, x), 0.03)


def test_gradients(pair):
    q, W = pair
    What = q.reconstruct()
    x, g = inputs(3, q.shape[1]), inputs(3, q.shape[0], seed=2)
    f = jax.jit(lambda x: bqq_jax.product(W, x))
    y, back = jax.vjp(f, x)
    close(back(g)[0], np.asarray(g) @ What)
    close(jax.jvp(f, (x,), (x,))[1], y)
    close(jax.grad(lambda x: (f(x) ** 2).sum())(x), 2 * np.asarray(y) @ What)
    v = jnp.ones_like(x)  # second order: the Hessian of |W x|^2 / 2 times v
    hvp = jax.jvp(jax.grad(lambda x: (f(x) ** 2).sum() / 2), (x,), (v,))[1]
    close(hvp, np.asarray(v) @ What.T @ What)
    with pytest.raises(ValueError, match="gradient=False"):
        jax.grad(lambda x: bqq_jax.product(bqq_jax.Weight(q, gradient=False), x).sum())(x)


def test_transposed(pair):
    q, _ = pair
    W, x = bqq_jax.Weight(q.T), inputs(3, q.shape[0])
    close(bqq_jax.product(W, x), np.asarray(x) @ q)
    close(jax.grad(lambda x: bqq_jax.product(W, x)[0].sum())(x)[0], q.reconstruct().sum(1))


def test_orders_and_outliers():
    _, q = calibrated(300, 200)
    for matrix in (q, q.T):
        W, x = bqq_jax.Weight(matrix), inputs(5, matrix.shape[1])
        y, back = jax.vjp(lambda x, W=W: bqq_jax.product(W, x), x)
        close(y, through(matrix, x))
        close(back(y)[0], np.asarray(y) @ matrix.reconstruct())


def test_vmap(pair):
    q, W = pair
    x = inputs(4, 6, q.shape[1])
    one = lambda x: bqq_jax.product(W, x)  # noqa: E731
    close(jax.vmap(one)(x), through(q, x))
    close(jax.jit(jax.vmap(jax.vmap(one)))(x), through(q, x))
    close(jax.vmap(one, in_axes=1, out_axes=1)(x), through(q, x))
    moved = jax.vmap(one, in_axes=2)(x.transpose(1, 2, 0))  # (6, n, 4): the batch is last
    close(moved, through(q, x))


def test_vmap_over_weights():
    rng = np.random.default_rng(3)
    qs = [bqq.decompose(rng.standard_normal((48, 40)), p=2, steps=20, refine=1) for _ in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *map(bqq_jax.Weight, qs))
    x = inputs(3, 40)
    close(
        jax.jit(jax.vmap(bqq_jax.product))(stacked, x),
        np.stack([q @ v for q, v in zip(qs, np.asarray(x), strict=True)]),
    )
    close(jax.vmap(bqq_jax.product, in_axes=(0, None))(stacked, x[0]), np.stack([q @ np.asarray(x[0]) for q in qs]))
    grads = jax.vmap(jax.grad(lambda w, x: bqq_jax.product(w, x).sum(), argnums=1))(stacked, x)
    close(grads, np.stack([q.reconstruct().sum(0) for q in qs]))


def test_inside_scan():
    q = bqq.decompose(np.random.default_rng(5).standard_normal((64, 64)) / 8, p=2, steps=20, refine=1)
    W, x = bqq_jax.Weight(q), inputs(64)
    step = lambda x, _: (jnp.tanh(bqq_jax.product(W, x)), None)  # noqa: E731
    y, _ = jax.jit(lambda x: jax.lax.scan(step, x, length=5))(x)
    expected = np.asarray(x)
    for _ in range(5):
        expected = np.tanh(q @ expected)
    close(y, expected)


def test_many_at_once():
    """More products at the same time than there are threads: none waits for ever."""
    q = bqq.decompose(np.random.default_rng(6).standard_normal((1024, 512)), p=1, steps=5, refine=1)
    W = bqq_jax.Weight(q)
    xs = [inputs(8, 512, seed=i) for i in range(16)]
    ys = jax.jit(lambda xs: [bqq_jax.product(W, x) for x in xs])(xs)
    for x, y in zip(xs, ys, strict=True):
        close(y, through(q, x))


def test_what_is_wrong_is_said(pair):
    q, W = pair
    with pytest.raises(ValueError, match=r"x has the shape \(3, 5\), expected \(..., "):
        bqq_jax.product(W, jnp.zeros((3, 5)))
    with pytest.raises(TypeError, match="x is int32, expected one of float32"):
        bqq_jax.product(W, jnp.zeros((3, q.shape[1]), jnp.int32))
    with pytest.raises(ValueError, match="precision is 'exact', expected one of float32, fast"):
        bqq_jax.Weight(q, precision="exact")
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="bqq: the weight has 64 bytes, expected"):
        bqq_jax.product(jax.tree.map(lambda a: a[:64], W), jnp.zeros(q.shape[1])).block_until_ready()
    foreign = jax.tree.map(lambda a: a.at[:64].set(0), W)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="bqq: prepared does not point"):
        bqq_jax.product(foreign, jnp.zeros(q.shape[1])).block_until_ready()


def test_readme(tmp_path, monkeypatch):
    """Its code in Python runs as printed."""
    monkeypatch.chdir(tmp_path)
    names = {}
    readme = Path(__file__).parents[2] / "integrations" / "jax" / "README.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme.read_text("utf-8"), re.M | re.S)
    exec(block, names)
    assert names["y"].shape == (8, 96)
    assert names["g"].shape == (8, 64)
