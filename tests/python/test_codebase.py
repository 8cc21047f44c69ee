"""Rules about the code itself: layers, rooms, formatting, types, what the repository may not say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import _layers as layers
from _build import ROOT
from _layers import NEVER, TOP, violations
from _shapes import cpp_functions, functions, python_functions

CPP = ROOT / "cpp"
ROOMS = ("cpp", "cuda", "python", "tests", "bench", "integrations", "docs", "tools")
SUFFIXES = (*layers.CPP, ".py")
CUDA = ROOT / "cuda"
ALLOWED = ROOT / "tests" / "python" / "stubtest_allowed.txt"  # pybind11 classes have a metaclass of their own

ONE_ROOM = {  # what, where alone
    r"\bEigen/": ("cpp/src/linalg.cpp",),
    r"immintrin\.h|arm_neon\.h": ("cpp/src/kernels/x86.hpp", "cpp/src/kernels/neon.cpp"),
    r"\bfork\b|pthread_atfork": ("cpp/src/pool.cpp",),
    r"sched_[gs]etaffinity": ("cpp/src/cores.cpp",),
    r"nlohmann": ("cpp/src/file/json.cpp",),
}
PLANTED = {  # what is written at the end of a file, and what the layer test says of it
    "a kernel in bits/": ("cpp/src/bits/pack.cpp", '#include "search/amfd.hpp"', "bits may not include search"),
    "the solver in a public header": ("cpp/include/bqq/matrix.hpp", '#include "memory.hpp"', "may not include common"),
    "a private header over the C interface": (
        "cpp/src/capi/capi.cpp",
        '#include "bits/pack.hpp"',
        "may not include bits",
    ),
    "the core in an ISA file": ("cpp/src/kernels/avx2.cpp", '#include "memory.hpp"', "isa may not include common"),
    "one ISA in another": ("cpp/src/kernels/avx2.cpp", '#include "kernels/generic.cpp"', "another instruction set"),
    "CUDA in the core": ("cpp/src/search/decompose.cpp", '#include "amfd.cuh"', "search may not include cuda"),
    "a private header in the bindings": (
        "python/bindings.cpp",
        '#include "../cpp/src/memory.hpp"',
        "may not include common",
    ),
    "a private header in an example": ("cpp/examples/compress.cpp", '#include "memory.hpp"', "may not include common"),
    "nothing": ("cpp/src/config.cpp", '#include "bqq/nothing.hpp"', "which is nowhere"),
    "a circle": ("cpp/include/bqq/error.hpp", '#include "bqq/array.hpp"', "a circle"),
    "a new folder": ("cpp/src/telepathy/send.cpp", "", "do not know this folder"),
    "a new folder of Python": ("python/bqq/telepathy/__init__.py", "", "do not know this folder"),
    "torch in the stem": ("python/bqq/_api.py", "import torch", "may not import torch"),
    "torch on import": ("python/bqq/_arrays.py", "import torch", "may not import torch outside a function"),
    "torch hidden in the stem": ("python/bqq/cli.py", "def f():\n    from torch import nn", "may not import torch"),
    "a wing in the stem": ("python/bqq/__init__.py", "from bqq import nn", "may not import bqq.nn"),
    "a wing in the stem, relative": (
        "python/bqq/_api.py",
        "def f():\n    from .ann import train",
        "may not import bqq.ann",
    ),
    "the bench in the stem": ("python/bqq/_plan.py", "import bench.matrices", "may not import bench"),
    "privacy in a wing": ("python/bqq/nn/layers.py", "from bqq._arrays import taken", "which is not public"),
    "privacy in a wing, by name": ("python/bqq/nn/layers.py", "import bqq\nbqq._core.layout()", "which is not public"),
    "a wing in a wing": ("python/bqq/nn/layers.py", "import bqq.ann", "may not import bqq.ann"),
    "faiss on import": ("python/bqq/ann/index.py", "import faiss", "may not import faiss outside a function"),
    "torch in the other wing": ("python/bqq/ann/index.py", "def f():\n    import torch", "may not import torch"),
    "the paper in the bench": ("bench/peers.py", "from bench.paper import cells", "may not import bench.paper"),
    "a path": ("bench/peers.py", "import sys\nsys.path.insert(0, '')", "changes sys.path"),
}
LEGAL = {
    "python/bqq/nn/layers.py": "import torch, transformers\nimport bqq\nfrom bqq.nn._pack import a\nbqq.decompose",
    "python/bqq/ann/index.py": "import bqq\nfrom . import _codes\ndef f():\n    import faiss",
    "integrations/jax/product.py": "import jax\nimport bqq",
    "integrations/faiss/codec.cpp": "#include <bqq/bqq.hpp>",
}  # what is to come
LINES, PARAMETERS = 80, 8


def sources(*suffixes: str) -> list[Path]:
    return sorted(p for p in CPP.rglob("*") if p.suffix in suffixes and "examples" not in p.parts)


def test_layers() -> None:
    found = violations(ROOT)
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, to plant something in."""
    root = tmp_path_factory.mktemp("copied")
    for folder in TOP:
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns(*NEVER, "*.so"))
    assert not violations(root)
    return root


@contextmanager
def planted(root: Path, texts: Mapping[str, str]) -> Iterator[None]:
    """With these lines at the end of these files, some of them new."""
    before = {name: (root / name).read_text() if (root / name).exists() else None for name in texts}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text((before[name] or "") + f"\n{text}\n")
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                (root / name).unlink()
            else:
                (root / name).write_text(old)


@pytest.mark.parametrize("what", PLANTED)
def test_layers_find_what_is_planted(copied: Path, what: str) -> None:
    name, text, says = PLANTED[what]
    with planted(copied, {name: text}):
        found = violations(copied)
    assert any(says in line for line in found), found
    assert all(line.startswith(name) or "a circle" in line for line in found), found


def test_layers_allow_what_is_to_come(copied: Path) -> None:
    with planted(copied, LEGAL):
        assert not violations(copied)


def test_functions_stay_small() -> None:
    """Kernels are free, and so are the parameters of the C interface."""
    files = [p for top in ROOMS if top != "tests" for p in (ROOT / top).rglob("*")]
    files = [p for p in files if p.suffix in SUFFIXES and p.parent.name != "kernels"]
    found = [
        f"{path.relative_to(ROOT)}:{f.line}: {f.name} has {f.lines} lines, {f.parameters} parameters"
        for path in files
        for f in functions(path)
        if not f.kernel and (f.lines > LINES or (f.parameters > PARAMETERS and not f.name.startswith("bqq_")))
    ]
    assert not found, "\n".join(found)


SHAPES = """
#define MACRO(x) { x
namespace a {
/// not( a, function) {
template <class T, int N>
BQQ_API std::vector<std::pair<int, T>> listed(const std::map<int, T>& a, int b = 3, int c = f(1, 2)) {
    auto inside = [&](int x, int y) { return x + y; };
    if (a.empty()) {
        return {};
    }
    for (int i = 0; i < 3; ++i) {}
    return "}";
}
const int table[] = {1, 2, 3};
struct Box {
    Box(int a, int b) : a(a), b(b) {
        f();
    }
    bool operator()(int a) const noexcept { return a > 0; }
    int a, b;
};
__global__ void __launch_bounds__(128, 2) kernel(float* x) {
    x[0] = '{';
}
auto arrow(void) -> int {
    return 1;
}
int declared(int a, int b);
} // namespace a
"""


def test_functions_are_counted() -> None:
    found = [(f.name, f.lines, f.parameters, f.kernel) for f in cpp_functions(SHAPES)]
    assert found == [
        ("listed", 9, 3, False),
        ("Box", 3, 2, False),
        ("operator()", 1, 1, False),
        ("kernel", 3, 1, True),
        ("arrow", 3, 0, False),
    ]
    text = 'def f(a, b=1, *, c=2):\n    """Two\n    lines."""\n    return [a,\n        b]\n'
    assert [(f.name, f.lines, f.parameters) for f in python_functions(text)] == [("f", 3, 2)]


def cuda_files() -> list[Path]:
    return sorted(p for p in CUDA.iterdir() if p.suffix in (".cu", ".cuh"))


def code_of(path: Path) -> str:
    return re.sub(r"//.*", "", path.read_text())


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
    for path in sources(".hpp", ".cpp", ".h", ".inl"):
        code = re.sub(r"//.*|/\*.*?\*/", "", path.read_text(), flags=re.S if path.suffix == ".h" else 0)
        if re.search(pattern, code):
            assert path.relative_to(ROOT).as_posix().startswith(ONE_ROOM[pattern])


def test_versions_agree() -> None:
    import bqq

    text = (ROOT / "CMakeLists.txt").read_text()
    version = re.search(r"project\(bqq VERSION ([0-9.]+)", text)
    assert version is not None
    assert bqq.__version__ == version[1]
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()


def test_files_stay_small() -> None:
    tracked = [p for d in ROOMS for p in (ROOT / d).rglob("*")]
    long = {
        p.relative_to(ROOT).as_posix(): count
        for p in tracked
        if p.suffix in SUFFIXES and (count := p.read_text().count("\n")) > 600
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
    files = [p for d in ROOMS for p in (ROOT / d).rglob("*") if p.suffix in layers.CPP]
    check(tool("clang-format"), "--dry-run", "--Werror", *files)


def test_ruff() -> None:
    folders = [d for d in ROOMS if any((ROOT / d).rglob("*.py"))]
    check(tool("ruff"), "check", "--no-cache", *folders)
    check(tool("ruff"), "format", "--no-cache", "--check", *folders)


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
