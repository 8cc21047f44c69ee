"""integrations/faiss on the libfaiss-dev that is installed."""

from __future__ import annotations

from pathlib import Path

import _programs
import pytest

HEADERS = [Path(p) for p in ("/usr/include/faiss", "/usr/local/include/faiss")]

pytestmark = [
    _programs.pytestmark,
    pytest.mark.skipif(not any(p.is_dir() for p in HEADERS), reason="apt install libfaiss-dev"),
]


@pytest.mark.parametrize("program", ["test_index", "test_wrapped", "test_files"])
def test_faiss(program: str, tmp_path: Path) -> None:
    _programs.passes(_programs.built("faiss") / program, tmp_path)


def test_files_are_those_of_python(tmp_path: Path) -> None:
    ann = pytest.importorskip("bqq.ann")
    _programs.passes(_programs.built("faiss") / "test_files", tmp_path)
    index, named = ann.open(tmp_path / "index.bqq"), ann.open(tmp_path / "named.bqq")
    assert len(index) == 2000
    assert index.ids[:3].tolist() == [0, 1, 2]
    assert named.ids[:3].tolist() == [14000, 13997, 13994]
    assert (named.codes([13997]) == index.codes([1])).all()
