"""One randomised fault of each kind (tests/faults/README.md); many: python tests/faults/faults.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from _build import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux")


def run(*arguments: str) -> str:
    command = [sys.executable, ROOT / "tests" / "faults" / "faults.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_of_each_kind() -> None:
    assert "runs lost nothing" in run("--runs", "1")


@pytest.mark.slow
def test_two_hundred() -> None:
    assert "runs lost nothing" in run("--runs", "208", "--seed", "1000")


@pytest.mark.slow
def test_soak() -> None:
    command = [sys.executable, ROOT / "tests" / "faults" / "soak.py", "--minutes", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
