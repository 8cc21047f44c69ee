"""tools/release.py: what it refuses, and all that it makes."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from _build import ROOT

SCRIPT = ROOT / "tools" / "release.py"


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_are_the_first_section(release: ModuleType) -> None:
    text = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n- new\n- better\n\n## 0.1.0 (2026-11-01)\n\n- old\n"
    assert release.notes(text, "0.2.0") == "- new\n- better\n"
    for changed, says in (
        (text.replace("2026-12-01", "unreleased"), r"begins with '## 0.2.0 \(unreleased\)', expected '## 0.2.0 \(YYYY"),
        (text.replace("0.2.0", "0.3.0"), "begins with '## 0.3.0"),
        ("# Changelog\n\n## 0.2.0 (2026-12-01)\n\n## 0.1.0 (2026-11-01)\n", "says nothing of 0.2.0"),
        ("", "begins with"),
    ):
        with pytest.raises(release.Wrong, match=says):
            release.notes(changed, "0.2.0")


def test_the_tag_is_the_version(release: ModuleType, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tag", "v99.0.0", "--out", tmp_path / "out"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"no release: the tag is v99.0.0, but CMakeLists.txt says {release.version()}" in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("code", "said", "says"),
    [
        (0, "", ""),
        (4, "- ABI: bqq_view has grown at its end", ""),
        (4, "- faster", "has changed, but BQQ_ABI_VERSION is the same: raise it or"),
        (12, "- ABI: bqq_view is gone", "programs of the last release break"),
        (1, "", "abidiff failed"),
    ],
)
def test_the_binary_interface_is_kept(release: ModuleType, code: int, said: str, says: str) -> None:
    if not says:
        release.judge_abi(code, "the report", said)
        return
    with pytest.raises(release.Wrong, match=rf"(?s){says}.*the report"):
        release.judge_abi(code, "the report", said)


@pytest.mark.skipif(shutil.which("abidiff") is None, reason="abidiff not found: apt-get install abigail-tools")
def test_what_abidiffs_exit_codes_mean(release: ModuleType, tmp_path: Path) -> None:
    """Added, changed, gone: as judge_abi takes them."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    sources = {
        "old": "struct s { int a; long b; }; void bqq_f(struct s* p) { p->a = 1; }",
        "added": "struct s { int a; long b; }; void bqq_f(struct s* p) { p->a = 1; } void bqq_g(void) {}",
        "changed": "struct s { long b; int a; }; void bqq_f(struct s* p) { p->a = 1; }",
        "gone": "void bqq_g(void) {}",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.c").write_text(source)
        release.run("cc", "-g", "-shared", "-fPIC", f"{name}.c", "-o", f"{name}.so", cwd=tmp_path)

    def code(new: str) -> int:
        done = release.run("abidiff", "--no-added-syms", "old.so", f"{new}.so", cwd=tmp_path, check=False)
        return int(done.returncode)

    assert {new: code(new) for new in sources} == {"old": 0, "added": 0, "changed": 4, "gone": 12}


@pytest.mark.slow
def test_whole_release(tmp_path: Path) -> None:
    for module in ("build", "mkdocs", "mkdocstrings", *(["auditwheel"] if sys.platform == "linux" else [])):
        pytest.importorskip(module, reason="pip install '.[docs,release]'")
    if shutil.which("abidiff") is None:
        pytest.skip("abidiff not found: apt-get install abigail-tools")
    command = [sys.executable, SCRIPT, "--before", "HEAD", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"abi.txt", "docs.tar.gz", "SHA256SUMS"} <= names
    assert len([name for name in names if re.fullmatch(r"bqq-[0-9.]+(\.tar\.gz|-.*\.whl)", name)]) == 2
    assert "The binary interface is the same." in (tmp_path / "out" / "abi.txt").read_text()
    for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
