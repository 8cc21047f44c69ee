"""Compressed matrices in OpenVINO models, of ONNX files and of IR.

    core = bqq_openvino.core()  # an openvino.Core that knows BqqLinear
    model = core.read_model("model.xml")
    bqq_openvino.replace(model, bqq.load("weights.safetensors"))
    openvino.save_model(model, "small.xml", compress_to_fp16=False)

From a shell: ``python -m bqq_openvino model.xml weights.safetensors small.xml``. The extension is
``libbqq_openvino.so`` beside this file, or where BQQ_OPENVINO_LIBRARY says; other programs load it by
``core.add_extension(path)``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from onnx import TensorProto, helper

import bqq
import bqq_onnx

__all__ = ["core", "replace"]


def core() -> openvino.Core:
    """An openvino.Core with the extension."""
    made = openvino.Core()
    made.add_extension(os.environ.get("BQQ_OPENVINO_LIBRARY") or str(Path(__file__).with_name("libbqq_openvino.so")))
    return made


_ENDS = (".xml", ".bin")  # of an IR
_FLOATS = ("f16", "f32", "f64")


def _constants(model: openvino.Model) -> dict[str, list[Any]]:
    """The constants of a model by their names, those of float16 in the file also by that of their conversion."""
    found: dict[str, list[Any]] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() == "Constant":
            found.setdefault(op.get_friendly_name(), []).append(op)
        elif op.get_type_name() == "Convert" and op.input_value(0).get_node().get_type_name() == "Constant":
            found.setdefault(op.get_friendly_name(), []).append(op.input_value(0).get_node())
    return found


def _values(constant: Any, name: str) -> Any:
    """The numbers of a constant of floats that NumPy has, else ValueError."""
    kind = constant.get_element_type().get_type_name()
    if kind not in _FLOATS:
        raise ValueError(f"{name} is {kind} in the model, expected one of {', '.join(_FLOATS)}")
    return constant.data


def _weight(node: Any, names: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Name, one of `names`, and value of the constant W of a node that computes x @ W.T, or None."""
    if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
        return None
    constant = node.input_value(1).get_node()
    called = [constant.get_friendly_name()]
    while constant.get_type_name() == "Convert":  # float16 in the file: the conversion has the name
        constant = constant.input_value(0).get_node()
        called.append(constant.get_friendly_name())
    name = next((c for c in called if c in names), None)
    if name is None or constant.get_type_name() != "Constant" or len(constant.get_output_shape(0)) != 2:
        return None
    x = node.input_value(0).get_element_type()
    if x.is_static() and not x.is_real():
        raise ValueError(f"{name} is multiplied with {x.get_type_name()}, expected floats")
    B = np.asarray(_values(constant, name), np.float32)
    return name, B if node.get_attributes()["transpose_b"] else B.T


def replace(
    model: openvino.Model, weights: Mapping[str, bqq.Matrix | npt.NDArray[Any]], *, precision: str = "float32"
) -> None:
    """Makes a BqqLinear of every MatMul of `model` over a constant that has the name of one of the matrices of
    `weights`, which may lack a ".weight", and gives constants the numbers of the arrays called as they are.

    A matrix may have the shape of the constant or of its transpose. ValueError: a matrix that no MatMul uses, one or an
    array of another shape or type, a matrix that is no approximation; `model` is then as it was.
    """
    if precision not in ("float32", "fast"):
        raise ValueError(f"precision is {precision!r}, expected 'float32' or 'fast'")
    constants = _constants(model)
    matrices, arrays = bqq_onnx.named(weights, constants)
    found = [(node, *weight) for node in model.get_ordered_ops() if (weight := _weight(node, matrices))]
    if unknown := sorted(set(matrices) - {name for _, name, _ in found}):
        raise ValueError(f"no MatMul of the model has a weight called {', '.join(unknown)}")
    reader, rewired = core(), []
    for node, name, W in found:
        made = _linear(reader, matrices[name], name, bqq_onnx.orientation(matrices[name], W, name), precision)
        made.input(0).replace_source_output(node.input_value(0))
        made.set_friendly_name(node.get_friendly_name())
        rewired.append((node, made))
    for name, a in arrays.items():
        if len(constants[name]) > 1:
            raise ValueError(f"the model has {len(constants[name])} constants called {name}")
        (old,) = constants[name]
        constant = openvino.op.Constant(bqq_onnx.as_before(_values(old, name), a, name))
        constant.set_friendly_name(old.get_friendly_name())
        rewired.append((old, constant))
    for old, new in rewired:  # nothing fails from here on
        names = old.output(0).get_tensor().get_names()
        for target in list(old.output(0).get_target_inputs()):
            target.replace_source_output(new.output(0))
        new.output(0).get_tensor().set_names(names)
    model.validate_nodes_and_infer_types()


def _linear(reader: openvino.Core, q: bqq.Matrix, name: str, transposed: bool, precision: str) -> Any:
    """A BqqLinear of a model of its own: only a front end makes operations of extensions."""
    node, weight = bqq_onnx.linear(q, "x", "out", name, transposed=transposed, precision=precision)
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ("x", "out")]
    graph = helper.make_graph([node], "linear", [ends[0]], [ends[1]], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(bqq_onnx.DOMAIN, bqq_onnx.VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    read = reader.read_model(model.SerializeToString())
    return next(op for op in read.get_ordered_ops() if op.get_type_name() == "BqqLinear")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bqq_openvino", description="Replace weights of a model by compressed ones.")
    parser.add_argument("model", help="an ONNX or IR model")
    parser.add_argument("weights", type=Path, help="a file of bqq or a folder of such files")
    parser.add_argument("out", help="the IR to write, NAME.xml")
    parser.add_argument("--precision", default="float32", choices=("float32", "fast"))
    given = parser.parse_args(arguments)
    if any(Path(given.model).with_suffix(end).resolve() == Path(given.out).with_suffix(end).resolve() for end in _ENDS):
        parser.error(f"{given.out} is what the model is read from, write to another file")
    model = core().read_model(given.model)
    replace(model, bqq_onnx.read(given.weights), precision=given.precision)
    openvino.save_model(model, given.out, compress_to_fp16=False)
    count = sum(op.get_type_name() == "BqqLinear" for op in model.get_ops())
    print(f"{given.out}: {count} products from bits", file=sys.stderr)


if __name__ == "__main__":
    main()
