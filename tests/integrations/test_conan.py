"""The recipe of integrations/conan makes a package, without a network, over which C and C++ programs build and run."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import _build
from _build import ROOT, run


@pytest.mark.slow
def test_conan(tmp_path: Path) -> None:
    conan, cmake = _build.tool("conan"), _build.cmake_command()
    if conan is None or cmake is None or shutil.which("c++") is None:
        pytest.skip("conan, cmake or a C++ compiler not found: pip install conan cmake")
    env = {
        "CONAN_HOME": str(tmp_path / "conan"),
        "CMAKE_PREFIX_PATH": _build.prefix_path().replace(";", os.pathsep),
        "PATH": os.pathsep.join([str(Path(cmake).parent), os.environ["PATH"]]),
    }
    run([conan, "profile", "detect"], tmp_path, env)
    options = ["--no-remote", "-s", "compiler.cppstd=17", "-c", f"tools.cmake.cmake_layout:test_folder={tmp_path}/test"]
    unoptimised = "{'CMAKE_CXX_FLAGS_RELEASE': '-O0'}"  # it compiles the core once more
    options += ["-c", f"tools.cmake.cmaketoolchain:extra_variables={unoptimised}"]
    command = [conan, "create", ROOT / "integrations" / "conan", *options]
    out = run(["sh", "-c", '"$@" 2>&1', "sh", *command], tmp_path, env)  # it reports on stderr
    for program in ("user_c", "user_cpp", "user_c_static", "user_cpp_static"):
        assert re.search(rf"RUN: \S*/{program}\nok$", out, re.M), out
