"""integrations/hnswlib with the headers of libhnswlib-dev, and with those of the newest release on PyPI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import _programs
import pytest

import _build

pytestmark = _programs.pytestmark

NEWEST = "hnswlib==0.8.0"


def released() -> Path:
    """The folder with the headers of NEWEST, whose sdist is kept."""
    folder = _build.shared_tree() / NEWEST
    with _build.alone(folder):
        if not list(folder.glob("*/hnswlib/hnswlib.h")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            command += ["--no-build-isolation", "--dest", str(folder), NEWEST]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"pip has no sources of {NEWEST}: {done.stderr.strip().splitlines()[-1:]}")
            for archive in folder.glob("*.tar.gz"):
                _build.run([str(_build.cmake_command()), "-E", "tar", "xzf", archive], folder)
    return next(folder.glob("*/hnswlib/hnswlib.h")).parents[1]


def test_hnswlib_of_debian(tmp_path: Path) -> None:
    if not Path("/usr/include/hnswlib/hnswlib.h").is_file():
        pytest.skip("apt install libhnswlib-dev")
    _programs.passes(_programs.built("hnswlib", "-debian") / "test_space", tmp_path)


def test_newest_hnswlib(tmp_path: Path) -> None:
    tree = _programs.built("hnswlib", "-newest", f"-DHNSWLIB_INCLUDE_DIR={released()}")
    _programs.passes(tree / "test_space", tmp_path)
