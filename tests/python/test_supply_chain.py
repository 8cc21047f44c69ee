"""What the package is made of: pinned, listed, and nothing in it that a linter of security objects to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from _build import ROOT


def test_build_requirements_are_pinned():
    requires = re.search(r"^requires = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert requires is not None
    words = re.findall(r'"([^"]+)"', requires[1])
    assert len(words) == 4
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", word) for word in words), words
    pins = (ROOT / "third_party" / "requirements.txt").read_text()
    for word in words:
        if word.split("==")[0] in ("cmeel-eigen", "nlohmann-json"):
            assert f"\n{word} --hash=sha256:" in "\n" + pins


def test_bill_of_materials(tmp_path):
    path = tmp_path / "bqq.cdx.json"
    subprocess.run([sys.executable, ROOT / "tools" / "sbom.py", "--out", path], check=True)
    bill = json.loads(path.read_text())
    parts = {part["name"]: part for part in bill["components"]}
    assert parts.keys() == {"numpy", "tqdm", "cmeel-eigen", "nlohmann-json", "pybind11", "scikit-build-core"}
    assert all(len(parts[name]["hashes"][0]["content"]) == 64 for name in ("cmeel-eigen", "nlohmann-json"))
    assert parts["pybind11"]["purl"] == f"pkg:pypi/pybind11@{parts['pybind11']['version']}"
    assert set(bill["dependencies"][0]["dependsOn"]) == parts.keys() - {"scikit-build-core"}
    if find_spec("cyclonedx") and find_spec("jsonschema"):
        schema, validation = (import_module(f"cyclonedx.{name}") for name in ("schema", "validation.json"))
        validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_5)
        assert validator.validate_str(path.read_text()) is None


def test_bandit():
    pytest.importorskip("bandit", reason="bandit not found (pip install bandit)")
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "python", "bench"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
