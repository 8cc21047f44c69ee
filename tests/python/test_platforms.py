"""Other platforms: those that are refused, and 64-bit Arm under emulation."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import _build
from _build import ROOT, run

# Nothing is linked for the other platform, so a compiler without its libraries is enough.
COMPILE_ONLY = ["-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY", "-DCMAKE_SYSTEM_NAME=Linux", "-DBQQ_CUDA=OFF"]


def clang() -> str:
    names = ("clang++", *(f"clang++-{version}" for version in range(30, 13, -1)))
    found = next((name for name in names if shutil.which(name)), None)
    if found is None:
        pytest.skip("clang++ not found")
    return found


def refusal(build: Path, *arguments: str) -> str:
    if _build.cmake_command() is None:
        pytest.skip("cmake not found")
    with pytest.raises(AssertionError) as caught:
        _build.configure(ROOT, build, *COMPILE_ONLY, *arguments)
    return " ".join(str(caught.value).split())


def test_32_bit_is_refused(tmp_path: Path) -> None:
    if "__x86_64__" not in _build.compiler_macros():
        pytest.skip("-m32 is of x86-64")
    flags = ["-DCMAKE_SYSTEM_PROCESSOR=i686", "-DCMAKE_C_FLAGS=-m32", "-DCMAKE_CXX_FLAGS=-m32"]
    assert "bqq needs a 64-bit platform" in refusal(tmp_path, *flags)


def test_big_endian_is_refused(tmp_path: Path) -> None:
    cxx = clang()
    target = [f"-DCMAKE_{language}_COMPILER_TARGET=s390x-linux-gnu" for language in ("C", "CXX")]
    compilers = [f"-DCMAKE_CXX_COMPILER={cxx}", f"-DCMAKE_C_COMPILER={cxx.replace('++', '')}"]
    text = refusal(tmp_path, "-DCMAKE_SYSTEM_PROCESSOR=s390x", *compilers, *target)
    assert "bqq needs a little-endian platform" in text


@pytest.mark.slow
def test_clang() -> None:
    """Warnings of clang are errors, too, and its kernels pass the tests of every level of this machine."""
    cxx = clang()
    options = [f"-DCMAKE_CXX_COMPILER={cxx}", f"-DCMAKE_C_COMPILER={cxx.replace('++', '')}", "-DBQQ_CUDA=OFF"]
    build = _build.tree("clang", *options, "-DBQQ_WERROR=ON", "-DBQQ_BUILD_TESTS=ON", "-DBQQ_BUILD_BENCH=ON")
    _build.compile_all(build)
    for program in sorted((build / "tests" / "cpp").glob("test_*")):
        if os.access(program, os.X_OK) and program.is_file():
            assert re.search(r"^[1-9]\d* tests, 0 failures$", run([program], build), re.M), program.name


@pytest.mark.slow
def test_aarch64() -> None:
    """Cross-compiled with NEON, run under qemu-user."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64-static"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} not found: apt-get install g++-aarch64-linux-gnu qemu-user-static")
    base = Path(os.environ.get("BQQ_TEST_BUILD_DIR") or ROOT / "build" / "tests").resolve()
    out = run(
        ["sh", ROOT / "tests" / "cpp" / "aarch64.sh", base / "aarch64"],
        ROOT,
        {"CMAKE_PREFIX_PATH": _build.prefix_path()},
    )
    passed = re.findall(r"^[1-9]\d* tests, 0 failures$", out, re.M)
    assert len(passed) == len(list((ROOT / "tests" / "cpp").glob("test_*.cpp")))
