"""The order of streams: work runs only when somebody waits for it, and what does not wait reads what was there before.

Run as device_arrays.py is.
"""

from __future__ import annotations

import numpy as np
import pytest

import bqq
from bqq import _core
from conftest import dense, random_matrix, same
from fake_arrays import FAST, KINDS, FakeArray, copy, defer, interface, late, new_stream, numbers, synchronize


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_known_library_says_what_stream_it_works_on(library, seed):
    q = random_matrix(11, 7, p=2, l=5)
    new = numbers((7, 3))
    x, out = library.asarray(np.zeros((7, 3), np.float32)), library.asarray(np.zeros((11, 3), np.float32))
    address = late(new)
    defer(True, 2, seed)
    x.put(new, address)
    y = q @ x
    bqq.matmul(q, x, out)
    for result in (y, out):
        np.testing.assert_allclose(result.get(), dense(q) @ new, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
@KINDS
def test_results_wait_for_operands_and_out_for_results(kind, order, seed):
    q = random_matrix(11, 7, p=2, l=5)
    old, new = np.full((7, 3), 100, np.float32), numbers((7, 3))
    q @ FakeArray(old)  # planes are there
    source, target = new_stream(), new_stream()
    x = kind(old, stream=source)
    out = kind(np.zeros((11, 3), np.float32), stream=target)
    x_memory, out_memory = (a if kind is interface else a.array for a in (x, out))
    fives = np.full((11, 3), 5, np.float32)
    late_x, late_out = late(new), late(fives)
    defer(True, order, seed)
    x_memory.put(new, late_x)
    out_memory.put(fives, late_out)
    bqq.matmul(q, x, out)  # must wait for both streams
    synchronize(source)
    np.testing.assert_allclose(out_memory.get(), dense(q) @ new, atol=1e-3)
    x_memory.put(old)
    y = q @ x
    np.testing.assert_allclose(np.asarray(y), dense(q) @ old, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_decompose_waits_for_its_operand(seed):
    old, new = np.zeros((8, 6), np.float32), numbers((8, 6))
    expected = bqq.decompose(FakeArray(new), 1, **FAST)
    W = FakeArray(old, stream=new_stream())
    address = late(new)
    defer(True, 2, seed)
    W.put(new, address)
    assert same(bqq.decompose(W, 1, **FAST), expected)
    assert W.get().tolist() == new.tolist()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_weighted_decompose_waits_for_its_operands(seed):
    new, weight = numbers((8, 6)), np.arange(1, 7, dtype=np.float32)
    expected = bqq.decompose(new, 1, weight=weight, **FAST)
    W = FakeArray(np.ones((8, 6), np.float32), stream=new_stream())
    H = FakeArray(np.ones(6, np.float32), stream=new_stream())
    late_W, late_H = late(new), late(weight)
    defer(True, 2, seed)
    W.put(new, late_W)
    H.put(weight, late_H)
    q = bqq.decompose(W, 1, weight=H, **FAST)
    assert q.device == "cuda:0"
    assert same(q, expected)


def test_our_arrays_hand_on_their_order():
    """A product on a result that is not there yet, and DLPack's stream argument."""
    q, second = random_matrix(11, 7, p=2, l=5), random_matrix(4, 11)
    x = FakeArray(numbers((7, 3)), stream=new_stream())
    defer(True, 1, 0)
    y = second @ (q @ x)
    np.testing.assert_allclose(np.asarray(y), dense(second) @ dense(q) @ x.get(), rtol=1e-4, atol=1e-2)
    z = q @ x
    mine = new_stream()
    tensor = _core.from_dlpack(z.__dlpack__(stream=mine))
    room = np.empty((11, 3), np.float32)
    copy(room.ctypes.data, tensor[0], room.nbytes, mine)
    np.testing.assert_allclose(room, dense(q) @ x.get(), rtol=1e-4, atol=1e-2)
