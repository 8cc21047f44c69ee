"""Rules about the code itself: layers, rooms, formatting, types, what the repository may not say."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from _build import ROOT

CPP = ROOT / "cpp"
CUDA = ROOT / "cuda"
ALLOWED = ROOT / "tests" / "python" / "stubtest_allowed.txt"  # pybind11 classes have a metaclass of their own

# Each file may include only files of a lower rank (and its own header). The kernels see one another alone.
RANKS: dict[str, int] = {
    "bqq/matrix.hpp": 0,
    "kernels/table.hpp": 0,
    "host_device.hpp": 0,
    "mean_field.hpp": 1,
    "rng.hpp": 1,
    "half.hpp": 0,
    "crc32.hpp": 0,
    "pool": 1,
    "prepared": 3,
    "arena.hpp": 4,
    "dense": 5,
    "strided": 2,
    "json": 1,
    "linalg": 1,
    "parallel.hpp": 1,
    "kernels/dispatch": 1,
    "pack": 2,
    "metric": 4,
    "refine": 4,
    "safetensors": 2,
    "scales": 3,
    "amfd": 4,
    "plan.hpp": 5,
    "bqq/decompose.hpp": 1,
    "bqq/matmul.hpp": 1,
    "bqq/io.hpp": 1,
    "bqq/bqq.hpp": 2,
    "bqq/bqq.h": 0,
    "decompose": 6,
    "reconstruct": 5,
    "matmul": 6,
    "io": 5,
    "config": 5,
    "capi_types.hpp": 6,
    "capi": 7,
}
ONE_ROOM = {  # what, where alone
    r"\bomp\b|omp\.h": {"cpp/src/parallel.hpp"},
    r"\bEigen/": {"cpp/src/linalg.cpp"},
    r"immintrin\.h|arm_neon\.h": {"cpp/src/kernels/x86.hpp", "cpp/src/kernels/neon.cpp"},
    r"\bfork\b|pthread_atfork": {"cpp/src/parallel.hpp", "cpp/src/pool.cpp"},
}


def sources(*suffixes: str) -> list[Path]:
    return sorted(p for p in CPP.rglob("*") if p.suffix in suffixes and "examples" not in p.parts)


def name_of(path: Path) -> str:
    base = CPP / "include" if CPP / "include" in path.parents else CPP / "src"
    return path.relative_to(base).as_posix()


def rank(name: str) -> int:
    return RANKS[name] if name in RANKS else RANKS[re.sub(r"\.[ch]pp$", "", name)]


def includes(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(), re.M)


def is_kernel(path: Path) -> bool:
    """Whether a file is compiled with the flags of an instruction set."""
    return path.read_text().startswith("// isa:") or path.name.endswith("_inl.hpp")


@pytest.mark.parametrize("path", sources(".hpp", ".cpp", ".h"), ids=name_of)
def test_layers(path: Path) -> None:
    if is_kernel(path):
        others = set(includes(path)) - {
            "kernels/table.hpp",
            "kernels/tuning.hpp",
            "kernels/x86.hpp",
            "amx_emulation.hpp",
        }
        assert all(re.fullmatch(r"kernels/\w+_inl\.hpp", name) for name in others)
        return
    own = re.sub(r"\.cpp$", "", name_of(path))
    for included in includes(path):
        if included == "isa_list.inc":  # generated: the list of instruction-set files
            continue
        same = re.sub(r"\.hpp$", "", included)
        if same in (own, f"bqq/{own}"):
            continue
        assert rank(included) < rank(name_of(path)), f"{name_of(path)} includes {included}"
    if path.name in ("capi.cpp", "capi_types.hpp"):
        assert all(name.startswith("bqq/") or name == "capi_types.hpp" for name in includes(path))
    if "include" in path.parts:
        assert all(name.startswith("bqq/") for name in includes(path))


def cuda_files() -> list[Path]:
    return sorted(p for p in CUDA.iterdir() if p.suffix in (".cu", ".cuh"))


def code_of(path: Path) -> str:
    return re.sub(r"//.*", "", path.read_text())


def test_cuda_layers() -> None:
    """The core knows nothing of cuda/; there, nobody includes whom he is included by, and nobody a .cu file."""
    names = {path.name for path in cuda_files()}
    for path in sources(".hpp", ".cpp", ".h"):
        assert not names & set(includes(path)), path.name
    edges = {path.name: set(includes(path)) & names for path in cuda_files()}
    assert not any(name.endswith(".cu") for included in edges.values() for name in included)
    placed: set[str] = set()
    while len(placed) < len(names):
        ready = {name for name in names - placed if edges[name] <= placed}
        assert ready, f"a circle among {sorted(names - placed)}"
        placed |= ready


def test_cuda_source_is_the_same_for_both_builds() -> None:
    """What nvcc and the emulation have to see differently is in portable.cuh alone."""
    apart = r"\basm\b|__CUDACC__|__CUDA_ARCH__|cuemu|BQQ_CUDA_EMULATION|__shared__|cudaLaunchKernel|<<<"
    for path in cuda_files():
        code = code_of(path)
        if path.name != "portable.cuh":
            found = re.search(apart, code)
            assert found is None, f"{path.name}: {found and found[0]}"
        kernels = re.findall(r"__global__\s+void\s+(.{0,20})", code)
        assert all(after.startswith("__launch_bounds__(") for after in kernels), path.name


@pytest.mark.parametrize("pattern", ONE_ROOM)
def test_one_room_per_concern(pattern: str) -> None:
    for path in sources(".hpp", ".cpp", ".h"):
        code = re.sub(r"//.*|/\*.*?\*/", "", path.read_text(), flags=re.S if path.suffix == ".h" else 0)
        if re.search(pattern, code):
            assert path.relative_to(ROOT).as_posix() in ONE_ROOM[pattern]


def test_python_names_other_array_libraries_in_one_module_only() -> None:
    for path in (ROOT / "python" / "bqq").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                assert top not in ("torch", "cupy", "jax") or path.name == "_arrays.py"


def test_versions_agree() -> None:
    import bqq

    text = (ROOT / "CMakeLists.txt").read_text()
    version = re.search(r"project\(bqq VERSION ([0-9.]+)", text)
    assert version is not None
    assert bqq.__version__ == version[1]
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()


def test_files_stay_small() -> None:
    tracked = [p for d in ("cpp", "cuda", "python", "tests", "bench") for p in (ROOT / d).rglob("*")]
    long = {
        p.relative_to(ROOT).as_posix(): count
        for p in tracked
        if p.suffix in (".cpp", ".hpp", ".h", ".py", ".cu", ".cuh") and (count := p.read_text().count("\n")) > 600
    }
    assert not long, "a file over about 500 lines is two rooms"


def tool(name: str) -> str:
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} not found (pip install 'bqq[test]')")
    return found


def check(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_clang_format() -> None:
    files = [p for d in ("cpp", "cuda", "tests", "python", "bench") for p in (ROOT / d).rglob("*")]
    files = [p for p in files if p.suffix in (".cpp", ".hpp", ".h", ".c", ".cu", ".cuh")]
    check(tool("clang-format"), "--dry-run", "--Werror", *files)


def test_ruff() -> None:
    check(tool("ruff"), "check", "--no-cache", "python", "tests", "bench")
    check(tool("ruff"), "format", "--no-cache", "--check", "python", "tests", "bench")


def test_mypy() -> None:
    pytest.importorskip("mypy", reason="mypy not found (pip install 'bqq[test]')")
    check(sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir", "/dev/null")


def test_stubs() -> None:
    pytest.importorskip("mypy", reason="mypy not found (pip install 'bqq[test]')")
    from bqq import _core

    allowed: list[str | Path] = ["--allowlist", ALLOWED]
    if not hasattr(_core, "DeviceMatrix"):
        allowed += ["--allowlist", ALLOWED.with_name("stubtest_no_cuda.txt")]  # the GPU part is not there
    check(sys.executable, "-m", "mypy.stubtest", "bqq._core", "--ignore-disjoint-bases", *allowed)
