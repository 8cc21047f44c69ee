"""integrations/ann_benchmarks as that harness reads and runs it."""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from _build import ROOT

yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
pytest.importorskip("bqq.ann")

SOURCE = ROOT / "integrations" / "ann_benchmarks"
# What the harness has as ann_benchmarks/algorithms/base/module.py, as far as its runner calls it.
BASE = """
class BaseANN:
    def done(self): pass
    def get_memory_usage(self): return 1.0
    def fit(self, X): raise NotImplementedError
    def query(self, q, n): raise NotImplementedError
    def batch_query(self, X, n): raise NotImplementedError
    def get_batch_results(self): return self.res
    def get_additional(self): return {}
    def __str__(self): return self.name
"""


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """The module as the harness imports it: over a checkout's base class, or one with the same interface."""
    folder = tmp_path_factory.mktemp("harness")
    algorithms = folder / "ann_benchmarks" / "algorithms"
    checkout = os.environ.get("BQQ_ANN_BENCHMARKS")
    if checkout:
        shutil.copytree(Path(checkout) / "ann_benchmarks", folder / "ann_benchmarks")
    else:
        (algorithms / "base").mkdir(parents=True)
        (algorithms / "base" / "module.py").write_text(BASE)
    shutil.copytree(SOURCE, algorithms / "bqq")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "ann_benchmarks"]:
        del sys.modules[name]


def combinations(args):
    """All choices of one of each list, as the harness expands `args` and `query_args`."""
    return list(itertools.product(*(a if isinstance(a, list) else [a] for a in args)))


def definitions(metric, dimension):
    """Constructor and the arguments of each of config.yml's entries that do `metric`."""
    config = yaml.safe_load((SOURCE / "config.yml").read_text())["float"]
    for entry in config.get("any", config.get(metric)):
        assert {"docker_tag", "module", "constructor", "name", "base_args", "run_groups"} <= set(entry)
        values = {"@metric": metric, "@dimension": dimension, "@count": 10}
        base = [values.get(a, a) for a in entry["base_args"]]
        for group in entry["run_groups"].values():
            for args in combinations(group["args"]):
                module = importlib.import_module(entry["module"] + ".module")
                yield getattr(module, entry["constructor"]), [*base, *args], combinations(group["query_args"])


def exact(X, Q, metric, n):
    angular = -(Q @ X.T) / np.linalg.norm(X, axis=1)
    order = angular if metric == "angular" else (X * X).sum(1) - 2 * Q @ X.T
    return np.argsort(order, axis=1)[:, :n]


def recall(found, truth):
    return np.mean([len(set(map(int, f)) & set(t.tolist())) / len(t) for f, t in zip(found, truth, strict=True)])


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_as_the_harness_runs_it(harness, metric):
    rng = np.random.default_rng(0)
    X, Q = ((rng.standard_normal((n, 96)) * np.linspace(2, 0.2, 96)).astype(np.float32) for n in (1500, 25))
    truth = exact(X, Q, metric, 10)
    last = 0.0
    runs = list(definitions(metric, 96))
    assert len(runs) == 3
    for constructor, arguments, query_arguments in runs:
        algorithm = constructor(*arguments)
        algorithm.fit(X)
        assert algorithm.get_memory_usage() > 0
        found = {}
        for group in query_arguments:
            algorithm.set_query_arguments(*group)
            assert str(algorithm) == algorithm.name
            assert all(str(a) in algorithm.name for a in group)
            found[group] = [algorithm.query(q, 10) for q in Q]
            assert all(len(set(map(int, ids))) == 10 for ids in found[group])
            algorithm.batch_query(Q, 10)
            together = algorithm.get_batch_results()
            assert all(list(a) == list(b) for a, b in zip(found[group], together, strict=True))
        score = recall(found[0, 0], truth)
        assert score > last + 0.02
        assert recall(found[0, 50], truth) > score
        assert recall(found[0, 400], truth) >= 0.98
        assert isinstance(algorithm.get_additional(), dict)
        algorithm.done()
        last = score
    assert last > 0.8


def test_metric_that_bqq_does_not_do(harness):
    module = importlib.import_module("ann_benchmarks.algorithms.bqq.module")
    with pytest.raises(NotImplementedError, match="jaccard"):
        module.Bqq("jaccard", 16)


@pytest.mark.skipif("BQQ_ANN_BENCHMARKS" not in os.environ, reason="set BQQ_ANN_BENCHMARKS to a checkout")
def test_the_harness_reads_the_configuration(harness, monkeypatch):
    monkeypatch.chdir(harness)
    read = importlib.import_module("ann_benchmarks.definitions")
    found = [d for d in read.get_definitions("", 96) if d.algorithm == "bqq"]
    assert [list(d.arguments) for d in found] == [["euclidean", size] for size in (16, 32, 64)]
    assert read.instantiate_algorithm(found[0]).name.startswith("bqq")
