"""The CUDA kernels: run on the host emulation of tests/cuda, compiled by nvcc, started where there is no driver."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import _build
from _build import ROOT, run

CUDA_TESTS = ROOT / "tests" / "cuda"
PROGRAMS = sorted(path.stem for path in CUDA_TESTS.glob("test_*.cu"))
OF_THE_EMULATION = sorted(path.stem for path in (CUDA_TESTS / "cuemu").glob("test_*.cu"))
ORDERS = ("ascending", "descending", "random")
SEEDS = (1, 2, 3)
PREEMPTION = (8, 64, 0)  # of each seed: another thread may go on at every 8th access, every 64th, never


@pytest.fixture(scope="session")
def emulated(tree: Path) -> Path:
    """The programs of tests/cuda built twice by g++: fast, and checked at every access."""
    if not _build.emulation():
        pytest.skip("the emulation of CUDA needs g++ on Linux and CUDA headers: pip install 'bqq[test]' or the toolkit")
    _build.compile_all(tree, "cuda_tests")
    return tree / "tests" / "cuda"


def passed(program: Path, environments: list[Mapping[str, str]]) -> None:
    """The program passes in every environment; they run beside each other."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for out in pool.map(lambda e: run([program], program.parent, e), environments):
            assert re.search(r"^[1-9]\d* tests, 0 failures$", out, re.M), out


@pytest.mark.parametrize("program", PROGRAMS)
def test_kernels_in_every_order(emulated: Path, program: str) -> None:
    passed(emulated / f"{program}_fast", [{"CUEMU_ORDER": order} for order in ORDERS])


@pytest.mark.parametrize("program", PROGRAMS)
def test_kernels_with_every_access_checked(emulated: Path, program: str) -> None:
    """Races, bounds, uninitialised data, missing waits: nothing is found, whoever goes first."""
    environments = [
        {"CUEMU_SEED": str(seed), "CUEMU_PREEMPT": str(preempt), "CUEMU_DEFER": "1"}
        for seed, preempt in zip(SEEDS, PREEMPTION, strict=True)
    ]
    passed(emulated / f"{program}_checked", environments)


@pytest.mark.parametrize("kind", ["fast", "checked"])
@pytest.mark.parametrize("program", OF_THE_EMULATION)
def test_the_emulation_finds_every_planted_bug(emulated: Path, program: str, kind: str) -> None:
    passed(emulated / f"{program}_{kind}", [{"CUEMU_SEED": str(seed)} for seed in SEEDS])


def test_programs_skip_without_a_device(emulated: Path) -> None:
    done = subprocess.run(
        [emulated / "test_portable_fast"],
        env={**os.environ, "CUEMU_DEVICES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77, done.stdout + done.stderr
    assert "no CUDA device" in done.stdout


@pytest.fixture(scope="session")
def by_nvcc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The kernels and one test program for two GPUs by nvcc, warnings being errors, and what ptxas says of them."""
    nvcc = _build.nvcc_command()
    if nvcc is None:
        pytest.skip("no nvcc: install the CUDA toolkit, or pip install 'bqq[nvcc]'")
    build, folder = _build.nvcc_tree(nvcc), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one process of several: the first compiles, all read
        folder = folder.parent
    said = folder / "nvcc" / "said"
    with _build.alone(said.parent):
        if not said.exists():
            said.write_text(_build.compile_all(build, "test_portable_device", anew="*.cu.o"))
    return build, said.read_text()


def test_nvcc_spills_no_register(by_nvcc: tuple[Path, str]) -> None:
    _, log = by_nvcc
    entry, spills = r"Compiling entry function '(\w+)' for '(sm_\d+)'", r"(\d+) bytes spill stores, (\d+) bytes spill"
    kernels = re.findall(f"{entry}(?:(?!Compiling).)*?{spills}", log, re.DOTALL)
    assert {arch for _, arch, _, _ in kernels} == {"sm_80", "sm_90"}
    spilled = [kernel for kernel in kernels if kernel[2:] != ("0", "0")]
    assert not spilled, spilled


def test_a_program_starts_without_a_driver(by_nvcc: tuple[Path, str]) -> None:
    built, _ = by_nvcc
    program = built / "tests" / "cuda" / "test_portable_device"
    linked = run(["ldd", program], built)
    assert "libcuda" not in linked
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        assert "no CUDA device" in done.stdout
    else:  # on a GPU
        assert done.returncode == 0, done.stdout + done.stderr


def test_native_build_is_for_the_gpus_of_the_machine(tmp_path: Path) -> None:
    """The default of pip: their architectures, those that the kernels and nvcc know; without one, the CPU alone."""
    nvcc = _build.nvcc_command()
    if nvcc is None:
        pytest.skip("no nvcc: install the CUDA toolkit, or pip install 'bqq[nvcc]'")
    smi = tmp_path / "nvidia-smi"
    native = ["-DBQQ_CUDA_NATIVE=ON", f"-DBQQ_NVIDIA_SMI={smi}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    for gpus, says in (
        ("9.0\n7.5\n8.0\n9.0", "for 90-real;80-real"),
        ("7.5", "shows no GPU"),
        ("99.0", "shows no GPU"),
        ("", "shows no GPU"),
    ):
        smi.write_text(f"#!/bin/sh\ncat <<'END'\n{gpus}\nEND\n")
        smi.chmod(0o755)
        assert says in _build.configure(ROOT, tmp_path / "build", *native), gpus


def test_a_broken_nvcc_means_the_cpu_alone(tmp_path: Path) -> None:
    """Unless it is asked for."""
    if _build.cmake_command() is None or shutil.which("c++") is None:
        pytest.skip("cmake or a C++ compiler not found")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    arguments: list[str | Path] = [
        "-S",
        ROOT,
        "-B",
        tmp_path / "build",
        *_build.generator(),
        f"-DCMAKE_PREFIX_PATH={_build.prefix_path()}",
    ]
    said = run([_build.cmake_command() or "", *arguments], tmp_path, {"CUDACXX": str(nvcc)})
    assert "CUDA: for the CPU only, no CUDA compiler works here" in said
    with pytest.raises(AssertionError, match="BQQ_CUDA is ON, but no CUDA compiler works here"):
        run([_build.cmake_command() or "", *arguments, "-DBQQ_CUDA=ON"], tmp_path, {"CUDACXX": str(nvcc)})


CONSUMER = """\
cmake_minimum_required(VERSION 3.24)
project(probe LANGUAGES CXX)
find_package(bqq REQUIRED COMPONENTS cuda)
file(WRITE "${CMAKE_BINARY_DIR}/main.cpp" "#include <bqq/cuda.hpp>\nint main() {}\n")
add_executable(probe "${CMAKE_BINARY_DIR}/main.cpp")
target_link_libraries(probe PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,bqq::cuda>)
"""


def test_installed_kernels(by_nvcc: tuple[Path, str], tmp_path: Path) -> None:
    """A project that has no CUDA language links all of bqq::cuda, CUDA's run-time library being inside."""
    built, _ = by_nvcc
    if shutil.which("nvcc") is None:
        pytest.skip("bqq::cuda needs a CUDA toolkit that CMake can find")
    _build.compile_all(built, "bqq_static", "bqq_shared", "bqq_cuda")
    _build.install(built, tmp_path / "prefix", "runtime", "dev")
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER)
    _build.configure(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    _build.compile_all(tmp_path / "build")
    run([tmp_path / "build" / "probe"], tmp_path)
