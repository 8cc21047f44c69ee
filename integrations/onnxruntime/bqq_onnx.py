"""Puts compressed matrices into ONNX graphs: nodes ``bqq.Linear`` for ONNX Runtime and OpenVINO.

    python -m bqq_onnx model.onnx weights.safetensors out.onnx

The weights are a file of bqq or a folder of such files, as ``bqq compress`` and ``bqq.nn.save`` write them. Matrices
are called as the initializers that they stand for, or as these without ".weight". Every MatMul and Gemm over one of
them becomes a Linear (and an Add, for a bias of Gemm), and the initializer goes. Other tensors of the file take the
place of the initializers that have their names: biases and norms that have been tuned. What else uses a weight (a Gemm
with alpha, an embedding that is tied to it) keeps it.

``Linear(x, weight)``, domain ``bqq``, version 1: x (..., n) of float32 or float16 -> x @ W.T, (..., m), the same type.
weight (uint8) are the bytes of a file of bqq with one matrix in it. Attributes: ``transposed`` 1: W is its transpose;
``precision``: "float32" or "fast".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

import bqq

__all__ = ["linear", "orientation", "replace"]

DOMAIN, VERSION = "bqq", 1
Array = npt.NDArray[np.float32]


def file_bytes(q: bqq.Matrix) -> npt.NDArray[np.uint8]:
    """A file of bqq with q alone in it."""
    with TemporaryDirectory() as folder:
        bqq.save(Path(folder) / "q", {"W": q})
        return np.fromfile(Path(folder) / "q", np.uint8)


def linear(
    q: bqq.Matrix, x: str, out: str, name: str, *, transposed: bool = False, precision: str = "float32"
) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    """The node out = Linear(x) of q or its transpose, and the initializer that it needs, called after `name`."""
    weight = numpy_helper.from_array(file_bytes(q), f"{name}.bqq")
    how = {"domain": DOMAIN, "transposed": int(transposed), "precision": precision}
    return helper.make_node("Linear", [x, weight.name], [out], name=name, **how), weight


def orientation(q: bqq.Matrix, W: Array, name: str) -> bool:
    """Whether q stands for the transpose of W, (m, n), rather than for W. ValueError if it stands for neither."""
    What, size, best = q.reconstruct(), np.linalg.norm(W), []
    for transposed, approximation in ((False, What), (True, What.T)):
        if approximation.shape == W.shape:
            best.append((float(np.linalg.norm(W - approximation)), transposed))
    if not best or (min(best)[0] >= size and size > 0):
        raise ValueError(f"{name}: a matrix of {q.shape[0]} x {q.shape[1]} that does not approximate this weight")
    return min(best)[1]


def named(
    weights: Mapping[str, bqq.Matrix | npt.NDArray[Any]], names: Iterable[str]
) -> tuple[dict[str, bqq.Matrix], dict[str, npt.NDArray[Any]]]:
    """Matrices by the names of the weights they stand for, which have ".weight" where theirs may lack it, and the
    arrays that are among `names`."""
    known = set(names)
    matrices: dict[str, bqq.Matrix] = {}
    for k, q in weights.items():
        if isinstance(q, bqq.Matrix):
            name = f"{k}.weight" if k not in known and f"{k}.weight" in known else k
            if name in matrices:
                raise ValueError(f"there are two matrices for {name}")
            matrices[name] = q
    others = known - set(matrices)  # models of transformers have a number in the place of a compressed weight
    return matrices, {k: a for k, a in weights.items() if k in others and not isinstance(a, bqq.Matrix)}


def as_before(old: npt.NDArray[Any], new: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """`new` in the type of `old`. A matrix may be turned, as layers of torch are in graphs: a square one is what is
    closer to `old`. ValueError: another shape, numbers that the type has not, a square matrix like neither way."""
    new = np.asarray(new)
    if new.dtype.kind not in "biufc":  # bfloat16 and its like
        new = new.astype(np.float32)
    ways = [a for a in ([new, new.T] if new.ndim == 2 else [new]) if a.shape == old.shape]
    if not ways:
        raise ValueError(f"{name} has the shape {new.shape}, in the model {old.shape}")
    if len(ways) == 2 and np.isfinite(old).all():
        errors = [float(np.linalg.norm(a.astype(np.float64) - old)) for a in ways]
        if min(errors) >= np.linalg.norm(old) > 0:
            raise ValueError(f"{name} does not resemble what the model has")
        ways = ways[:1] if errors[0] <= errors[1] else ways[1:]
    with np.errstate(over="ignore"):
        made = ways[0].astype(old.dtype)
    if not np.can_cast(new.dtype, old.dtype, "same_kind") or (np.isfinite(ways[0]) & ~np.isfinite(made)).any():
        raise ValueError(f"{name} is {new.dtype}, in the model {old.dtype}, which cannot hold it")
    return made


def read(path: Path) -> dict[str, bqq.Matrix | npt.NDArray[Any]]:
    """What is in a file of bqq, or in all those of a folder."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} has no file *.safetensors")
    found: dict[str, bqq.Matrix | npt.NDArray[Any]] = {}
    for file in files:
        for name, value in bqq.load(file).items():
            if name in found:
                raise ValueError(f"{name} is in more than one file of {path}")
            found[name] = value
    return found


def _weight(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> Array | None:
    """W of a node that computes x @ W.T with an initializer, or None."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.input[1] not in tensors:
        return None
    B = numpy_helper.to_array(tensors[node.input[1]])
    if B.ndim != 2:
        return None
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if given.get("transA", 0) or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        return None
    return np.asarray(B if given.get("transB", 0) else B.T, np.float32)


def replace(
    model: onnx.ModelProto, weights: Mapping[str, bqq.Matrix | npt.NDArray[Any]], *, precision: str = "float32"
) -> onnx.ModelProto:
    """A copy of `model` in which the matrices of `weights`, called as the initializers they stand for or as these
    without ".weight", are Linear nodes, and its arrays the initializers of the same names. Other arrays are ignored.

    A matrix may have the shape of the initializer or of its transpose (a torch layer's weight). ValueError: a matrix
    that no MatMul and no Gemm of the graph uses, one or an array of another shape, a matrix that is no approximation.
    """
    if precision not in ("float32", "fast"):
        raise ValueError(f"precision is {precision!r}, expected 'float32' or 'fast'")
    given, model = model, onnx.ModelProto()
    model.CopyFrom(given)
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    matrices, arrays = named(weights, tensors)
    for name, a in arrays.items():
        tensors[name].CopyFrom(numpy_helper.from_array(as_before(numpy_helper.to_array(tensors[name]), a, name), name))
    made: dict[str, tuple[onnx.NodeProto, onnx.TensorProto]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name = node.input[1] if len(node.input) > 1 else ""
        W = _weight(node, tensors) if name in matrices else None
        if W is None:
            nodes.append(node)
            continue
        transposed = orientation(matrices[name], W, name)
        bias = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
        out = f"{node.output[0]}.bqq" if bias else node.output[0]
        key = f"{name}^T" if transposed else name
        if key not in made:
            made[key] = linear(matrices[name], "", "", name, transposed=transposed, precision=precision)
        copy = onnx.NodeProto.FromString(made[key][0].SerializeToString())
        copy.input[0], copy.output[0], copy.name = node.input[0], out, node.name or out
        nodes.append(copy)
        if bias:
            nodes.append(helper.make_node("Add", [out, node.input[2]], [node.output[0]]))
    used = {key.removesuffix("^T") for key in made}
    if unknown := sorted(set(matrices) - used):
        raise ValueError(f"no MatMul or Gemm of the graph has a weight called {', '.join(unknown)}")
    _rebuild(graph, nodes, {t.name: t for _, t in made.values()}.values())
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    return model


def _names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What these nodes read, those of their inner graphs (If, Loop, Scan) among them."""
    found: set[str] = set()
    for node in nodes:
        found |= set(node.input)
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                found |= _names(inner.node) | {o.name for o in inner.output}
    return found


def _rebuild(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], tensors: Iterable[onnx.TensorProto]) -> None:
    """These nodes, these further initializers, and of the old ones those that are still used."""
    gone = {t.name for t in graph.initializer} - _names(nodes) - {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name not in gone]
    inputs = [i for i in graph.input if i.name not in gone]
    for field, values in ((graph.node, nodes), (graph.initializer, [*kept, *tensors]), (graph.input, inputs)):
        values = list(values)
        del field[:]
        field.extend(values)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bqq_onnx", description="Replace weights of an ONNX model by compressed ones."
    )
    parser.add_argument("model")
    parser.add_argument("weights", type=Path, help="a file of bqq or a folder of such files")
    parser.add_argument("out")
    parser.add_argument("--precision", default="float32", choices=("float32", "fast"))
    given = parser.parse_args(arguments)
    model = replace(onnx.load(given.model), read(given.weights), precision=given.precision)
    onnx.save(model, given.out)
    count = sum(node.domain == DOMAIN for node in model.graph.node)
    print(f"{given.out}: {count} products from bits", file=sys.stderr)


if __name__ == "__main__":
    main()
