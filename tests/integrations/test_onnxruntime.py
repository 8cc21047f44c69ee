"""integrations/onnxruntime on the onnxruntime that is installed."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnx", reason="pip install onnx")

from _engines import check, plugin

from _build import ROOT, run


@pytest.mark.parametrize("cpus", [1, 2])
def test_onnxruntime(cpus):
    check("check_onnxruntime.py", cpus, BQQ_ONNXRUNTIME_LIBRARY=plugin("onnxruntime") / "libbqq_onnxruntime.so")


HOST = r"""
#include <cstring>
#include <cstdio>
#include "ort_table.hpp"
using namespace ort;

extern "C" Status* RegisterCustomOps(SessionOptions*, const ApiBase*);

static char said[500];
static Status* refuse(Code, const char* text) { std::strncpy(said, text, sizeof said - 1); return (Status*)said; }
static Status* nothing() { return nullptr; }
static Function table[300];
static const Function* old(std::uint32_t version) { return version <= 16 ? table : nullptr; }
static const Function* other(std::uint32_t) { return table; }

int main() {
    for (Function& f : table) f = (Function)nothing;
    table[kCreateStatus] = (Function)refuse;
    const ApiBase bases[2] = {{old, [] { return "1.16.3"; }}, {other, [] { return "9.9"; }}};
    for (const ApiBase& base : bases) std::puts(RegisterCustomOps(nullptr, &base) ? said : "accepted");
}
"""


def test_other_runtimes_are_refused(tmp_path):
    """A runtime that is too old, and one whose table is not the expected one."""
    library = plugin("onnxruntime") / "libbqq_onnxruntime.so"
    (tmp_path / "host.cpp").write_text(HOST)
    compiler = shutil.which("c++")
    assert compiler is not None
    command = [compiler, "-std=c++17", "host.cpp", "-I", ROOT / "integrations" / "onnxruntime", library, "-o", "host"]
    run([*command, f"-Wl,-rpath,{library.parent}"], tmp_path)
    assert run([tmp_path / "host"], tmp_path).splitlines() == [
        "bqq: ONNX Runtime 1.16.3, expected 1.17 or newer",
        "bqq: the interface of this ONNX Runtime is not the expected one",
    ]
