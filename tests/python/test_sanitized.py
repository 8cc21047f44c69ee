"""Some of these tests over a module built with AddressSanitizer and UndefinedBehaviorSanitizer, in Python's own
development mode; what the module leaks is reported, what the interpreter keeps is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import _build
from _build import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="Linux")]
CHOSEN = [
    "save_load",
    "open",
    "damaged_files",
    "matrix",
    "encode",
    "machines",
    "determinism",
    "hostile_numbers",
    "bad_input",
]
OMITTED = [
    "memory_of",
    "instruction_set",
    "two_to_the_31",
    "fit_memory",
    "processes",
    "levels",
]  # measure, or start others
WITHOUT = " and ".join(f"not {word}" for word in OMITTED)
LEAKS = """import gc, sys, numpy as np, bqq, tempfile, pathlib
path = pathlib.Path(tempfile.mkdtemp()) / "q.safetensors"
for _ in range(3):
    q = bqq.decompose(np.eye(20) + 1, 2, patch=8, steps=9, refine=9)
    bqq.save(path, {"q": q, "x": np.ones(3)}, scales="float16")
    file = bqq.open(path)
    file["q"] @ np.ones(20), np.ones(20) @ q, q.T.reconstruct()
    bqq.encode(bqq.decompose(np.eye(9), 1, steps=5), np.eye(9))
    for wrong in (b"", path.read_bytes()[:-1]):
        path.write_bytes(wrong)
        try:
            bqq.load(path)
        except bqq.FormatError:
            pass
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    options = _build.python_module()
    libraries = [  # the C++ library too: its exceptions have to be there when the sanitizer looks for them
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=False).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    if not options or not all(map(os.path.isabs, libraries)):
        pytest.skip("no libasan or no headers of Python")
    build = _build.sanitized_tree(*options)
    _build.compile_all(build, "_core")
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "python" / "bqq", site / "bqq", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (module,) = (build / "python").glob("_core*.so")
    shutil.copy(module, site / "bqq")
    (site / "leaks").write_text("leak:_Py\nleak:Py\nleak:numpy\nleak:python\nleak:/lib/ld-\nleak:_multiarray\n")
    return os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "LSAN_OPTIONS": f"suppressions={site / 'leaks'}:print_suppressions=0",
        "PYTHONPATH": str(site),
        "PYTHONDEVMODE": "1",
        "PYTHONMALLOC": "malloc",
    }


@pytest.mark.parametrize("name", CHOSEN)
def test_under_sanitizers(environment: dict[str, str], name: str) -> None:
    test = ROOT / "tests" / "python" / f"test_{name}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", WITHOUT, test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


def test_leaks(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "leaks.py"
    script.write_text(LEAKS)
    leaking = environment | {"ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run([sys.executable, script], env=leaking, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
