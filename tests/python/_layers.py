"""Who may include and import whom: one entry a folder, each sees itself and the rooms that its entry names.

`violations(root)` reads every C++, CUDA and Python file below `root` and says what breaks the rules, one line each. A
folder that has no entry breaks them: a new room is added here, with what it may see.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

CPP = (".h", ".hpp", ".cpp", ".c", ".inl", ".cu", ".cuh")
TOP = ("cpp", "cuda", "python", "tests", "bench", "integrations", "docs", "tools")
NEVER = {"results", "data", "__pycache__"}  # folders without sources

# --- C++ ---

CORE = {"public", "c", "common", "isa", "dispatch", "bits", "search", "product", "file", "codec", "capi"}
SEES: dict[str, set[str]] = {  # a room: the rooms that it may include beside itself
    "c": set(),  # bqq.h, bqq_ann.h
    "public": set(),
    "common": {"public"},
    "isa": {"emulated tiles"},  # the instruction-set files and their sources: nothing that others compile as well
    "dispatch": {"public", "common", "isa"},
    "bits": {"public", "common", "isa", "dispatch"},
    "search": {"public", "common", "isa", "dispatch", "bits"},
    "product": {"public", "common", "isa", "dispatch", "bits"},
    "file": {"public", "common", "bits"},
    "codec": {"public", "common", "isa", "dispatch", "file"},
    "config": {"public", "common", "dispatch"},
    "capi": {"c", "public", "common"},
    "cuda public": {"public"},
    "cuda c": {"c"},
    "cuda": {"public", "common", "isa", "bits", "search", "product", "cuda public"},
    "cuda capi": {"c", "public", "common", "capi", "cuda c", "cuda public"},
    "bindings": {"public", "cuda public"},
    "examples": {"c", "public"},
    "emulated tiles": set(),
    "tests": CORE | {"emulated tiles"},
    "emulation": {"common"},
    "cuda tests": CORE | {"cuda", "cuda c", "cuda public", "tests", "emulation"},
    "bench": CORE | {"cuda", "cuda public"},
    "integrations": {"c", "public", "cuda c", "cuda public"},
}
FILES = {
    "cpp/include/bqq/bqq.h": "c",
    "cpp/include/bqq/bqq_ann.h": "c",
    "cpp/src/config.cpp": "config",
    "cpp/src/kernels/dispatch.hpp": "dispatch",
    "cpp/src/kernels/dispatch.cpp": "dispatch",
    "cuda/include/bqq/bqq_cuda.h": "cuda c",
    "cuda/capi.cu": "cuda capi",
    "tests/cpp/amx_emulation.hpp": "emulated tiles",
    "tests/cuda/cuemu/planted.hpp": "cuda tests",
    "tests/cuda/cuemu/test_bugs.cu": "cuda tests",
    "tests/cuda/cuemu/test_streams.cu": "cuda tests",
    "tests/cuda/python/emulated.cpp": "emulation",
}
FOLDERS = {
    "cpp/include/bqq": "public",
    "cpp/src": "common",
    "cpp/src/bits": "bits",
    "cpp/src/capi": "capi",
    "cpp/src/codec": "codec",
    "cpp/src/file": "file",
    "cpp/src/kernels": "isa",
    "cpp/src/product": "product",
    "cpp/src/search": "search",
    "cpp/examples": "examples",
    "cuda": "cuda",
    "cuda/include/bqq": "cuda public",
    "python": "bindings",
    "tests/cpp": "tests",
    "tests/fuzz": "tests",
    "tests/consumer": "examples",
    "tests/cuda": "cuda tests",
    "tests/cuda/cuemu": "emulation",
    "bench": "bench",
    **{
        f"integrations/{name}": "integrations"
        for name in ("common", "faiss", "hnswlib", "jax", "ncnn", "openvino", "onnxruntime")
    },
}
SEARCHED = (
    *("cpp/include", "cpp/src", "cuda", "cuda/include"),
    *("tests/cpp", "tests/fuzz", "tests/cuda", "tests/cuda/cuemu", "integrations/common"),
)
GENERATED = {"isa_list.inc"}
OF_CUDA = {"cuda_runtime.h", "cuda_runtime_api.h", "cuda.h"}

# --- Python ---


@dataclass(frozen=True)
class PythonRoom:
    """What the files of a folder may import."""

    own: tuple[str, ...]  # packages of this repository; their parts come with them
    private: bool = False  # also names of bqq that start with an underscore
    others: frozenset[str] = frozenset()  # of WATCHED, on import
    inside: frozenset[str] = frozenset()  # of WATCHED, inside functions alone


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


WATCHED = only("torch", "transformers", "cupy", "jax", "tensorflow", "faiss", "hnswlib", "openvino", "onnxruntime")
ANY = {"private": True, "others": WATCHED}
STEM = PythonRoom(("bqq",), private=True)
PYTHON_FILES = {"python/bqq/_arrays.py": PythonRoom(("bqq",), private=True, inside=only("torch", "cupy", "jax"))}
PYTHON_FOLDERS = {
    "python/bqq": STEM,
    "python/bqq/nn": PythonRoom(("bqq", "bqq.nn"), others=only("torch", "transformers")),
    "python/bqq/ann": PythonRoom(("bqq", "bqq.ann"), private=True, inside=only("faiss", "hnswlib")),
    "bench": PythonRoom(("bqq", "bqq.ann", "bench"), **ANY),
    "bench/paper": PythonRoom(("bqq", "bench", "bench.paper"), **ANY),
    "bench/models": PythonRoom(("bqq", "bqq.nn", "bench", "bench.models"), **ANY),
    "docs": PythonRoom(("bqq", "bench")),
    "tools": PythonRoom(()),
    "tests/golden": PythonRoom(("bqq",)),
    "tests/faults": PythonRoom(("bqq", "bqq.ann")),
    **{f"tests/{name}": PythonRoom(("bqq", "bqq.nn", "bqq.ann", "bench", "bench.paper", "tests"), **ANY)
       for name in ("python", "ann", "cuda/python", "integrations", "docs")},
    "tests/nn": PythonRoom(("bqq", "bqq.nn", "bench", "bench.models", "tests"), **ANY),
    **{f"integrations/{name}": PythonRoom(("bqq", "bqq.nn", "bqq.ann"), others=WATCHED)
       for name in ("faiss", "hnswlib", "openvino", "onnxruntime", "jax", "ncnn", "ann_benchmarks")},
    **{f"integrations/{name}": PythonRoom(()) for name in ("conan", "conan/test_package")},
}  # fmt: skip
ROOMS = ("bqq", "bqq.nn", "bqq.ann", "bench", "bench.paper", "bench.models", "tests", "integrations")


def violations(root: Path) -> list[str]:
    """What breaks the rules, one line each, in the order of the files."""
    root = root.resolve()
    files = sorted(path for top in TOP for path in (root / top).rglob("*") if not NEVER & set(path.parts))
    cpp = [path for path in files if path.suffix in CPP]
    python = [path for path in files if path.suffix == ".py"]
    return [*_cpp(root, cpp), *_circles(root, cpp), *(line for path in python for line in _python(root, path))]


def includes(path: Path) -> list[str]:
    """What a C++ file includes, without the headers of the system."""
    return _included(path.read_text("utf-8"))


@cache
def _included(text: str) -> list[str]:
    return re.findall(r'^[ \t]*#[ \t]*include[ \t]+(?:"|<(?=bqq/))([^">]+)[">]', text, re.M)


def is_isa_file(path: Path) -> bool:
    """One of the files that are compiled for an instruction set of their own."""
    return path.read_text("utf-8").startswith("// isa:")


def _found(root: Path, path: Path, name: str) -> Path | None:
    """The file that `path` means by `name`, in the order of the compiler."""
    places = [path.parent, *(root / folder for folder in SEARCHED)]
    return next(((place / name).resolve() for place in places if (place / name).is_file()), None)


def _room(name: str) -> str | None:
    return FILES.get(name) or FOLDERS.get(name.rpartition("/")[0])


def _cpp(root: Path, files: list[Path]) -> Iterator[str]:
    for path in files:
        name = path.relative_to(root).as_posix()
        room = _room(name)
        if room is None:
            yield f"{name}: the layers do not know this folder"
            continue
        for included in includes(path):
            if included in GENERATED or (included in OF_CUDA and room in ("cuda", "emulation", "cuda tests")):
                continue
            found = _found(root, path, included)
            if found is None:
                yield f"{name}: includes {included}, which is nowhere"
                continue
            other = found.relative_to(root).as_posix()
            seen = _room(other)
            if seen != room and seen not in SEES[room]:
                yield f"{name}: {room} may not include {seen} ({other})"
            if found.suffix in (".cpp", ".c", ".cu"):
                yield f"{name}: includes a source file ({other})"
            if is_isa_file(path) and room == "isa" and is_isa_file(found):
                yield f"{name}: includes another instruction set ({other})"


def _circles(root: Path, files: list[Path]) -> Iterator[str]:
    graph = {path: {found for name in includes(path) if (found := _found(root, path, name))} for path in files}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " -> ".join(path.relative_to(root).as_posix() for path in error.args[1]) + ": a circle"


@cache
def _imports(package: tuple[str, ...], text: str) -> list[tuple[str, bool]]:
    """Full names of what is imported, with the names taken from it, and whether that is inside a function."""
    tree = ast.parse(text)
    found: list[tuple[str, bool]] = []
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    lazy |= {  # nothing that runs
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += ((alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            found += ((f"{module}.{alias.name}", id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bqq":
            found.append((f"bqq.{node.attr}", id(node) in lazy))
    return found


def _python(root: Path, path: Path) -> Iterator[str]:
    name = path.relative_to(root).as_posix()
    room = PYTHON_FILES.get(name) or PYTHON_FOLDERS.get(name.rpartition("/")[0])
    if room is None:
        yield f"{name}: the layers do not know this folder"
        return
    package = path.relative_to(root / "python" if root / "python" in path.parents else root).parts[:-1]
    text = path.read_text("utf-8")
    for imported, inside in _imports(package, text):
        top, *rest = imported.split(".")
        if top in WATCHED and top not in room.others and not (inside and top in room.inside):
            yield f"{name}: may not import {top}" + (" outside a function" if top in room.inside else "")
        owner = max((known for known in ROOMS if f"{imported}.".startswith(f"{known}.")), key=len, default=None)
        if owner is not None and owner not in room.own:
            yield f"{name}: may not import {owner} ({imported})"
        hidden = rest and rest[0].startswith("_") and not rest[0].startswith("__")
        if top == "bqq" and hidden and not room.private:
            yield f"{name}: takes {imported}, which is not public"
    if re.search(r"^\s*sys\.path\.(insert|append)\b", text, re.M):
        yield f"{name}: changes sys.path"
