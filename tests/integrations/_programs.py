"""C++ programs of integrations/, each a project of its own over the installed bqq."""

from __future__ import annotations

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


def passes(program: Path, folder: Path) -> None:
    """Runs a test program in `folder`, on two threads."""
    assert _build.run([program], folder, {"OMP_NUM_THREADS": "2"}).strip() == "ok"
