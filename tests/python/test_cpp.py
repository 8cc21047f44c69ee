"""The C++ unit tests, run once per instruction set of this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import _build
import bqq
from _build import ROOT, run

CONFIG = bqq.show_config("dict")
assert CONFIG is not None
ISAS = CONFIG["isa_available"].split()
PROGRAMS = sorted(path.stem for path in (ROOT / "tests" / "cpp").glob("test_*.cpp"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_cpp(built: Path, tmp_path: Path, program: str, isa: str) -> None:
    out = run([built / "tests" / "cpp" / program], tmp_path, {"BQQ_ISA": isa})
    assert re.search(r"^[1-9]\d* tests, 0 failures$", out, re.M), out


def test_product_on_emulated_tiles(built: Path, tmp_path: Path) -> None:
    program = built / "tests" / "cpp" / "test_matmul_amx"
    if not program.exists():
        pytest.skip("this compiler has no AMX")
    out = run([program], tmp_path)
    assert re.search(r"^[1-9]\d* tests, 0 failures$", out, re.M), out


def test_bench_of_the_ways_of_a_product(tree: Path) -> None:
    """It runs through all of them; its exit code is its verdict, which is the machine's."""
    _build.compile_all(tree, "bench_methods")

    def bench(what: str) -> tuple[int, list[str]]:
        command = [str(tree / "bench_methods"), what, "quick"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    code, (head, *rows, verdict) = bench("check")
    ways = head.split()[4:8]
    assert ways == ["tables", "lanes", "tiles", "dense"]
    assert len(rows) == 2 * 4 * 2  # classes, stacks, batches
    assert {row.split()[8] for row in rows} <= set(ways)
    assert (code, verdict.split()[-1]) in ((0, "met"), (1, "missed"))
    code, lines = bench("calibrate")
    assert code == 0
    assert re.fullmatch(r"constexpr bqq_costs kCosts\w+ = {", lines[1])
    assert [line.split("// ")[1] for line in lines[2:-1]] == ways
    assert bench("nothing")[0] == 2


def symbols(*arguments: str | Path) -> list[str]:
    return run(["nm", *arguments], ROOT).splitlines()


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) not found")
def test_isa_objects_export_one_strong_symbol_and_no_weak_ones(built: Path) -> None:
    """A weak symbol compiled for AVX-512 could be the copy the linker keeps for everybody."""
    objects = sorted(built.glob("CMakeFiles/bqq_isa_*.dir/**/*.o"))
    assert len(objects) >= 1
    for path in objects:
        isa = re.search(r"bqq_isa_(\w+)\.dir", str(path))
        assert isa is not None
        kinds = [line.split()[-2:] for line in symbols("--defined-only", path)]
        visible = [(kind, name) for kind, name in kinds if not kind.islower() or kind in "uvw"]
        assert visible == [("T", f"bqq_kernels_{isa[1]}")]


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump (binutils) not found")
def test_only_isa_objects_hold_vector_instructions_of_their_level(built: Path) -> None:
    """No AVX register appears outside the instruction-set files: the rest runs on any CPU."""
    for path in sorted(built.glob("CMakeFiles/bqq_objects.dir/**/*.o")):
        code = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
        if "x86-64" not in code:
            pytest.skip("not x86-64")
        assert not re.search(r"%[yz]mm", code), path.name


@pytest.fixture(scope="module")
def sanitized() -> Path:
    build = _build.sanitized_tree()
    _build.compile_all(build, "cpp_tests")
    return build


CORPORA = ("readers", "file", "capi")


def replay(build: Path, tmp_path: Path, name: str) -> None:
    """What a fuzzer has found, and the golden files."""
    corpus = ROOT / "tests" / "fuzz" / "corpus" / name
    said = run([build / "tests" / "fuzz" / f"fuzz_{name}", corpus, ROOT / "tests" / "golden"], tmp_path)
    assert int(said.split()[0]) >= len(list(corpus.iterdir())) > 10


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
@pytest.mark.parametrize("name", CORPORA)
def test_corpus(built: Path, tmp_path: Path, name: str) -> None:
    replay(built, tmp_path, name)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
@pytest.mark.parametrize("name", CORPORA)
def test_corpus_sanitized(sanitized: Path, tmp_path: Path, name: str) -> None:
    replay(sanitized, tmp_path, name)


@pytest.mark.parametrize("program", PROGRAMS)
def test_sanitized(sanitized: Path, tmp_path: Path, program: str) -> None:
    """The unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, on the std::thread body."""
    run([sanitized / "tests" / "cpp" / program], tmp_path, {"UBSAN_OPTIONS": "print_stacktrace=1"})
