"""Runs that are interrupted, and runs whose searches happen elsewhere: the same bits."""

from __future__ import annotations

import copy
import os
import random
import shutil
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import bqq  # noqa: E402
import bqq.nn  # noqa: E402
from test_compress import Model, batches, make  # noqa: E402


class Interruption(Exception):
    pass


def compressed(model=None, *, calibration=True, **options):
    model = make() if model is None else model
    data = batches(4) if calibration else None
    return bqq.nn.compress(
        model, 3, calibration=data, patch=32, tune=10, **{"progress": False, "threads": 1, **options}
    ).model


def same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def interrupt_after(number):
    done = []

    def progress(layer):
        done.append(layer)
        if len(done) > number:
            raise Interruption

    return progress


@pytest.mark.parametrize("calibration", [False, True])
def test_an_interrupted_run_goes_on(tmp_path, calibration):
    whole = compressed(calibration=calibration)
    for layers in (0, 4, 6, 9):  # within a block, between blocks, behind them
        with pytest.raises(Interruption):
            compressed(calibration=calibration, resume=tmp_path, progress=interrupt_after(layers))
    seen = []
    model = compressed(calibration=calibration, resume=tmp_path, progress=seen.append)
    assert same(model, whole)
    assert [layer.name for layer in seen] == [layer.name for layer in bqq_report(calibration)]
    again = compressed(calibration=calibration, resume=tmp_path)
    assert same(again, whole)


def test_correction_is_kept(tmp_path, monkeypatch):
    whole = compressed(correct=2)
    plain = compressed(resume=tmp_path)  # its layers are those of a run with correction
    assert not same(plain, whole)
    monkeypatch.setattr("bqq.nn._recipe.Recipe.decompose", None)
    assert same(compressed(correct=2, resume=tmp_path), whole)
    monkeypatch.setattr("bqq.nn._tune.correct", None)
    seen = make()
    report = bqq.nn.compress(
        seen, 3, calibration=batches(4), patch=32, tune=10, threads=1, progress=False, correct=2, resume=tmp_path
    )
    assert same(seen, whole)
    assert 0 < report.correction["after"] < report.correction["before"]
    monkeypatch.undo()
    assert same(compressed(resume=tmp_path), plain)


def bqq_report(calibration):
    data = batches(4) if calibration else None
    return bqq.nn.compress(make(), 3, calibration=data, patch=32, tune=10, progress=False).layers


def test_damaged_parts_are_made_anew(tmp_path):
    whole = compressed(resume=tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    (tmp_path / "run.json").read_text()
    assert same(compressed(resume=tmp_path), whole)


def test_a_folder_of_another_run(tmp_path):
    compressed(resume=tmp_path)
    for options in ({"seed": 1}, {"guide": False}, {"exclude": "head"}):
        with pytest.raises(ValueError, match=r"resume: .* is of another run"):
            compressed(resume=tmp_path, **options)
    other = make()
    with torch.no_grad():
        other.blocks[0].q.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="is of another run"):
        compressed(other, resume=tmp_path)


def test_the_gate():
    model = make()
    with pytest.raises(ValueError, match=r"blocks\.0\.\w+: its relative error is .*, more than limit = 1e-05"):
        compressed(model, limit=1e-5)
    for value in (0, float("nan"), "x", True):
        with pytest.raises(ValueError, match="limit is"):
            compressed(make(), limit=value)
    with pytest.raises(TypeError, match="executor is int"):
        compressed(make(), executor=3)
    with pytest.raises(TypeError, match="progress is 3"):
        compressed(make(), progress=3)


@pytest.mark.parametrize("calibration", [False, True])
def test_threads_give_the_same_bits(calibration):
    with ThreadPoolExecutor(2) as executor:
        assert same(compressed(calibration=calibration, executor=executor), compressed(calibration=calibration))


def die(_):
    os._exit(1)


def test_processes_and_a_broken_pool(tmp_path):
    whole = compressed()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert same(compressed(executor=executor, resume=tmp_path), whole)
        with pytest.raises(BrokenProcessPool):
            executor.submit(die, 0).result()
        with pytest.raises(RuntimeError, match="a worker has died; with resume= finished layers are kept"):
            compressed(executor=executor)
        assert same(compressed(executor=executor, resume=tmp_path), whole)  # nothing is left to be done


def whole_run(folder):
    torch.set_num_threads(1)
    model = compressed(resume=folder / "kept")
    bqq.nn.save(model, folder / "small")


@pytest.mark.skipif(sys.platform == "win32", reason="no forkserver")
def test_ten_kills(tmp_path):
    context = get_context("forkserver")
    context.set_forkserver_preload(["bqq.nn", __name__])  # what takes seconds to import

    def start(folder):
        process = context.Process(target=whole_run, args=(folder,))
        process.start()
        return process

    start(tmp_path / "warm").join()
    since = time.perf_counter()
    begun = start(tmp_path / "true")
    begun.join()
    assert begun.exitcode == 0
    whole = time.perf_counter() - since
    moments, kills = random.Random(0), 0
    while kills < 10:
        process = start(tmp_path / "killed")
        process.join(moments.uniform(0.05, 0.5) * whole)
        kills += process.is_alive()
        process.kill()
        process.join()
        if (tmp_path / "killed" / "small").exists():  # done: only whole files appear; anew
            assert_same_files(tmp_path)
            shutil.rmtree(tmp_path / "killed")
    last = start(tmp_path / "killed")
    last.join()
    assert last.exitcode == 0
    assert (tmp_path / "killed" / "small" / "model.safetensors").exists()
    assert_same_files(tmp_path)


def assert_same_files(folder):
    name = Path("small") / "model.safetensors"
    if (folder / "killed" / name).exists():  # a kill may come between the folder and its file
        assert (folder / "killed" / name).read_bytes() == (folder / "true" / name).read_bytes()


@pytest.mark.slow
def test_a_dask_worker_is_killed():
    distributed = pytest.importorskip("distributed")
    torch.manual_seed(0)
    first = Model(blocks=3).eval()
    second = copy.deepcopy(first)
    whole = compressed(first, calibration=False)
    layers = []
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = list(client.run(os.getpid).values())

        def progress(layer):
            layers.append(layer)
            if len(layers) == 3:
                os.kill(pids[0], signal.SIGKILL)

        found = compressed(second, calibration=False, executor=client.get_executor(), progress=progress)
        assert pids[0] not in client.run(os.getpid).values()
    assert len(layers) == 19
    assert same(found, whole)
