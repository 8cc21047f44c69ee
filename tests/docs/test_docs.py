"""The documentation: its code runs, it builds without a warning, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import _build
from _build import ROOT

PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))
RUNNER = Path(__file__).with_name("_run_page.py")
FENCE = re.compile(r"^```(\w*)(.*)$", re.M)


def needs_the_library(page: Path) -> bool:
    return "BQQ_PREFIX" in page.read_text("utf-8")


@pytest.fixture(scope="session")
def command_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bqq` as pip would install it, for trees that are on the path without that."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "bqq"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bqq "$@"\n')
    command.chmod(0o755)
    return folder


def install_command() -> str:
    """The one command that no test of the documentation runs: CI begins with it."""
    readme = (ROOT / "README.md").read_text("utf-8")
    return (
        "python3 -m venv .venv && .venv/bin/pip install '.[plot]' && .venv/bin/bqq demo" if "bqq demo" in readme else ""
    )


def test_pages_have_code_of_known_kinds() -> None:
    kinds = {kind for page in PAGES for kind, _ in FENCE.findall(page.read_text("utf-8")) if kind}
    assert {"python", "sh", "c", "cmake", "cpp"} <= kinds <= {"python", "sh", "c", "cmake", "cpp", "text"}


def test_the_first_command_is_the_readmes() -> None:
    command = install_command()
    assert command
    assert command in (ROOT / "README.md").read_text("utf-8")
    assert command in (ROOT / "docs" / "pages" / "start.md").read_text("utf-8")


@pytest.mark.parametrize("page", [p for p in PAGES if "```" in p.read_text("utf-8")], ids=lambda p: p.stem)
def test_code_of_a_page(page: Path, tmp_path: Path, command_folder: Path) -> None:
    if "import torch" in page.read_text("utf-8"):
        pytest.importorskip("torch")
    tools = [str(command_folder), sysconfig.get_path("scripts"), os.environ["PATH"]]
    env = {**os.environ, "PATH": os.pathsep.join(tools)}
    if needs_the_library(page):
        env["BQQ_PREFIX"] = str(_installed())
        if _build.generator():
            env["CMAKE_GENERATOR"] = "Ninja"
    command = [sys.executable, str(RUNNER), str(page), install_command()]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^{'\w+': \d", done.stdout, re.M), done.stdout


def _installed() -> Path:
    if _build.cmake_command() is None or not _build.compiler_macros():
        pytest.skip("cmake or a C++ compiler not found")
    return _build.installed()


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_site(builder: ModuleType, tmp_path: Path) -> None:
    """Built in a process of its own, strictly; then links that lead nowhere are planted and found."""
    site = tmp_path / "site"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(site)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    assert builder.dead_links(site) == []
    python = (site / "api" / "python.html").read_text()
    c = "".join((site / "api" / f"{page}.html").read_text() for page in ("c", "c_ann"))
    cpp = (site / "api" / "cpp.html").read_text()
    headers = {header.name for header in (ROOT / "cpp" / "include" / "bqq").glob("*.hpp")} - {"bqq.hpp"}
    assert set(re.findall(r"<h2[^>]*>bqq/([^<]+)<", cpp)) == headers
    assert not [path for path in site.rglob("*.html") if str(ROOT) in path.read_text("utf-8")]
    assert all(f'id="bqq.{name}"' in python for name in _public())
    for wing in ("ann", "nn"):
        page = (site / "api" / f"{wing}.html").read_text()
        named = re.findall(r'"(\w+)"', (ROOT / "python/bqq" / wing / "__init__.py").read_text().partition("__all__")[2])
        assert named
        assert all(f'id="bqq.{wing}.{name}"' in page for name in named)
    assert all(f">{name}" in c or f'id="{name}"' in c for name in _exported())
    index = site / "index.html"
    index.write_text(
        index.read_text().replace("</body>", '<a href="nothing.html">a</a><a href="bqq.html#nowhere">b</a></body>')
    )
    assert builder.dead_links(site) == ["index.html: nothing.html", "index.html: bqq.html#nowhere"]


def _public() -> list[str]:
    import bqq

    return [name for name in bqq.__all__ if name != "__version__"]


def _exported() -> list[str]:
    texts = [header.read_text() for header in (ROOT / "cpp" / "include" / "bqq").glob("*.h")]
    return [name for text in texts for name in re.findall(r"^BQQ_API [^;(]*?(bqq_\w+)\(", text, re.M)]
