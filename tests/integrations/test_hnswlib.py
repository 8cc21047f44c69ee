"""integrations/hnswlib with the headers of libhnswlib-dev, and with those of the newest release on PyPI."""

from __future__ import annotations

from pathlib import Path

import _programs
import pytest

pytestmark = _programs.pytestmark

NEWEST = "hnswlib==0.8.0"


def test_hnswlib_of_debian(tmp_path: Path) -> None:
    if not Path("/usr/include/hnswlib/hnswlib.h").is_file():
        pytest.skip("apt install libhnswlib-dev")
    _programs.passes(_programs.built("hnswlib", "-debian") / "test_space", tmp_path)


def test_newest_hnswlib(tmp_path: Path) -> None:
    headers = _programs.sources(NEWEST, "hnswlib/hnswlib.h")
    tree = _programs.built("hnswlib", "-newest", f"-DHNSWLIB_INCLUDE_DIR={headers}")
    _programs.passes(tree / "test_space", tmp_path)
