"""C++ programs of integrations/, each a project of its own over the installed bqq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import _build
from _build import ROOT

pytestmark = pytest.mark.skipif(_build.cmake_command() is None or not _build.compiler_macros(), reason="no C++ tools")


def built(name: str, kind: str = "", *options: str) -> Path:
    """The folder in which integrations/NAME was built."""
    arguments = (f"-DCMAKE_PREFIX_PATH={_build.installed()}", *options)
    tree = _build.tree(name + kind, *arguments, source=ROOT / "integrations" / name)
    _build.compile_all(tree)
    return tree


def sources(release: str, file: str, **environment: str) -> Path:
    """The folder that holds `file` of the sdist that pip has of a release; it is kept. `environment`: of pip."""
    folder = _build.shared_tree() / release
    with _build.alone(folder):
        if not list(folder.glob(f"*/{file}")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            command += ["--no-build-isolation", "--dest", str(folder), release]
            env = {**os.environ, **environment}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            if done.returncode != 0:
                pytest.skip(f"pip has no sources of {release}: {done.stderr.strip().splitlines()[-1:]}")
            for archive in folder.glob("*.tar.gz"):
                _build.run([str(_build.cmake_command()), "-E", "tar", "xzf", archive], folder)
    return next(folder.glob(f"*/{file}")).parents[len(Path(file).parts) - 1]


def passes(program: Path, folder: Path) -> None:
    """Runs a test program in `folder`, on two threads."""
    assert _build.run([program], folder, {"OMP_NUM_THREADS": "2"}).strip() == "ok"
