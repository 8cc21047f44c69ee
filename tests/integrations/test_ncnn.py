"""integrations/ncnn over ncnn's own sources."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import _programs
import numpy as np
import pytest
from _matrices import calibrated, compressed

import _build
import bqq
from _build import ROOT

spec: Any = importlib.util.spec_from_file_location("bqq_ncnn", ROOT / "integrations" / "ncnn" / "bqq_ncnn.py")
bqq_ncnn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bqq_ncnn)

NCNN = "ncnn==1.0.20261020"
# The sdist calls itself by the day on which pip looks at it, and pip refuses it on all others.
CLOCK = """import time
strftime = time.strftime
time.strftime = lambda how, *when: "20261020" if how == "%Y%m%d" else strftime(how, *when)
"""
LAYERS = ("input", "relu", "packing", "cast", "flatten", "padding", "split")


@cache
def program(folder: Path) -> Path:
    """run_net. ncnn has the layers alone that nets below need."""
    if _build.cmake_command() is None or not _build.compiler_macros():
        pytest.skip("cmake or a C++ compiler not found")
    (folder / "sitecustomize.py").write_text(CLOCK, "utf-8")
    source = _programs.sources(NCNN, "src/layer.h", PYTHONPATH=str(folder))
    unused = {path.stem for path in (source / "src" / "layer").glob("*.cpp")} - set(LAYERS)
    off = ("VULKAN", "BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_BENCHMARK", "RUNTIME_CPU", "PIXEL", "INT8")
    options = [f"-DWITH_LAYER_{name}=OFF" for name in sorted(unused)] + [f"-DNCNN_{name}=OFF" for name in off]
    tree = _build.tree("ncnn-engine", *options, source=source)
    _build.run([str(_build.cmake_command()), "--build", tree, "--parallel"], tree)
    _build.run([str(_build.cmake_command()), "--install", tree, "--prefix", tree / "installed"], tree)
    prefixes = f"-DCMAKE_PREFIX_PATH={_build.installed()};{tree / 'installed'}"
    return _programs.built("ncnn", "", prefixes, "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON") / "run_net"


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clock")
    made = program(folder)

    def run(layers, x, threads=1, fails=False):
        """What the net makes of the blob x; with `fails`, what it says."""
        lines, data = zip(*layers, strict=True)
        text = [f"7767517\n{len(lines) + 1} {len(lines) + 1}", "Input in 0 1 x", *lines, ""]
        (folder / "net.param").write_text("\n".join(text))
        (folder / "net.bin").write_bytes(b"".join(data))
        command = [str(made), "net.param", "net.bin", str(threads), *map(str, x.shape)]
        done = subprocess.run(command, cwd=folder, input=x.tobytes(), capture_output=True, check=False)
        assert (done.returncode == 1) == fails, done.stderr
        return done.stderr.decode() if fails else np.frombuffer(done.stdout, np.float32)

    return run


def blob(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def close(found, q, x, bias=0.0, tolerance=1e-5):
    expected = (q @ x.reshape(-1, x.shape[-1]).T).T + bias
    assert np.linalg.norm(found.reshape(expected.shape) - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(40, 24), (300, 200), (1536, 384)], ids=str)
def test_products(net, shape, threads):
    q = compressed(*shape)[1]
    for x_shape in ((shape[1],), (7, shape[1]), (3, 5, shape[1]), (130, shape[1])):
        close(net([bqq_ncnn.layer(q, "fc", "x", "out")], blob(*x_shape), threads), q, blob(*x_shape))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_orders_outliers_and_bias(net, threads):
    _, q = calibrated(300, 200)
    for matrix in (q, q.T):
        x, bias = blob(9, matrix.shape[1]), blob(matrix.shape[0])
        close(net([bqq_ncnn.layer(matrix, "fc", "x", "out", bias=bias)], x, threads), matrix, x, bias)


@pytest.mark.slow
def test_layers_in_a_row_and_fast(net):
    (_, up), (_, down) = compressed(256, 64), compressed(64, 256)
    x, bias = blob(6, 64), blob(256)
    layers = [bqq_ncnn.layer(up, "up", "x", "u", bias=bias), ("ReLU relu 1 1 u r", b"")]
    found = net([*layers, bqq_ncnn.layer(down, "down", "r", "out")], x)
    close(found, down, np.maximum((up @ x.T).T + bias, 0))
    close(net([bqq_ncnn.layer(up, "up", "x", "out", precision="fast")], x), up, x, tolerance=0.03)


@pytest.mark.slow
def test_what_is_wrong_is_said(net):
    q = compressed(40, 24)[1]
    line, data = bqq_ncnn.layer(q, "fc", "x", "out")
    x = blob(24)
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    assert "bqq: bytes in memory: " in net([(line, bytes(damaged))], x, fails=True)
    assert "bqq: a matrix of 40 x 24, expected 41 x 24" in net([(line.replace("1=40", "1=41"), data)], x, fails=True)
    assert "rows of 25, expected rows of 24" in net([(line, data)], blob(25), fails=True)
    net([(line, data[: len(data) // 2])], x, fails=True)
    net([(line.replace("0=", "0=-"), data)], x, fails=True)


def test_layers_that_cannot_be():
    q = bqq.decompose(np.eye(8, dtype=np.float32), p=1, effort="fast")
    with pytest.raises(ValueError, match=r"the bias has the shape \(7,\), expected \(8,\)"):
        bqq_ncnn.layer(q, "fc", "x", "y", bias=np.zeros(7))
    with pytest.raises(ValueError, match="precision is 'half', expected 'float32' or 'fast'"):
        bqq_ncnn.layer(q, "fc", "x", "y", precision="half")
    with pytest.raises(ValueError, match="'a b' is no name of ncnn"):
        bqq_ncnn.layer(q, "fc", "a b", "y")


@pytest.mark.slow
def test_readme(net, tmp_path, monkeypatch):
    """Its code in Python runs as printed, and makes a net."""
    monkeypatch.chdir(tmp_path)
    readme = ROOT / "integrations" / "ncnn" / "README.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme.read_text("utf-8"), re.M | re.S)
    names = {"bqq_ncnn": bqq_ncnn}
    exec(block.replace("bqq, bqq_ncnn,", "bqq,"), names)
    line = Path("net.param").read_text().splitlines()[3]
    found = net([(line, Path("net.bin").read_bytes())], blob(2, 64))
    W = names["W"]
    assert np.linalg.norm(found.reshape(2, 96) - blob(2, 64) @ W.T) < 0.5 * np.linalg.norm(blob(2, 64) @ W.T)
