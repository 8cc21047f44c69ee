"""Plug-ins keep bqq to themselves: what they export, and all of them in one process."""

from __future__ import annotations

import shutil
import sys

import pytest
from _engines import check, plugin

import _build
from _build import ROOT, run

EXPORTED = {
    "jax": ["bqq_jax_prepare", "bqq_jax_product"],
    "onnxruntime": ["RegisterCustomOps"],
    "openvino": ["create_extensions"],
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF")


@pytest.mark.parametrize("name", EXPORTED)
def test_exports(name: str) -> None:
    pytest.importorskip(name, reason=f"pip install {name}")
    if shutil.which("nm") is None:
        pytest.skip("binutils not found")
    table = run(["nm", "-D", "--defined-only", plugin(name) / f"libbqq_{name}.so"], ROOT)
    assert sorted(line.split()[-1] for line in table.splitlines()) == EXPORTED[name]


def test_four_copies_in_one_process() -> None:
    for module in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason=f"pip install {module}")
    libraries = {f"BQQ_{n.upper()}_LIBRARY": plugin(n) / f"libbqq_{n}.so" for n in ("onnxruntime", "openvino")}
    shared = next(_build.installed().glob("lib/libbqq.so.*.*"))
    check("check_together.py", 1, BQQ_SHARED_LIBRARY=shared, **libraries)
