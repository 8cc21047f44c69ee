"""bqq compress of models: shards, dtypes, what is left alone, kills and resumption."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bqq
from test_cli import run, start

FAST = ("--bits", "2", "--steps", "30", "--refine", "20", "--patch", "32", "--quiet")


def weights(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_model(folder: Path, layers: int = 2, **config: Any) -> dict[str, Any]:
    """A folder of as many shards as layers, and what is in it."""
    folder.mkdir()
    every: dict[str, Any] = {}
    places: dict[str, str] = {}
    for i in range(layers):
        tensors: dict[str, Any] = {
            f"layers.{i}.q.weight": weights(10 * i, 64, 48),
            f"layers.{i}.half.weight": weights(10 * i + 1, 40, 64).astype(np.float16),
            f"layers.{i}.brain.weight": weights(10 * i + 2, 48, 64).astype(ml_dtypes.bfloat16),
            f"layers.{i}.q.bias": weights(10 * i + 3, 64),
            f"layers.{i}.norm.weight": weights(10 * i + 4, 64),
        }
        if i == 0:
            tensors["embed_tokens.weight"] = weights(100, 50, 64)
        file = f"model-{i + 1:05}-of-{layers:05}.safetensors"
        bqq.save(folder / file, tensors, metadata={"format": "pt", "made": "here"})
        places |= dict.fromkeys(tensors, file)
        every |= tensors
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))
    (folder / "tokenizer.json").write_text("{}")
    return every


def contents(folder: Path) -> dict[str, bytes]:
    """Files by name; of the report, all but the times."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    report = json.loads(found["bqq-report.json"])
    for tensor in report["tensors"]:
        tensor["seconds"] = 0
    found["bqq-report.json"] = json.dumps(report).encode()
    return found


def test_a_folder_of_shards(tmp_path: Path) -> None:
    every = write_model(tmp_path / "model")
    text = run("compress", "model", "small", *FAST, cwd=tmp_path)
    assert "6 tensors at" in text
    assert "an embedding or a head: name it with --only: embed_tokens.weight" in text
    assert not (tmp_path / "small.part").exists()
    small = tmp_path / "small"
    found: dict[str, Any] = {}
    for path in sorted(small.glob("*.safetensors")):
        file = bqq.load(path)
        assert file.metadata["made"] == "here"
        found |= file
    for name, W in every.items():
        if name.endswith((".q.weight", ".half.weight", ".brain.weight")):
            q = found[name.removesuffix(".weight")]
            assert q.error(np.asarray(W, np.float32)) < 0.6
            assert found[name].shape == (1,)
        else:
            assert np.array_equal(found[name], W)
    index = json.loads((small / "model.safetensors.index.json").read_text())
    assert "layers.1.q.bqq_y" in index["weight_map"]
    assert json.loads((small / "config.json").read_text())["quantization_config"] == {"quant_method": "bqq"}
    assert (small / "tokenizer.json").exists()
    report = json.loads((small / "bqq-report.json").read_text())
    total = sum(tensor["bytes"] for tensor in report["tensors"])
    assert total == sum(q.nbytes for q in found.values() if isinstance(q, bqq.Matrix))
    assert report["bits_per_weight"] == 8 * total / report["weights"]
    assert report["not_compressed"]["layers.0.norm.weight"] == "64, no weight of a linear layer"


def test_the_bits_are_those_of_decompose(tmp_path: Path) -> None:
    every = write_model(tmp_path / "model", 1)
    run("compress", "model/model-00001-of-00001.safetensors", "small", *FAST, "--seed", "3", cwd=tmp_path)
    q = bqq.decompose(every["layers.0.q.weight"], 2, patch=32, steps=30, refine=20, seed=3)
    file = bqq.load(tmp_path / "small" / "model-00001-of-00001.safetensors")
    assert np.array_equal(file["layers.0.q"].reconstruct(), q.reconstruct())


def test_fractional_bits(tmp_path: Path) -> None:
    write_model(tmp_path / "model", 1)
    run("compress", "model", "small", "--bits", "2.5", *FAST[2:6], "--quiet", cwd=tmp_path)
    assert 2.2 < json.loads((tmp_path / "small" / "bqq-report.json").read_text())["bits_per_weight"] <= 2.5
    assert "expected an integer" in run("compress", "a.npy", "o.safetensors", "--bits", "2.5", cwd=tmp_path, code=2)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("factors", ["", "one", "rows", "blocks"])
def test_eight_bit_floats_and_their_factors(tmp_path: Path, kind: str, factors: str) -> None:
    dtype = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}[kind]
    m, n = 160, 272
    W = weights(0, m, n).astype(dtype)
    true = W.astype(np.float32)
    tensors: dict[str, Any] = {"a.weight": W}
    if factors:
        shape = {"one": (1,), "rows": (m, 1), "blocks": (2, 3)}[factors]
        scale = np.exp(weights(1, *shape))
        tensors["a.weight_scale_inv"] = scale
        true = true * np.kron(scale, np.ones((128, 128), np.float32))[:m, :n] if factors == "blocks" else true * scale
    (tmp_path / "model").mkdir()
    bqq.save(tmp_path / "model" / "model.safetensors", tensors)
    run("compress", "model", "small", *FAST, cwd=tmp_path)
    file = bqq.load(tmp_path / "small" / "model.safetensors")
    assert set(file) == {"a", "a.weight"}
    q = bqq.decompose(true, 2, patch=32, steps=30, refine=20)
    assert np.array_equal(file["a"].reconstruct(), q.reconstruct())


def test_eight_bit_floats_are_those_of_ml_dtypes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    for name, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        found = np.asarray(bqq.RawTensor(name, (256,), codes))
        np.testing.assert_array_equal(found, codes.view(dtype).astype(np.float32))


def test_experts_and_transposed_layers(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    experts, attention = weights(0, 3, 64, 40), weights(1, 40, 120)
    tensors = {"mlp.experts.down_proj": experts, "h.0.attn.c_attn.weight": attention}
    bqq.save(tmp_path / "model" / "model.safetensors", tensors)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    run("compress", "model", "small", *FAST, cwd=tmp_path)
    file = bqq.load(tmp_path / "small" / "model.safetensors")
    for i in range(3):
        q = bqq.decompose(experts[i], 2, patch=32, steps=30, refine=20)
        assert np.array_equal(file[f"mlp.experts.down_proj.{i}"].reconstruct(), q.reconstruct())
    assert file["h.0.attn.c_attn"].shape == (120, 40)
    assert file["h.0.attn.c_attn"].error(attention.T) < 0.6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda m: (m / "model-00002-of-00002.safetensors").unlink(), "1 shard missing: model-00002"),
        (lambda m: os.truncate(m / "model-00002-of-00002.safetensors", 2000), "model-00002-of-00002.safetensors"),
        (lambda m: (m / "model.safetensors.index.json").write_text("[]"), "expected a JSON object"),
        (lambda m: (m / "config.json").write_text("{"), "config.json"),
        (
            lambda m: bqq.save(m / "model-00001-of-00002.safetensors", {"layers.1.q.weight": weights(0, 64, 48)}),
            "is in model-00001-of-00002.safetensors as well",
        ),
        (lambda m: shutil.copytree(m, m.parent / "small"), "small exists; --force replaces it"),
        (lambda m: (m.parent / "small.part").write_text("mine"), "small.part is in the way"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(tmp_path: Path, spoil: Any, says: str) -> None:
    write_model(tmp_path / "model")
    spoil(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    assert says in run("compress", "model", "small", "--bits", "2", "--steps", "1000000", cwd=tmp_path, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_tensor_is_named_and_the_gate_closes(tmp_path: Path) -> None:
    every = write_model(tmp_path / "model", 1)
    args = ("compress", "model", "small", *FAST)
    text = run(*args, "--limit", "0.001", cwd=tmp_path, code=2)
    assert "tensor 'layers.0.brain.weight': relative error" in text
    assert not (tmp_path / "small").exists()
    run(*args, cwd=tmp_path)
    every["layers.0.q.weight"][3, 4] = np.nan
    bqq.save(tmp_path / "model" / "model-00001-of-00001.safetensors", every)
    text = run(*args, "--force", cwd=tmp_path, code=2)
    assert "tensor 'layers.0.q.weight': W[3, 4] is nan" in text
    assert (tmp_path / "small").exists()


def kill_within(folder: Path, seconds: float) -> bool:
    """Whether the command was still at work."""
    process = start("compress", "model", "small", *FAST, cwd=folder)
    time.sleep(seconds)
    working = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return working


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_ten_kills_and_the_same_files(tmp_path: Path) -> None:
    write_model(tmp_path / "model", 6)
    since = time.perf_counter()
    run("compress", "model", "true", *FAST, cwd=tmp_path)
    whole = time.perf_counter() - since
    moments = random.Random(0)
    kills = 0
    while kills < 10:
        kills += kill_within(tmp_path, moments.uniform(0.3, 1.0) * whole)
        if (tmp_path / "small").exists():  # done: only whole outputs appear; anew
            assert contents(tmp_path / "small") == contents(tmp_path / "true")
            shutil.rmtree(tmp_path / "small")
            shutil.rmtree(tmp_path / "small.part", ignore_errors=True)
    run("compress", "model", "small", *FAST, cwd=tmp_path)
    assert contents(tmp_path / "small") == contents(tmp_path / "true")
    assert not (tmp_path / "small.part").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_finished_parts_are_verified(tmp_path: Path) -> None:
    write_model(tmp_path / "model", 3)
    run("compress", "model", "true", *FAST, cwd=tmp_path)
    work, process = tmp_path / "small.part", start("compress", "model", "small", *FAST, cwd=tmp_path)
    while len(list(work.glob("out/*.safetensors"))) < 1 or not list(work.glob("tensor-*.safetensors")):
        assert process.poll() is None, "it was done too soon"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for path in [*work.glob("tensor-*.safetensors"), *work.glob("out/*.safetensors")]:
        data = bytearray(path.read_bytes())
        data[-9] ^= 1
        path.write_bytes(data)
    text = run("compress", "model", "small", *FAST, "--bits", "3", cwd=tmp_path, code=2)
    assert "is of a run with other options" in text
    run("compress", "model", "small", *FAST, cwd=tmp_path)
    assert contents(tmp_path / "small") == contents(tmp_path / "true")


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_at_once(tmp_path: Path) -> None:
    write_model(tmp_path / "model", 1)
    slow = subprocess.Popen(
        [sys.executable, "-m", "bqq", "compress", "model", "small", "--bits", "2", "--steps", "10000000", "--quiet"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "small.part" / "out").exists():
        time.sleep(0.01)
    try:
        options = ("--bits", "2", "--steps", "10000000", "--quiet")
        text = run("compress", "model", "small", *options, cwd=tmp_path, code=2)
    finally:
        slow.kill()
        slow.wait()
    assert "is in use by another process" in text
