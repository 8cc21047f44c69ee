"""Small ONNX graphs with bqq's operation, for the tests of engines that read them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def graph(nodes, tensors, x_shape, kind=TensorProto.FLOAT):
    ends = [helper.make_tensor_value_info("x", kind, x_shape), helper.make_tensor_value_info("out", kind, None)]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bqq", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def multiply(W, x_shape, name="W"):
    """The ONNX model x @ W.T."""
    node = helper.make_node("MatMul", ["x", name], ["out"], name="multiply")
    return graph([node], [numpy_helper.from_array(np.ascontiguousarray(W.T), name)], x_shape)
