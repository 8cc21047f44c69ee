"""bench.paper: a tiny run from end to end, the cells it keeps, what its report says."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from bench import matrices, published
from bench.coded import bqq_bytes, rank_of
from bench.paper import anneal, report, sources
from bench.paper.cells import Cell, Store
from bench.paper.experiments import EXPERIMENTS
from bench.paper.measures import planned
from bench.paper.run import Run, reviewed

from _build import ROOT

SIZES = {"Random": (128, 128), "DeiT": (384, 384), "Distance": (100, 100), "SIFT": (128, 128), "ImageNet": (224, 224)}


def bench_paper(*words, cwd=ROOT, env=None):
    command = [sys.executable, "-m", "bench.paper", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env=env)


def case(shape=(12, 16), seed=0, key="tiny", kind=""):
    W = matrices.standardise(np.random.default_rng(seed).standard_normal(shape))
    return matrices.Case(key, f"{key} {shape[0]}x{shape[1]}", "numpy", W, kind)


def tiny(*cases):
    return Run(
        cases, methods=("paper", "fast"), ours="fast", paper_steps=20, seeds=1, steps=(10, 20), joint_steps=(10, 20),
        batches=(1, 4), rounds=1, scales=(0.5, 1, 1.5), bits=(1, 2),
    )  # fmt: skip


def test_whole_run_on_a_matrix_of_ones_own(tmp_path):
    for package in ("matplotlib", "sklearn", "scipy"):
        pytest.importorskip(package)
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((20, 24)))
    words = ["all", "--quick", "--matrix", tmp_path / "mine.npy", "--out", tmp_path / "out"]
    stopped = bench_paper(*words, "--minutes", "0")
    assert stopped.returncode == 75
    assert "left; run the same command again" in stopped.stdout
    done = bench_paper(*words)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "REPORT.md").read_text()
    for name, experiment in EXPERIMENTS.items():
        assert f"## {experiment.title}" in text
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with open(tmp_path / "out" / f"{name}.csv", newline="") as file:
            next(file)
            assert list(csv.DictReader(file))
    assert "Not measured" not in text
    assert "mine 20x24" in text


def test_errors_and_winners_of_a_tiny_run(tmp_path):
    pytest.importorskip("sklearn")
    run, store = tiny(case(), case((16, 16), 1, "other", "SIFT")), Store(tmp_path)
    for experiment in EXPERIMENTS.values():
        assert store.run(experiment.cells(run), "test") == 0
    rows = list(EXPERIMENTS["errors"].rows(run, store))
    assert {row["bits"] for row in rows} == {1, 2}
    one = [row for row in rows if row["matrix"] == "tiny 12x16" and row["bits"] == 2]
    ours = next(row for row in one if row["method"] == "bqq_fast")
    assert ours["bytes"] == bqq_bytes(12, 16, 2, rank_of(12, 16))
    assert report.bqq_size(one) == ours["bytes"]
    best = report.lowest(one)
    fits = [row for row in one if row["mse"] is not None and row["bytes"] <= 1.03 * ours["bytes"]]
    assert best["mse"] == min(row["mse"] for row in fits)
    scales = list(EXPERIMENTS["lscale"].rows(run, store))
    assert {(row["p"], row["l_scale"]) for row in scales} >= {(1, 1), (2, 1), (2, 0.5), (4, 0.5), (1, 1.5)}
    of_sift = next(row for row in scales if row["matrix"].startswith("other") and (row["p"], row["l_scale"]) == (2, 1))
    assert of_sift["published_mse"] == 0.030
    assert of_sift["over_published"] == pytest.approx(of_sift["mse"] / 0.030)
    bounds = list(EXPERIMENTS["bound"].rows(run, store))
    assert all(row["tight_bound"] <= row["bound"] + 1e-12 for row in bounds)
    products = list(EXPERIMENTS["inference"].rows(run, store))
    assert all(row["us_fast"] > 0 and row["dense_multiply_adds"] > 0 for row in products)


def test_plan_keeps_to_the_bytes_of_the_table():
    W = case((20, 30)).W
    found = planned(W, lambda done, of: None, 2)
    assert found["bytes"] <= found["stored"] <= bqq_bytes(20, 30, 2, rank_of(20, 30))
    assert 0 < found["mse"] < 1
    assert planned(case((7, 5)).W, lambda done, of: None, 1)["mse"] is None


def test_winner_may_be_larger_only_beside_the_table():
    def row(method, mse, size):
        return {"matrix": "M", "bits": 1, "method": method, "mse": mse, "bytes": size}

    rows = [row("bqq_default", 0.3, 1000), row("jpeg", 0.2, 1029), row("e8", 0.1, 1100), row("svd", None, None)]
    rows[3] = row("svd", None, 0)
    text = "\n".join(report._winners(rows))
    assert "| **JPEG** | 300 (bqq, default) | 200 (JPEG) | 1.50 | E8, two scales per level 100, +10 % |" in text


def test_cells_are_measured_once_and_a_cut_line_again(tmp_path):
    calls = []

    def measure(W, report, a):
        calls.append(a)
        report(1, 2)
        return {"sum": float(W.sum()) + a}

    cells = [Cell(measure, case(), {"a": a}) for a in (1, 2, 2)]
    Store(tmp_path).run(cells, "test")
    assert calls == [1, 2]
    store = Store(tmp_path)
    store.run(cells, "test")
    assert calls == [1, 2]
    file = tmp_path / "cells.jsonl"
    file.write_text(file.read_text()[:-9])
    store = Store(tmp_path)
    assert store.get(cells[0]) is not None
    assert store.get(cells[1]) is None
    store.run(cells, "test")
    assert calls == [1, 2, 2]
    assert Store(tmp_path).get(cells[1]) == store.get(cells[1])
    assert store.get(Cell(measure, case(seed=1), {"a": 1})) is None
    assert [json.loads(line)["key"]["a"] for line in file.read_text().splitlines() if line.endswith("}}")] == [1, 2]


def test_cells_at_once(tmp_path):
    both = threading.Barrier(2)

    def meet(W, report, a):
        both.wait(60)
        return {"a": a}

    cells = [Cell(meet, case(), {"a": a}) for a in range(4)]
    store = Store(tmp_path)
    assert store.run(cells, "test", jobs=2) == 0
    assert [(store.get(cell) or {}).get("a") for cell in cells] == [0, 1, 2, 3]


def test_a_failing_cell_ends_the_others(tmp_path):
    ended: list[int] = []

    def long(W, report, a):
        both.wait(60)
        if a == 0:
            raise ValueError("no")
        try:
            for i in range(3000):
                time.sleep(0.02)
                report(i, 3000)
        except KeyboardInterrupt:
            ended.append(a)
            raise

    both = threading.Barrier(2)
    with pytest.raises(ValueError, match="no"):
        Store(tmp_path).run([Cell(long, case(), {"a": a}) for a in range(2)], "test", jobs=2)
    assert ended == [1]


def test_printed_sizes_follow_from_the_account():
    for (matrix, p, scale), (_, kilobytes) in published.TABLE_S4.items():
        m, n = SIZES[matrix]
        assert round(bqq_bytes(m, n, p, rank_of(m, n, scale)) / 1000, 1) == pytest.approx(kilobytes, abs=0.051)
    assert len(published.TABLE_S4) == 75
    for (matrix, bits, method), (_, kilobytes) in published.REVIEW.items():
        side = published.CROPS[matrix]
        if method == "bqq":
            assert bqq_bytes(side, side, bits, side // 2) / 1000 == pytest.approx(kilobytes, abs=0.051)
    assert published.by_stacks("Random") == {1: 0.3243, 2: 0.1053, 3: 0.0344, 4: 0.0112}


def test_reviewed_crop():
    whole = case((384, 384), kind="DeiT")
    cut = reviewed(whole)
    assert cut is not None
    assert cut.W.shape == (256, 256)
    np.testing.assert_allclose(cut.W, matrices.standardise(whole.W[64:320, 64:320]))
    assert reviewed(case()) is None
    assert reviewed(case((64, 100), kind="SIFT")) is None
    square = case((128, 128), kind="SIFT")
    assert reviewed(square) is square


@pytest.mark.parametrize("p", [1, 2])
def test_gradients_and_scales_of_joint_stacks(p):
    rng = np.random.default_rng(3)
    stacks = anneal.Stacks(rng.standard_normal((5, 4)), p, 3, rng)
    y, z = rng.random((5, 3 * p)), rng.random((3 * p, 4))
    scales = rng.standard_normal(3 * p + 1)

    def energy(y, z, scales):
        """Expected squared error over independent bits: of the mean, plus the variance of each stack's terms."""
        r, s, t = (np.repeat(scales[i:-1:3], 3)[None, :, None] for i in range(3))
        a, b = y[:, :, None], z[None]
        mean = r * a * b + s * a + t * b
        square = a * b * (r + s + t) ** 2 + a * (1 - b) * s**2 + (1 - a) * b * t**2
        return ((stacks.X - mean.sum(1) - scales[-1]) ** 2).sum() + (square - mean**2).sum()

    gy, gz = stacks.gradients(y.astype(np.float32), z.astype(np.float32), scales)
    for gradient, x in ((gy, y), (gz, z)):
        for index in np.ndindex(x.shape):
            before = x[index]
            values = []
            for step in (1e-4, -1e-4):
                x[index] = before + step
                values.append(energy(y, z, scales))
            x[index] = before
            assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-4, abs=2e-4)
    best = stacks.solve(y.astype(np.float32), z.astype(np.float32))
    least = energy(y, z, best)
    for i in range(len(best)):
        for step in (-1e-2, 1e-2):
            assert energy(y, z, best + step * np.eye(len(best))[i]) > least - 1e-9


def test_joint_and_greedy_of_one_stack_are_the_same():
    W = case((16, 12)).W
    found = [anneal.decompose(W, 1, 7, 60, joint) for joint in (False, True)]
    np.testing.assert_array_equal(*found)
    assert ((found[0] - W) ** 2).mean() < 1


def test_cached_matrix_needs_no_package(tmp_path, monkeypatch, capsys):
    def loader(options):
        return matrices.Case(
            "photo", "Photo 8x8", "somewhere", case((8, 8)).W, "ImageNet", substitute=options.rd100 == "x"
        )

    monkeypatch.setitem(matrices.LOADERS, "photo", loader)
    (substitute,) = sources.load(["photo"], matrices.Options(rd100="x"), tmp_path)
    assert substitute.substitute
    assert "a substitute" in capsys.readouterr().out
    (first,) = sources.load(["photo"], matrices.Options(), tmp_path)
    monkeypatch.delitem(matrices.LOADERS, "photo")
    (again,) = sources.load(["photo"], matrices.Options(), tmp_path)
    np.testing.assert_array_equal(first.W, again.W)
    assert (again.kind, again.source) == ("ImageNet", "somewhere")
    assert "cached in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros(5), "two dimensions"),
        (np.full((3, 3), np.nan), "finite"),
        (np.ones((3, 3)), "not all equal"),
        (np.ones((3, 3), complex), "real numbers"),
        (1e200 * np.eye(3), "too large"),
        (1e-310 * np.eye(3), "too small"),
        (None, "No such file"),
    ],
)
def test_matrix_that_cannot_be_used(tmp_path, array, told):
    if array is not None:
        np.save(tmp_path / "mine.npy", array)
    with pytest.raises(SystemExit, match=told):
        sources.own(tmp_path / "mine.npy")


def test_file_that_is_no_matrix(tmp_path):
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.eye(3))
    for name, told in (("empty.npy", "No data left"), ("several.npz", "an archive")):
        with pytest.raises(SystemExit, match=told):
            sources.own(tmp_path / name)


def test_unknown_experiment(tmp_path):
    done = bench_paper("erors", "--out", tmp_path)
    assert done.returncode == 2
    assert "erors" in done.stderr
