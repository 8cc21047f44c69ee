"""Run by test_together.py in a process of its own: four copies of bqq beside each other, all at work."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

import bqq
import bqq_onnx
import bqq_openvino


def mapped(word):
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if word in line}


def test_four_copies():
    # Before the plug-ins and for all to see, as a program that links it has it: they must not take its functions.
    lib = ctypes.CDLL(os.environ["BQQ_SHARED_LIBRARY"], ctypes.RTLD_GLOBAL)
    W = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    q = bqq.decompose(W, p=2, steps=50, refine=1)
    x = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    expected = (q @ x.T).T

    node, weight = bqq_onnx.linear(q, "x", "out", "W")
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (8, 200))]
    ends.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, (8, 300)))
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bqq", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(os.environ["BQQ_ONNXRUNTIME_LIBRARY"])
    core = bqq_openvino.core()
    for y in (
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0],
        core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0],
        (q @ x.T).T,
    ):
        assert np.linalg.norm(y - expected) <= 1e-5 * np.linalg.norm(expected)
    lib.bqq_version.restype = ctypes.c_char_p
    assert lib.bqq_version().decode() == bqq.__version__
    copies = [mapped(word) for word in ("libbqq.so", "libbqq_onnxruntime", "libbqq_openvino", "bqq/_core")]
    assert [len(paths) for paths in copies] == [1, 1, 1, 1]
