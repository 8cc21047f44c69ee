"""plan with a weight, and plan_many: one budget over many matrices."""

from __future__ import annotations

import numpy as np
import pytest

import bqq


def layer(m, n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    W = scale * rng.standard_normal((m, n)).astype(np.float32)
    X = rng.standard_normal((2 * n, n // 3)) @ rng.standard_normal((n // 3, n)) + rng.standard_normal((2 * n, n))
    return W, (X.T @ X).astype(np.float32)


def relative(W, H, q):
    E = (W - q.reconstruct()).astype(float)
    return np.einsum("ij,jk,ik", E, H, E) / np.einsum("ij,jk,ik", W, H, W)


@pytest.mark.parametrize("bits", [1.6, 2.05, 2.4, 2.8, 4.3])
def test_budgets_between_whole_p_are_met(bits):
    W, H = layer(144, 576)
    plan = bqq.plan(W, bits, weight=H)
    assert 0.99 * bits <= plan.bits_per_weight <= bits
    q = bqq.decompose(W, **plan._asdict(), weight=H, steps=1, refine=False)
    assert q.bits_per_weight == plan.bits_per_weight
    assert 0 < plan.mse < np.trace(H)


def test_default_blocks_of_a_weight_fit():
    for m, n in ((576, 576), (192, 576), (1536, 576), (576, 1536), (384, 384), (384, 1536), (300, 1000)):
        W, H = np.ones((m, n), np.float32), np.eye(n, dtype=np.float32)
        q = bqq.decompose(W, 2, weight=H, steps=1, refine=False)
        assert q.bits_per_weight < 2.04, (m, n, q)
        assert 64 < min(q.patch) <= max(q.patch) <= 192


def test_a_diagonal_weight_is_taken_into_account():
    W, _ = layer(60, 90)
    weight = np.ones(90, np.float32)
    weight[::3] = 50
    plain, weighted = bqq.plan(W, 2), bqq.plan(W, 2, weight=weight)
    assert plain.mse != weighted.mse
    assert weighted.bits_per_weight <= 2


def test_more_bits_go_where_they_gain_more():
    """Matrices of equal size, one of which one stack explains: the other gets the rest."""
    rng = np.random.default_rng(0)
    hard = rng.standard_normal((96, 192)).astype(np.float32)
    matrices = {"hard": hard, "easy": np.outer(rng.random(96) < 0.5, rng.random(192) < 0.5).astype(np.float32)}
    plans = bqq.plan_many(matrices, 2.0)
    assert plans["hard"].bits_per_weight > plans["easy"].bits_per_weight
    assert list(plans) == list(matrices)


def test_one_budget():
    layers = {f"layer.{i}": layer(m, n, i, 10.0**i) for i, (m, n) in enumerate(((96, 96), (192, 96), (96, 288)))}
    matrices = {name: W for name, (W, _) in layers.items()}
    weights = {name: H for name, (_, H) in layers.items() if name != "layer.1"}
    for bits in (2.05, 2.6):
        plans = bqq.plan_many(matrices, bits, weights=weights)
        total = sum(plans[name].bits_per_weight * W.size for name, W in matrices.items())
        elements = sum(W.size for W in matrices.values())
        assert 0.99 * bits <= total / elements <= bits
        assert all(0 < plan.mse < 1 for plan in plans.values())
    calls = []
    assert bqq.plan_many(matrices, 2.6, weights=weights, progress=lambda *at: calls.append(at)) == plans
    assert calls[-1][0] == calls[-1][1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (({}, 2.0), "matrices is empty"),
        (({"a": np.ones((3, 4))}, 0.0), "bits is 0.0"),
        (({"a": np.full((3, 4), np.nan)}, 2.0), r"matrices\['a'\]"),
        (({"a": np.ones((3, 4))}, 0.01), "too few"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        bqq.plan_many(*arguments)
    with pytest.raises(ValueError, match="none of the matrices"):
        bqq.plan_many({"a": np.ones((3, 4))}, 2.0, weights={"b": np.ones(4)})
