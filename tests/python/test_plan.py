"""plan: within the budget, the same again, the split between p and l that suits the matrix."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bqq
from conftest import standardise, torch_randn
from test_bad_input import BAD_MATRICES, HUGE, TYPES, check

W = torch_randn(0, 40, 30)


def noise(m, n):
    return np.random.default_rng(0).standard_normal((m, n)).astype(np.float32)


def distance(size=96):
    points = np.random.default_rng(1).uniform(0, 1000, (size, 2))
    return standardise(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)).astype(np.float32))


def smooth(m, n):
    """A surface rougher than a distance matrix, without its kinks."""
    return standardise(np.cumsum(np.cumsum(noise(m, n), 0), 1))


def l_scale(plan, m, n):
    return plan.l * (m + n) / (m * n)


@settings(max_examples=40)
@given(
    m=st.integers(1, 70),
    n=st.integers(1, 70),
    bits=st.floats(0.05, 6),
    patch=st.none() | st.integers(1, 80),
)
def test_budget_is_kept_and_told_exactly(m, n, bits, patch):
    w = noise(m, n)
    try:
        plan = bqq.plan(w, bits, patch=patch)
    except ValueError as error:
        least = float(str(error).partition("at least ")[2].partition(":")[0])
        assert least > bits
        smallest = bqq.decompose(w, 1, 1, patch=patch, steps=1, refine=False).bits_per_weight
        assert smallest > bits
        return
    q = bqq.decompose(w, **plan._asdict(), steps=1, refine=False)
    assert q.bits_per_weight == plan.bits_per_weight <= bits
    assert (q.p, q.l) == (plan.p, plan.l)
    assert max(q.patch) <= (patch or 128)
    assert plan.mse >= 0
    wider = bqq.decompose(w, plan.p, plan.l + 1, patch=plan.patch, steps=1, refine=False)
    assert wider.bits_per_weight > bits


@pytest.mark.parametrize("bits", [0.7, 1.5, np.float32(2.5)])
def test_fractional_budgets_are_used(bits):
    w = noise(128, 128)
    plan = bqq.plan(w, bits)
    assert 0.9 * bits < plan.bits_per_weight <= bits


def test_same_plan_again():
    w = distance(60)
    first = bqq.plan(w, 1.5, seed=3, threads=1)
    again = bqq.plan(w, 1.5, seed=3, threads=2)
    assert (first, first.mse) == (again, again.mse)


def test_smooth_matrix_at_one_bit():
    """More and smaller stacks (paper, Table S.4)."""
    w = smooth(96, 80)
    plan = bqq.plan(w, 1.1)
    assert l_scale(plan, 96, 80) < 0.7
    whole = bqq.decompose(w, 1, steps=1000, refine=500)
    assert plan.mse < 0.9 * whole.mse(w)
    assert plan.bits_per_weight < 1.02 * whole.bits_per_weight


def test_noise():
    """As many stacks as bits, each of l-scale near 1."""
    plan = bqq.plan(torch_randn(1, 128, 128), 1.0)
    assert plan.p == 1
    assert l_scale(plan, 128, 128) > 0.9


@pytest.mark.parametrize("bits", [1.1, 2.1])
def test_no_worse_than_as_many_stacks_as_bits(bits):
    for w in (distance(), smooth(96, 80)):
        plan = bqq.plan(w, bits)
        options = {"effort": "default", "seed": 1}
        ours = bqq.decompose(w, **plan._asdict(), **options)
        plain = bqq.decompose(w, round(bits), plan.l * plan.p // round(bits), patch=plan.patch, **options)
        assert ours.mse(w) <= 1.1 * plain.mse(w)


def test_large_matrix_is_sampled():
    """Only windows of it are looked at: the rest may change."""
    w = np.zeros((1200, 600), np.float32)
    plan = bqq.plan(w, 1.0)
    assert plan.patch in (128, 256)
    assert plan.mse == 0
    assert plan.bits_per_weight <= 1


def test_tiny_budget_takes_larger_blocks():
    w = np.ones((700, 700), np.float32)
    plan = bqq.plan(w, 0.03)
    assert plan.patch == 512
    assert plan.bits_per_weight <= 0.03


def test_plan_is_a_tuple_of_three():
    plan = bqq.plan(W, 2, patch=20)
    assert isinstance(plan, bqq.Plan)
    p, l, patch = plan
    assert plan == (p, l, 20) == tuple(plan._asdict().values())
    assert patch == 20
    assert repr(plan) == f"Plan(p={p}, l={l}, patch=20, bits_per_weight={plan.bits_per_weight:.4g}, mse={plan.mse:.4g})"
    copy = pickle.loads(pickle.dumps(plan))
    assert (copy, copy.mse, copy.bits_per_weight) == (plan, plan.mse, plan.bits_per_weight)


def test_progress():
    seen = []
    bqq.plan(noise(140, 60), 1, progress=lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_progress_that_raises_ends_it():
    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        bqq.plan(W, 2, progress=stop)


def test_bar(capfd):
    bqq.plan(W, 2, progress=True)
    assert "plan" in capfd.readouterr().err


def test_constant_matrix():
    assert bqq.plan(np.full((20, 20), 3.0), 2).mse == pytest.approx(0, abs=1e-9)


def test_single_element_costs_more_than_any_budget():
    """One stack takes two bytes of planes and four scales: 144 bits."""
    check(ValueError, ["bits", 64, 144.0], bqq.plan, [[2.0]], 64)


# --- bad input ---


@pytest.mark.parametrize(("error", "words", "matrix"), BAD_MATRICES)
def test_bad_matrix(error, words, matrix):
    check(error, words, bqq.plan, matrix)


@pytest.mark.parametrize("bits", [0, -1.0, np.nan, np.inf, 65, HUGE])
def test_bits_out_of_range(bits):
    check(ValueError, ["bits", bits], bqq.plan, W, bits)


@pytest.mark.parametrize("bits", ["two", None, [1, 2], 1j])
def test_bits_is_no_number(bits):
    check(TypeError, ["bits"], bqq.plan, W, bits)


def test_too_few_bits():
    """The message says how many would do, and they do."""
    with pytest.raises(ValueError, match=r"bits is 0\.05, expected at least [0-9.]+: ") as caught:
        bqq.plan(W, 0.05)
    least = float(str(caught.value).partition("at least ")[2].partition(":")[0])
    assert bqq.plan(W, least).l == 1


@pytest.mark.parametrize(
    ("name", "value"), [("patch", 0), ("patch", HUGE), ("seed", -1), ("seed", 2**64), ("threads", 0)]
)
def test_out_of_range(name, value):
    check(ValueError, [name, value], bqq.plan, W, **{name: value})


@pytest.mark.parametrize("name", ["patch", "seed", "threads"])
@pytest.mark.parametrize("value", TYPES, ids=str)
def test_not_an_integer(name, value):
    check(TypeError, [name], bqq.plan, W, **{name: value})


def test_bad_progress():
    check(TypeError, ["progress"], bqq.plan, W, progress=3)
