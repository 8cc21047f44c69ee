"""What the tests of the engines share: bqq as installed, and plug-ins built over that."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import _build
from _build import ROOT

HERE = Path(__file__).resolve().parent


@cache
def plugin(name: str) -> Path:
    """The folder in which integrations/NAME was built, a project of its own over the installed bqq."""
    if _build.cmake_command() is None or not _build.compiler_macros():
        pytest.skip("cmake or a C++ compiler not found")
    options = [f"-DCMAKE_PREFIX_PATH={_build.installed()}", f"-DPython3_EXECUTABLE={sys.executable}"]
    options += ["-DCMAKE_COMPILE_WARNING_AS_ERROR=ON"]
    tree = _build.tree(name, *options, source=ROOT / "integrations" / name)
    _build.compile_all(tree)
    return tree


def check(file: str, cpus: int, **environment: str | Path) -> None:
    """Runs the tests of `file` in a process of their own, with as many threads as it has `cpus`."""
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cpus:
        pytest.skip(f"needs {cpus} CPUs")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--noconftest",
        "-c",
        os.devnull,
    ]
    command += ["--rootdir", str(ROOT), str(HERE / file)]
    path = [str(ROOT), *(str(ROOT / "integrations" / name) for name in ("jax", "onnxruntime", "openvino"))]
    env = {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]), "BQQ_TEST_CPUS": str(cpus)}
    env.update({name: str(value) for name, value in environment.items()})
    done = subprocess.run(
        command, cwd=HERE, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
