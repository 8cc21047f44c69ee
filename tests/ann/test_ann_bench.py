"""The benchmark of vector codes on a small set beside FAISS, and the tables and pictures made of what it writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss", reason="pip install faiss-cpu")

from bench import ann, ann_peers, ann_sets, machine, readme


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16))
    vectors = [
        centres[rng.integers(0, 40, count)] + 0.3 * rng.standard_normal((count, 16)) for count in (400, 1000, 50)
    ]
    (tmp_path / "ann").mkdir()
    np.savez(tmp_path / "ann" / "sift.npz", **ann_sets.made(*vectors)._asdict())
    return tmp_path


def test_neighbours_are_the_true_ones(data: Path) -> None:
    v = ann_sets.load("sift", data)
    distances = np.square(v.queries[:, None].astype(float) - v.base[None]).sum(2)
    assert (v.nearest == np.argsort(distances, axis=1)[:, :100]).mean() > 0.999  # but for ties in float32
    assert ann_peers.recalls(v.nearest[:, :10], v.nearest) == (1, 1)
    assert ann_peers.recalls(v.nearest[:, 5:15], v.nearest) == (0.5, 0)


def test_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = data / "ann.csv"
    arguments = ["--sets", "sift", "--bytes", "8", "--seeds", "2", "--peers", "PQ8,SQ4", "--matrix"]
    monkeypatch.setattr(sys, "argv", ["ann", *arguments, "--data", str(data), "--csv", str(csv)])
    ann.main()
    _, rows = machine.read_csv(csv)
    found = {(row["method"], row["bytes"], row["seed"]): float(row["recall"]) for row in rows}
    assert set(found) == {
        *((method, "8", seed) for method in ("bqq", "PQ4fs") for seed in ("0", "1")),
        ("bqq.Matrix", "8", "0"),
        ("PQ8", "8", "0"),
        ("SQ4", "8", "0"),
    }
    assert all(recall > 0.3 for recall in found.values())
    assert readme.of(rows, "sift", "PQ8", 8)[0] == found["PQ8", "8", "0"]
    assert [name for name, _, _ in readme.best_others(rows, "sift", 8)] in (["PQ8", "SQ4"], ["SQ4", "PQ8"])

    plot = pytest.importorskip("bench.plot_ann", reason="pip install matplotlib")
    for panel in (plot.of_bytes, plot.of_queries):
        plot.draw(csv, data / "picture.png", panel)
        assert (data / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_what_takes_too_long_is_stopped(data: Path) -> None:
    found = ann_peers.limited("sift", data, 8, "OPQ4fs", 1)
    assert found["note"] == "not within 1 s"
    assert "recall" not in found
    assert "failed" in str(ann_peers.limited("sift", data, 8, "no such", 60))
