"""Arrays on a CUDA device: what happens where there is none, and all of it on the emulated module."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import _build
import bqq
from _build import ROOT
from conftest import dense, finish, random_matrix, start_python


class OnDevice:
    """What claims to be four floats on a device."""

    shape = (4,)
    dtype = np.dtype(np.float32)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("nobody should ask")


class WithInterface(OnDevice):
    __cuda_array_interface__ = {  # noqa: RUF012
        "version": 3,
        "shape": (4,),
        "typestr": "<f4",
        "data": (4096, False),
        "strides": None,
        "stream": None,
    }


def check_no_device(reason: str) -> None:
    """Without a GPU: RuntimeError that says why, and everything on the host works."""
    q = random_matrix(5, 4)
    for x in (OnDevice(), WithInterface()):
        for call in (
            lambda x=x: q @ x,
            lambda x=x: bqq.matmul(x, q.T),
            lambda x=x: bqq.decompose(x, 1),
            lambda x=x: bqq.extend(q, x, 2),
            lambda x=x: q.error(x),
        ):
            with pytest.raises(RuntimeError, match=rf"[XW] is on a CUDA device, but .*{reason}"):
                call()
    with pytest.raises(RuntimeError, match=rf"device is 'cuda', but .*{reason}"):
        q.to("cuda")
    assert q.to("cpu") is q
    assert q.device == "cpu"
    np.testing.assert_allclose(q @ np.ones(4), dense(q).sum(1), atol=1e-4)
    assert bqq.decompose(np.eye(6), 1, steps=20, refine=False).device == "cpu"


def cuda() -> str:
    config = bqq.show_config("dict")
    assert config is not None
    return config["cuda"]


def test_without_a_gpu() -> None:
    """The installed module: built by nvcc it imports without a driver, built without it has no GPU part."""
    said = cuda()
    if said == "not built":
        check_no_device("built without CUDA")
    elif "no device" in said:
        assert re.match(r"built with \d+\.\d+, no device: .", said)
        check_no_device("there is no CUDA device: .")
    else:
        pytest.skip(f"there is a GPU: {said}")


def test_the_bench_ends_well_without_a_gpu() -> None:
    if "cuda:0" in cuda():
        pytest.skip(f"there is a GPU: {cuda()}")
    out = _build.run([sys.executable, "-m", "bench.cuda"], ROOT)
    assert "nothing measured: bqq finds no CUDA device" in out


@pytest.mark.parametrize("function", [bqq.plan, bqq.error_bound])
def test_functions_of_the_host_alone_say_so(function: Any) -> None:
    for x in (OnDevice(), WithInterface()):
        with pytest.raises(ValueError, match=r"W is on .*expected a host array"):
            function(x, 1)
        with pytest.raises(ValueError, match=r"weight is on .*expected a host array"):
            bqq.decompose(np.eye(4), 1, weight=x)


def build_module(built: Path, folder: Path) -> Path:
    """A folder to import the bqq of a build tree from."""
    if not _build.python_module():
        pytest.skip("pybind11 or Python's headers not found (pip install 'bqq[test]')")
    _build.compile_all(built, "_core")
    shutil.copytree(ROOT / "python" / "bqq", folder / "bqq", ignore=shutil.ignore_patterns("__pycache__", "_core*.so"))
    for module in (built / "python").glob("_core.*"):
        shutil.copy(module, folder / "bqq")
    return folder


@pytest.fixture(scope="session")
def emulated_module(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which the module runs on the emulated device."""
    if not _build.emulation():
        pytest.skip("the emulation of CUDA needs g++ on Linux and CUDA headers: pip install 'bqq[test]' or the toolkit")
    return build_module(tree, tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def module_by_nvcc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which the module is the real one."""
    nvcc = _build.nvcc_command()
    if nvcc is None:
        pytest.skip("no nvcc: install the CUDA toolkit, or pip install 'bqq[nvcc]'")
    return build_module(_build.nvcc_tree(nvcc), tmp_path_factory.mktemp("nvcc"))


@pytest.mark.parametrize("tests", ["device_arrays.py", "device_streams.py"])
def test_on_the_emulated_device(emulated_module: Path, tests: str) -> None:
    """The tests of tests/cuda/python, in a process of their own."""
    folder = ROOT / "tests" / "cuda" / "python"
    path = os.pathsep.join(map(str, (emulated_module, ROOT / "tests" / "python", folder)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "fake_arrays", str(folder / tests)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* passed in", done.stdout, re.M), done.stdout


@pytest.mark.parametrize("devices", [0, 1])
def test_what_a_module_with_cuda_says(emulated_module: Path, devices: int) -> None:
    said = "no device: ." if devices == 0 else r"cuda:0 \(compute capability \d\.\d, \d+ multiprocessors\)"
    code = f"""
import re, test_cuda_arrays as t
assert re.match(r"built with \\d+\\.\\d+, {said}", t.cuda()), t.cuda()
if {devices} == 0:
    t.check_no_device("there is no CUDA device: .")
"""
    path = f"{emulated_module}:{ROOT / 'tests' / 'python'}"
    finish(start_python(code, CUEMU_DEVICES=str(devices), PYTHONPATH=path))


def check_module_by_nvcc(site: Path) -> None:
    """Without a driver it imports and computes. Where there is a GPU, it only imports: device_arrays.py is for the
    emulation."""
    code = f"""
import bqq, test_cuda_arrays as t
assert bqq.__file__.startswith({str(site)!r}), bqq.__file__
said = t.cuda()
assert said.startswith("built with "), said
if "no device" in said:
    t.check_no_device("there is no CUDA device: .")
"""
    finish(start_python(code, PYTHONPATH=f"{site}:{ROOT / 'tests' / 'python'}"))
    (module,) = (site / "bqq").glob("_core.*.so")
    assert "libcuda" not in _build.run(["ldd", module], site)


def test_a_module_by_nvcc_imports_without_a_driver(module_by_nvcc: Path) -> None:
    check_module_by_nvcc(module_by_nvcc)


@pytest.mark.slow
def test_pip_with_an_nvcc_of_pip(tmp_path: Path) -> None:
    """No toolkit: wheels bring the compiler, for every GPU that a package is built for."""
    nvcc = _build.nvcc_of_a_wheel()
    if nvcc is None or sys.platform != "linux":
        pytest.skip("no nvcc in a wheel: pip install 'bqq[nvcc]'")
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip")
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--no-deps", "--target", str(tmp_path)]
    done = subprocess.run(
        [*command, "-Ccmake.define.BQQ_CUDA=ON", str(ROOT)],
        env={**os.environ, "CUDACXX": nvcc},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where pip tells what CMake says
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(rf"CUDA: {re.escape(nvcc)} \S+ for 80-real;90-real;100-real;100-virtual", done.stdout), done.stdout
    check_module_by_nvcc(tmp_path)
