"""Models in shards: there and back, whole layers, and nothing of old and new parts, wherever saving ends."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import bqq  # noqa: E402
import bqq.nn  # noqa: E402
from test_compress import Model, make  # noqa: E402

IDS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="module")
def model():
    made = make()
    bqq.nn.compress(made, 3, progress=False, patch=32, effort="fast")
    return made


def output(folder):
    with torch.no_grad():
        return bqq.nn.load(Model(), folder).eval()(IDS)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def shard_names(number):
    return [f"model-{i + 1:05}-of-{number:05}.safetensors" for i in range(number)]


def test_there_and_back(model, tmp_path):
    bqq.nn.save(model, tmp_path / "one", max_shard_size="5GB")
    assert names(tmp_path / "one") == ["model.safetensors"]
    bqq.nn.save(model, tmp_path / "more", max_shard_size="12KB")
    index = json.loads((tmp_path / "more" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 3
    assert names(tmp_path / "more") == [*shard_names(len(shards)), "model.safetensors.index.json"]
    assert torch.equal(output(tmp_path / "more"), model(IDS))
    assert torch.equal(output(tmp_path / "one"), model(IDS))
    whole, total = bqq.open(tmp_path / "one" / "model.safetensors"), 0
    for shard in shards:
        with bqq.open(tmp_path / "more" / shard) as file:
            for name, item in file.items():
                total += item.nbytes
                assert type(item) is type(whole[name])
                if isinstance(item, bqq.Matrix):
                    assert f"{name}.weight" in file
                    assert {index["weight_map"][f"{name}.bqq_{part}"] for part in ("y", "z", "scales")} == {shard}
            assert sum(item.nbytes for item in file.values()) <= 12000 or len(file) <= 2
    assert total == index["metadata"]["total_size"] == sum(item.nbytes for item in whole.values())


def test_a_layer_larger_than_a_shard(model, tmp_path):
    bqq.nn.save(model, tmp_path, max_shard_size=1)
    assert torch.equal(output(tmp_path), model(IDS))


def other(model):
    """The same names, other values."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for p in changed.parameters():
            p.mul_(1.5)
    return changed


@pytest.mark.parametrize(("before", "after"), [("12KB", "12KB"), ("12KB", "20KB"), (None, "12KB"), ("12KB", None)])
def test_wherever_saving_ends(model, tmp_path, monkeypatch, before, after):
    new = other(model)
    expected = [model(IDS), new(IDS)]
    ends, finished = set(), False
    for most in range(200):
        folder = tmp_path / str(most)
        bqq.nn.save(model, folder, max_shard_size=before)
        with monkeypatch.context() as patch:
            done = []
            for operation in ("replace", "unlink", "write_text"):
                patch.setattr(Path, operation, ending(getattr(Path, operation), done, most))
            try:
                bqq.nn.save(new, folder, max_shard_size=after)
                finished = True
            except KeyboardInterrupt:
                pass
        try:
            found = output(folder)
            ends.add([torch.equal(found, y) for y in expected].index(True))
        except (OSError, ValueError):
            ends.add("nothing")
        if finished:
            assert torch.equal(found, expected[1])
            bqq.nn.save(new, tmp_path / "fresh", max_shard_size=after)
            assert names(folder) == names(tmp_path / "fresh")  # nothing old, no parts
            break
    assert finished
    assert ends >= {0, 1}
    bqq.nn.save(new, tmp_path / "0", max_shard_size=after)  # what a crash has left is cleared
    assert names(tmp_path / "0") == names(tmp_path / "fresh")


def ending(operation, done, most):
    """An operation on files after which no other comes when `most` have been done."""

    def run(path, *args, **kwargs):
        if len(done) >= most:
            raise KeyboardInterrupt
        done.append(path)
        return operation(path, *args, **kwargs)

    return run


@pytest.mark.parametrize("size", ["5 apples", "", "0GB", 0, -1, True, 2.5, "GB"])
def test_sizes_that_are_none(model, tmp_path, size):
    with pytest.raises(ValueError, match="max_shard_size is"):
        bqq.nn.save(model, tmp_path / "x", max_shard_size=size)
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("ignore")
def test_from_pretrained(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 60}
    net = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, **sizes))
    bqq.nn.compress(net.eval(), 3, patch=32, exclude="lm_head", progress=False, effort="fast")
    with torch.no_grad():
        expected = net(input_ids=IDS).logits
        bqq.nn.save(net, tmp_path / "a", max_shard_size="20KB")
        assert len(list((tmp_path / "a").glob("model-*.safetensors"))) > 2
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "a")
        assert torch.equal(loaded(input_ids=IDS).logits, expected)
        net.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    with pytest.raises(bqq.FormatError, match=r"bqq\.nn\.save\(model, folder, max_shard_size=\.\.\.\) does not"):
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / "b")
