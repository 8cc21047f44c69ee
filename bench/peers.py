"""The products bqq is measured against, each built from a dense float32 matrix; those not installed are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import ggml

Floats = npt.NDArray[np.float32]
Job = Callable[[], object]
Maker = Callable[[Floats, Floats, int], Job]
"""(W of m x n, X of n x batch, threads) -> a function that computes their product once."""


def numpy_float32(W: Floats, X: Floats, threads: int) -> Job:
    out = np.empty((W.shape[0], X.shape[1]), np.float32)
    return lambda: np.matmul(W, X, out)


def _torch(W: Floats, X: Floats, threads: int) -> tuple[Any, Any, Any]:
    import torch

    torch.set_num_threads(threads)
    linear = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
    linear.weight = torch.nn.Parameter(torch.from_numpy(W), requires_grad=False)
    return torch, linear, torch.from_numpy(np.ascontiguousarray(X.T))


def torch_float32(W: Floats, X: Floats, threads: int) -> Job:
    _, linear, x = _torch(W, X, threads)
    return lambda: linear(x)


def torch_bfloat16(W: Floats, X: Floats, threads: int) -> Job:
    torch, linear, x = _torch(W, X, threads)
    linear, x = linear.to(torch.bfloat16), x.to(torch.bfloat16)
    return lambda: linear(x)


def torch_int8(W: Floats, X: Floats, threads: int) -> Job:
    torch, linear, x = _torch(W, X, threads)
    quantized = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), {torch.nn.Linear}, torch.qint8)
    return lambda: quantized(x)


def _onnxruntime(W: Floats, X: Floats, threads: int, bits: int) -> Job:
    """MatMulNBits with blocks of 32 and int8 arithmetic. Codes and scales are random: speed does not depend on them."""
    import onnx
    import onnxruntime

    (m, n), block = W.shape, 32
    rng = np.random.default_rng(0)
    blocks = -(-n // block)
    codes = rng.integers(0, 256, (m, blocks, block * bits // 8), dtype=np.uint8)
    scales = rng.random(m * blocks, dtype=np.float32)
    node = onnx.helper.make_node(
        "MatMulNBits",
        ["x", "codes", "scales"],
        ["y"],
        domain="com.microsoft",
        K=n,
        N=m,
        bits=bits,
        block_size=block,
        accuracy_level=4,
    )
    batch = X.shape[1]
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, n])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, m])],
        [onnx.numpy_helper.from_array(codes, "codes"), onnx.numpy_helper.from_array(scales, "scales")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ascontiguousarray(X.T)}
    return lambda: session.run(None, feed)


def onnxruntime_2bit(W: Floats, X: Floats, threads: int) -> Job:
    return _onnxruntime(W, X, threads, 2)


def onnxruntime_4bit(W: Floats, X: Floats, threads: int) -> Job:
    return _onnxruntime(W, X, threads, 4)


PEERS: dict[str, Maker] = {
    "numpy float32": numpy_float32,
    "torch float32": torch_float32,
    "torch bfloat16": torch_bfloat16,
    "torch int8": torch_int8,
    "onnxruntime 2-bit": onnxruntime_2bit,
    "onnxruntime 4-bit": onnxruntime_4bit,
    **{f"ggml {name}": ggml.maker(name) for name in ggml.TYPES},
}


def available(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Those of `names` that run here, and why each of the others does not."""
    usable, absent = [], {}
    W, X = np.ones((64, 256), np.float32), np.ones((256, 1), np.float32)
    for name in names:
        try:
            PEERS[name](W, X, 1)()
            usable.append(name)
        except Exception as error:
            absent[name] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return usable, absent
