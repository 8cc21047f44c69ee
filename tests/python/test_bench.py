"""The benchmarks run, say what they skip and what they miss, and write what readme.py and curves.py read."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from bench import compare, hashes, machine, matmul_targets, matrices, readme, targets

from _build import ROOT
from conftest import torch_randn


def run_bench(*arguments):
    command = [sys.executable, "-m", "bench.decompose", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_figures_table_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    short = ["--matrices", "distance", "--bits", "1,2", "--seeds", "1", "--paper-steps", "50", "--torch-timing", "0"]
    out = run_bench("--parts", "errors", "--threads", "1", "--data", tmp_path, "--out", tmp_path, *short)
    assert "Distance 100x100" in out
    with open(tmp_path / "decompose.csv", newline="") as file:
        assert file.readline().startswith("# ")
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"uniform", "lloyd_max", "fast", "default", "best", "paper"}
    assert {row["bits"] for row in rows} == {"1", "2"}
    assert all(float(row["mse"]) > 0 for row in rows)
    table = readme.errors(rows).splitlines()
    assert len(table) == 2 + 2
    assert all(line.count("|") == table[0].count("|") for line in table)
    assert (tmp_path / "decompose.png").read_bytes().startswith(b"\x89PNG")


def test_readme_tables_of_the_committed_figures():
    assert readme.summary() in (ROOT / "README.md").read_text("utf-8")
    assert readme.tables().strip() in (ROOT / "docs" / "pages" / "performance.md").read_text("utf-8")


def test_what_cannot_be_had_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(matrices, "find_spec", lambda name: None)
    assert not list(matrices.cases(["attention"], matrices.Options(data=tmp_path)))
    told = capsys.readouterr().out
    assert told.startswith("skipped attention: pip ")


def test_unknown_part():
    done = subprocess.run(
        [sys.executable, "-m", "bench.decompose", "--parts", "steps,speed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "speed" in done.stderr


def test_random_is_that_of_torch():
    np.testing.assert_allclose(matrices.torch_randn(1, 128, 128), torch_randn(1, 128, 128), atol=1e-6)


def test_standardised_and_labelled():
    for case in matrices.cases(["random", "student", "distance"], matrices.Options(data=ROOT / "nowhere")):
        assert case.W.mean() == pytest.approx(0, abs=1e-12)
        assert case.W.std(ddof=1) == pytest.approx(1)
        assert case.name.endswith("x".join(map(str, case.W.shape)))
        assert case.same == (case.key == "random")


def test_distance_of_a_tsplib_file(tmp_path):
    lines = [f" {i + 1} {i % 10}.5  {10 * i}" for i in range(100)]
    file = tmp_path / "points.tsp"
    head = "\ufeffNAME : points\nDIMENSION: 100\nEDGE_WEIGHT_TYPE :EUC_2D\n"
    file.write_text(head + "NODE_COORD_SECTION\n" + "\n".join(lines) + "\nDISPLAY_DATA_SECTION\n1 5 5\nEOF\n", "utf-8")
    case = matrices.distance(matrices.Options(rd100=str(file)))
    assert case.same
    D = np.round(case.W - case.W[0, 0], 12)
    np.testing.assert_array_equal(D, D.T)
    assert D[0, 1] / D[0, 2] == pytest.approx(10 / 20)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("DIMENSION: 2\nEDGE_WEIGHT_TYPE: EXPLICIT\nEDGE_WEIGHT_SECTION\n0 1 2\n1 0 3\n", "EXPLICIT"),
        ("DIMENSION: 2\nEDGE_WEIGHT_TYPE: GEO\nNODE_COORD_SECTION\n1 5 5\n2 6 6\n", "GEO"),
        ("DIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n1 5 5\n2 6 6\nEOF\n", "3 cities"),
        ("1 5 5\n2 6 6\n", "None"),
    ],
)
def test_tsplib_files_of_another_kind(text, word):
    with pytest.raises(ValueError, match=word):
        matrices.points_of_tsp(text)


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_file_of_a_downloaded_package(tmp_path, kind):
    if kind == "wheel":
        with zipfile.ZipFile(tmp_path / "some_package-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("some_package/data/x_1.txt", "content")
    else:
        with tarfile.open(tmp_path / "some_package-1.0.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("some_package-1.0/data/x_1.txt")
            member.size = 7
            archive.addfile(member, io.BytesIO(b"content"))
    assert matrices.package_file("some_package", "data/x_", tmp_path) == b"content"


def figures(method, mse, seconds, matrix="Gaussian 128x128", bits=1, note="", same="same", paper=0.3243):
    return {
        "matrix": matrix,
        "bits": bits,
        "method": method,
        "threads": 1,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "mse": mse,
        "paper_mse": paper,
        "paper_matrix": same,
        "note": note,
    }


def verdicts(*args):
    return {row["target"]: row["verdict"] for row in targets.judge(*args)}


def test_missed_targets_are_called_so():
    fast, default = figures("fast", 0.34, 0.1), figures("default", 0.328, 0.5)
    for seconds, verdict in ((49.0, "missed"), (51.0, "met")):
        found = verdicts([fast, default, figures("torch", "", seconds)], [], [])
        assert [v for t, v in found.items() if "PyTorch seconds" in t] == [verdict]
        assert found["Gaussian, p = 1: default over 0.3253"] == "met"
        assert found["Gaussian 128x128, p = 1: default under Table S.4"] == "missed"
    slow = verdicts([fast, figures("torch", "", 51.0), figures("default", 0.34, 0.5)], [], [])
    assert [v for t, v in slow.items() if "PyTorch seconds" in t] == ["missed"]


def test_only_a_full_run_of_the_schedule_counts():
    ours = figures("default", 0.35, 1.0, "Student-t(3) 96x160", same="", paper="")
    short = figures("paper", 0.6, 1.0, "Student-t(3) 96x160", note="schedule='paper', 5000 steps, 1 seed")
    full = short | {"note": "schedule='paper', 50000 steps, 1 seed"}
    name = "Student-t(3) 96x160, p = 1: default under the published schedule"
    assert name not in verdicts([ours, short], [], [])
    assert verdicts([ours, full], [], [])[name] == "met"


def test_step_and_memory_targets():
    step = {
        "size": 128,
        "isa": "avx512",
        "threads": 1,
        "cpu_times_less_than_torch": "9",
        "times_faster_than_torch": "9.9",
    }
    large = {"size": 4096, "p": 2, "effort": "default", "threads": 2, "peak_over_input": 2.6, "seconds": 600}
    found = verdicts([], [step], [large])
    assert found["step 128x128, avx512, 1 threads, times faster than PyTorch"] == "missed"
    assert found["4096x4096, p = 2, default, 2 threads: peak memory over input"] == "missed"


def product(shape, batch, method, speed, cache="hot", threads=1):
    row = {"shape": shape, "batch": batch, "threads": threads, "cache": cache, "method": method}
    return row | {"cpu_speedup": speed}


def product_verdicts(isa, *rows):
    figures = matmul_targets.Figures(isa, [product(*row) for row in rows])
    return {row["target"]: row["verdict"] for row in matmul_targets.judge(figures)}


def test_product_targets_compare_with_the_fastest_peer():
    rows = [
        ("4096x4096", 1, "numpy float32", 1),
        ("4096x4096", 1, "ggml TQ2_0", 9),
        ("4096x4096", 1, "torch int8", 20),  # not a low-bit peer
        ("4096x4096", 1, "bqq float32 p=2 patch=default", 15.1),
        ("4096x4096", 1, "bqq fast p=2 patch=default", 17),
        ("4096x4096", 16, "numpy float32", 1),
        ("4096x4096", 16, "torch int8", 6),
        ("4096x4096", 16, "bqq fast p=2 patch=default", 9.1),
        ("4096x4096", 16, "bqq float32 p=2 patch=default", 0.9),
        ("4096x4096", 16, "bqq float32 p=2 patch=128", 5),
        ("4096x4096", 16, "bqq float32 p=2 patch=4096", 8),
    ]
    found = product_verdicts("vnni", *rows)
    assert found == {
        "vnni: 4096x4096, batch 1, p = 2, float32, hot over NumPy": "met",
        "vnni: 4096x4096, batch 1, p = 2, fast, hot over NumPy": "missed",
        "vnni: 4096x4096, batch 1, p = 2, fast, hot over ggml TQ2_0": "met",
        "vnni: 4096x4096, batch 16, p = 2, fast over torch int8": "met",
        "vnni: 4096x4096, batch 16, p = 2, float32 over torch int8": "missed",
        "vnni: 4096x4096, p = 2, float32: the worst batch over NumPy": "missed",
        "vnni: 4096x4096, batch 16, p = 2, float32: time with patches of 128 over one patch": "missed",
    }
    assert product_verdicts("avx2", *rows[:8]) == {
        "avx2: 4096x4096, batch 1, p = 2, float32 over NumPy": "met",
        "avx2: 4096x4096, batch 1, p = 2, fast over NumPy": "met",
        "avx2: 4096x4096, batch 16, p = 2, fast over NumPy": "met",
        "avx2: 4096x4096, batch 1, p = 2, fast over torch int8": "missed",
        "avx2: 4096x4096, batch 16, p = 2, fast over torch int8": "met",
        "avx2: 4096x4096, p = 2, float32: the worst batch over NumPy": "met",
    }


def test_product_targets_with_matrix_units():
    rows = [
        ("4096x4096", 64, "torch bfloat16", 2),
        ("4096x4096", 64, "torch int8", 3),
        ("4096x4096", 64, "bqq fast p=2 patch=default", 12.1),
        ("4096x4096", 64, "bqq float32 p=2 patch=default", 7.4),
    ]
    assert product_verdicts("amx", *rows) == {
        "amx: 4096x4096, batch 64, p = 2, fast over torch int8": "met",
        "amx: 4096x4096, batch 64, p = 2, float32 over torch int8": "missed",
        "amx: 4096x4096, batch 64, p = 2, float32 over NumPy": "met",
        "amx: 4096x4096, p = 2, float32: the worst batch over NumPy": "met",
    }


def test_torch_baseline():
    torch = pytest.importorskip("torch")
    from bench.torch_amfd import Stack, decompose

    W = matrices.standardise(torch_randn(1, 32, 32))
    short, longer = (((decompose(W, 1, 16, steps) - W) ** 2).mean() for steps in (200, 2000))
    assert longer < short < 1.5
    assert longer < 0.45
    X, y, z = torch.randn(5, 4), torch.rand(5, 3).double(), torch.rand(3, 4).double()
    stack = Stack(X, 3, torch.Generator().manual_seed(0))
    stack.X = stack.X.double()
    stack.sums = (stack.X.sum(1), stack.X.sum(0), stack.X.sum())
    scales: tuple[float, ...] = (0.7, -0.3, 0.2, 0.1)

    def energy(y, z):
        """Expected squared error over independent bits: of the mean, plus the variance of each entry's l terms."""
        r, s, t, u = scales
        mean = r * (y @ z) + s * y.sum(1, keepdim=True) + t * z.sum(0, keepdim=True) + u
        a, b = y[:, :, None], z[None]
        term = r * a * b + s * a + t * b
        square = a * b * (r + s + t) ** 2 + a * (1 - b) * s**2 + (1 - a) * b * t**2
        return ((stack.X - mean) ** 2).sum() + (square - term**2).sum()

    y.requires_grad_(), z.requires_grad_()
    energy(y, z).backward()
    gy, gz = stack.gradients(y.detach(), z.detach(), *scales)
    np.testing.assert_allclose(gy, y.grad, atol=1e-10)
    np.testing.assert_allclose(gz, z.grad, atol=1e-10)
    r, s, t, u = stack.solve(y.detach(), z.detach(), exact=True)
    scales = (r, s, t, u)
    least = energy(y.detach(), z.detach())
    for i in range(4):
        for step in (-1e-3, 1e-3):
            scales = tuple(c + step * (i == k) for k, c in enumerate((r, s, t, u)))
            assert energy(y.detach(), z.detach()) >= least


def test_a_later_run_keeps_what_it_did_not_measure(tmp_path, capsys):
    path = tmp_path / "some.csv"
    machine.write_csv(path, [{"size": 64, "threads": 1, "us": 3}, {"size": 128, "threads": 1, "us": 9}])
    new: list[dict[str, object]] = [{"size": 128, "threads": 1, "us": 8}, {"size": 128, "threads": 2, "us": 5}]
    merged = machine.with_earlier(path, new, ("size", "threads"))
    assert [int(str(row["us"])) for row in merged] == [3, 8, 5]
    path.write_text(path.read_text().replace("numpy", "older numpy", 1))
    assert machine.with_earlier(path, new, ("size", "threads")) == new
    assert "replaced" in capsys.readouterr().out


# --- two commits ---


def test_a_build_computes_what_it_computes(capsys):
    here = compare.Build("here")
    rows = compare.compare_hashes(here, here, ["generic"], quick=True)
    assert len(rows) > 20
    assert compare.report_hashes(rows) == 0
    rows[3] |= {"base_hash": "other", "same": False}
    assert compare.report_hashes(rows) == 1
    assert f"differs on generic: {rows[3]['row']}" in capsys.readouterr().out


@pytest.mark.parametrize("bench", ["matmul", "decompose"])
def test_times_of_a_build_against_itself(bench, tmp_path, capsys):
    here = compare.Build("here")
    rows = compare.compare_times(here, here, bench, rounds=2, threads=1, quick=True)
    assert rows
    assert all(float(row["lowest"]) <= float(row["ratio"]) <= float(row["highest"]) for row in rows)
    rows[0] |= {"ratio": "1.0400"}
    assert compare.report_times(rows[:1], 1.03) == 1
    assert compare.report_times(rows[:1], None) == 0
    machine.write_csv(tmp_path / "some.csv", rows)
    _, read = machine.read_csv(tmp_path / "some.csv")
    assert [row["row"] for row in read] == [row["row"] for row in rows]
    assert {row["commit"] for row in read} == {machine.commit()}
    assert "over the limit" in capsys.readouterr().out


def test_hashes_tell_results_apart():
    W = hashes.matrix("gauss", 9, 7, 0)
    assert hashes.of(W) == hashes.of(W.copy()) != hashes.of(np.nextafter(W, 1))
    assert len(hashes.CASES) == 40


def test_a_commit_that_is_none(capsys):
    with pytest.raises(SystemExit, match="no-such-commit"):
        compare.main(["no-such-commit"])
    with pytest.raises(SystemExit):
        compare.main(["HEAD", "--bench", "telepathy"])
    assert "telepathy" in capsys.readouterr().err


@pytest.mark.slow
def test_two_commits(tmp_path, monkeypatch):
    """Both built from git, into folders that are found again."""
    if not machine.commit():
        pytest.skip("no git")
    monkeypatch.setattr(compare, "CACHE", tmp_path / "compare")
    words = ["HEAD", "HEAD", "--bench", "hashes,matmul", "--quick", "--rounds", "1"]
    assert compare.main([*words, "--csv", str(tmp_path / "all.csv")]) == 0
    _, rows = machine.read_csv(tmp_path / "all.csv")
    assert {row["bench"] for row in rows} == {"hashes", "matmul"}
    (built,) = (tmp_path / "compare").iterdir()
    before = built.stat().st_mtime_ns
    assert compare.main(words) == 0
    assert built.stat().st_mtime_ns == before
    assert str(tmp_path) not in compare.git("worktree", "list")


def test_rows_from_before_they_had_a_commit(tmp_path):
    path = tmp_path / "old.csv"
    path.write_text(f"# {machine.describe()}\nsize,us\n64,3\n")
    merged = machine.with_earlier(path, [{"size": 128, "us": 9}], ("size",))
    machine.write_csv(path, merged)
    _, rows = machine.read_csv(path)
    assert [(row["size"], row["commit"]) for row in rows] == [("64", ""), ("128", machine.commit())]
