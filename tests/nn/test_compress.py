"""compress, save and load on small models; what they leave alone, and why."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

import bqq  # noqa: E402
import bqq.nn  # noqa: E402

WIDTH = 64


class Block(nn.Module):
    """A transformer's block in small: attention without softmax's companions, and a feed-forward part."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden_states, attention_mask=None):
        x = self.norm1(hidden_states)
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / WIDTH**0.5
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask.bool()[:, None], -1e9)
        x = hidden_states + self.o(scores.softmax(-1) @ self.v(x))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self, blocks=2, tied=False):
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 50, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids, attention_mask=None):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, attention_mask=attention_mask)
        return self.head(x)


def make(**options):
    torch.manual_seed(0)
    model = Model(**options).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:  # correlated weights of a few directions, and an outlier
                p += 0.2 * torch.randn(p.shape[0], 4) @ torch.randn(4, p.shape[1])
        model.blocks[0].up.weight[3, 5] = 20
    return model


def batches(count=24, length=20):
    generator = torch.Generator().manual_seed(1)
    return [{"ids": torch.randint(0, 50, (4, length), generator=generator)} for _ in range(count)]


def error(model, float_model):
    test = torch.randint(0, 50, (32, 20), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        y = float_model(test)
        return float((model(test) - y).square().mean() / y.square().mean())


def compressed(bits=2, model=None, **options):
    float_model = make() if model is None else model
    model = copy.deepcopy(float_model)
    report = bqq.nn.compress(model, bits, progress=False, patch=32, **options)
    return model, float_model, report


def test_data_free():
    with pytest.warns(UserWarning, match="2 bits without calibration"):
        model, float_model, report = compressed()
    assert report.model is model
    names = {layer.name for layer in report.layers}
    assert names == {f"blocks.{i}.{part}" for i in (0, 1) for part in ("q", "k", "v", "o", "up", "down")} | {"head"}
    assert isinstance(model.blocks[0].q, bqq.nn.Linear)
    assert report.skipped["embed"] == "an embedding: name it in include"
    assert report.skipped["blocks.0.norm1"] == "LayerNorm is no layer that is compressed"
    total = sum(layer.matrix.nbytes * 8 for layer in model.modules() if isinstance(layer, bqq.nn.Linear))
    weights = sum(np.prod(layer.shape) for layer in report.layers)
    assert report.bits_per_weight == pytest.approx(total / weights)
    for bits in (4, 6):
        assert error(compressed(bits)[0], float_model) < error(model, float_model)


def test_calibrated_is_closer():
    with pytest.warns(UserWarning, match="without calibration"):
        free = error(*compressed()[:2])
    model, float_model, report = compressed(calibration=batches())
    assert error(model, float_model) < 0.5 * free
    assert len(report.blocks) == 2
    assert all(block["after"] <= block["before"] for block in report.blocks)
    assert any(m.entry_values.numel() for m in model.modules() if isinstance(m, bqq.nn.Linear))
    assert model.blocks[1].up.matrix.col_order is not None
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith("scales"))


@pytest.mark.parametrize("without", ["propagate", "order", "outliers", "tune"])
def test_each_part_can_be_switched_off(without):
    off = {"outliers": None}.get(without, False)
    model, float_model, report = compressed(calibration=batches(6), **{without: off})
    assert error(model, float_model) < 0.5
    if without == "tune":
        assert report.blocks == []
    if without == "order":
        assert model.blocks[0].q.matrix.col_order is None
    if without == "outliers":
        assert not any(m.entry_values.numel() for m in model.modules() if isinstance(m, bqq.nn.Linear))


def test_correction_brings_the_outputs_closer():
    data = batches(24)
    for batch in data:  # padding does not count
        batch["attention_mask"] = torch.cat([torch.ones(4, 15), torch.zeros(4, 5)], 1)
    found = {}
    for epochs in (False, 10):
        model, float_model, report = compressed(calibration=data, tune=10, correct=epochs)
        found[epochs] = error(model, float_model)
    assert found[10] < 0.93 * found[False]  # on other inputs
    assert report.correction["after"] < 0.8 * report.correction["before"]
    with torch.no_grad():
        wrong, mask = 0.0, data[0]["attention_mask"].bool()
        every = torch.cat([float_model(**batch)[mask] for batch in data])
        for batch in data:
            wrong += float((model(**batch) - float_model(**batch))[mask].square().sum())
    variance = every.var(0, unbiased=False).mean()
    assert report.correction["after"] == pytest.approx(wrong / every.numel() / float(variance), rel=1e-3)
    assert "correction: error of the outputs" in repr(report)
    assert json.loads(report.to_json())["correction"] == report.correction
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, p in float_model.named_parameters() if not name.endswith("weight") or "norm" in name
    } | {"embed.weight"}


def test_correction_of_convolutions():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 32, 3)  # too small to be compressed: its bias alone is trained
    net = nn.Sequential(first, nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.Flatten()).eval()
    images = [torch.randn(16, 3, 12, 12) for _ in range(4)]
    model = copy.deepcopy(net)
    report = bqq.nn.compress(model, 1, calibration=images, progress=False, correct=5, patch=32)
    with torch.no_grad():
        y = torch.cat([net(x) for x in images])
        wrong = torch.cat([model(x) for x in images]) - y
    assert report.correction["after"] < report.correction["before"]
    assert report.correction["after"] == pytest.approx(
        float(wrong.square().mean() / y.var(0, unbiased=False).mean()), rel=1e-3
    )
    assert torch.equal(model[0].weight, net[0].weight)


def test_what_does_not_help_is_put_back(monkeypatch):
    monkeypatch.setattr("bqq.nn._tune._RATE", 10.0)
    model, _, report = compressed(calibration=batches(4), tune=False, correct=2)
    monkeypatch.undo()
    plain, *_ = compressed(calibration=batches(4), tune=False)
    assert report.correction["after"] == report.correction["before"]
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_the_same_again_and_another_seed():
    first, second, other = (compressed(calibration=batches(4), seed=s)[0].state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_padding_does_not_count():
    plain, padded = batches(4), []
    for batch in plain:
        mask = torch.cat([torch.ones(4, 20), torch.zeros(4, 7)], 1)
        ids = torch.cat([batch["ids"], torch.full((4, 7), 3)], 1)
        padded.append({"ids": ids, "attention_mask": mask})
    for batch in plain:
        batch["attention_mask"] = torch.ones(4, 20)
    a, b = (compressed(calibration=data, tune=False)[0] for data in (plain, padded))
    x = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(a(x), b(x), rtol=0.05, atol=0.05)


def test_fractional_bits():
    model, _, report = compressed(2.5, include=["blocks.0.*"], calibration=batches(4), outliers=None, order=False)
    assert 2.3 < report.bits_per_weight <= 2.5
    assert report.skipped["blocks.1.q"] == "not included"
    assert isinstance(model.blocks[1].q, nn.Linear)


def test_what_is_left_alone():
    model = nn.Sequential(
        OrderedDict(
            grouped=nn.Conv2d(64, 64, 3, groups=2),
            reflected=nn.Conv2d(64, 64, 3, padding_mode="reflect", padding=1),
            conv=nn.Conv2d(64, 64, 3, padding=1),
            small=nn.Linear(64, 8),
            kept=nn.Linear(64, 64),
            bilinear=nn.Bilinear(4, 4, 4),
        )
    )
    report = bqq.nn.compress(model, 4, exclude="kept", progress=False, patch=64)
    assert [layer.name for layer in report.layers] == ["conv"]
    assert report.skipped == {
        "grouped": "a convolution of 2 groups",
        "reflected": "padding of this kind",
        "small": "8 x 64 is too small to gain",
        "kept": "excluded",
        "bilinear": "Bilinear is no layer that is compressed",
    }
    assert "not compressed: kept: excluded" in repr(report)
    content = json.loads(report.to_json())
    assert content["layers"][0]["name"] == "conv"
    with pytest.raises(ValueError, match="model has no layer to compress"):
        bqq.nn.compress(model, 4, exclude=["kept"], progress=False)


@pytest.mark.parametrize("calibrated", [False, True])
def test_embeddings(tmp_path, calibrated):
    model = make()
    ids = torch.randint(0, 50, (3, 20))
    table = model.embed.weight.detach().clone()
    report = bqq.nn.compress(
        model, 4, include="embed", progress=False, patch=32, calibration=batches(2) if calibrated else None
    )
    assert [(layer.name, layer.note) for layer in report.layers] == [("embed", "")]
    assert float((model.embed(ids) - table[ids]).square().mean() / table.square().mean()) < 0.02
    bqq.nn.save(model, tmp_path)
    assert torch.equal(bqq.nn.load(Model(), tmp_path).eval()(ids), model(ids))


def test_conv1d_of_gpt2():
    class Conv1D(nn.Module):  # as transformers has it, which need not be there
        def __init__(self, nf, nx):
            super().__init__()
            self.nf, self.nx = nf, nx
            self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

        def forward(self, x):
            return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)

    net = nn.Sequential(Conv1D(64, 96), nn.Tanh(), Conv1D(32, 64)).eval()
    model, x = copy.deepcopy(net), torch.randn(2, 5, 96)
    report = bqq.nn.compress(model, 6, progress=False, patch=32, calibration=[torch.randn(200, 96)])
    assert {type(layer) for layer in model} == {bqq.nn.Conv1D, nn.Tanh}
    assert report.layers[0].shape == (64, 96)
    with torch.no_grad():
        assert float((model(x) - net(x)).square().mean() / net(x).square().mean()) < 0.03


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_encoder_of_torch(tmp_path):
    """Its fused path, which inference takes, would read weights that are no longer there."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True), 2).eval()
    model, data = copy.deepcopy(net), [torch.randn(4, 10, WIDTH) for _ in range(6)]
    report = bqq.nn.compress(model, 4, calibration=data, progress=False, patch=32, tune=5)
    assert sorted(layer.name for layer in report.layers) == [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]
    bqq.nn.save(model, tmp_path)
    again = bqq.nn.load(copy.deepcopy(net), tmp_path).eval()
    with torch.no_grad():
        for mask in (None, torch.arange(10).repeat(4, 1) > 7):
            y = net(data[0], src_key_padding_mask=mask)[:, :7]
            found = model(data[0], src_key_padding_mask=mask)[:, :7]
            assert float((found - y).square().mean() / y.square().mean()) < 0.01
            assert torch.equal(again(data[0], src_key_padding_mask=mask)[:, :7], found)


def test_tied_weights_are_left_alone():
    model = make(tied=True)
    with pytest.raises(ValueError, match="its weight is shared with embed"):
        bqq.nn.compress(model, 4, include="head", progress=False)
    assert model.head.weight is model.embed.weight


def test_convolutions_are_calibrated():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU()).eval()
    images = [torch.randn(4, 16, 10, 10) for _ in range(6)]
    closer = []
    for calibration in (None, images):
        model = copy.deepcopy(net)
        bqq.nn.compress(model, 3, calibration=calibration, progress=False, patch=32)
        x = torch.randn(8, 16, 10, 10, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            closer.append(float((model(x) - net(x)).square().mean() / net(x).square().mean()))
    assert closer[1] < closer[0] < 0.2


def test_a_layer_without_inputs_is_named():
    class Unused(Model):
        def __init__(self):
            super().__init__(1)
            self.blocks = nn.ModuleList([Block()])
            self.unused = nn.Linear(WIDTH, WIDTH)

    model = Unused().eval()
    report = bqq.nn.compress(model, 3, calibration=batches(2), progress=False, patch=32)
    notes = {layer.name: layer.note for layer in report.layers}
    assert notes["unused"] == "saw no inputs: without calibration"
    assert "80 tokens" not in notes["head"]


def test_weights_and_inputs_that_are_not_finite():
    model = make()
    with torch.no_grad():
        model.blocks[1].v.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"blocks.1.v.weight has 1 entries that are not finite"):
        bqq.nn.compress(model, 4, progress=False)
    model = make()
    with torch.no_grad():
        model.embed.weight[7] = float("inf")
    with pytest.raises(ValueError, match=r"blocks.0.q: its inputs on the calibration data are not finite"):
        bqq.nn.compress(model, 4, calibration=batches(4), progress=False)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"bits": 0.2}, ValueError, "bits is 0.2"),
        ({"bits": "2"}, TypeError, "bits is '2'"),
        ({"effort": "huge"}, ValueError, "effort is 'huge'"),
        ({"tune": -1}, ValueError, "tune is -1"),
        ({"correct": True}, ValueError, "correct is True, expected False without calibration"),
        ({"correct": 1.5, "calibration": batches(1)}, ValueError, "correct is 1.5"),
        ({"correct": -2, "calibration": batches(1)}, ValueError, "correct is -2"),
        ({"calibration": []}, ValueError, "calibration has no batches"),
        ({"include": [3]}, TypeError, r"include is \[3\]"),
    ],
)
def test_bad_arguments(options, error, text):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=text):
        bqq.nn.compress(model, **{"bits": 4, **options}, progress=False)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_modes_come_back():
    model = make().train()
    model.blocks[1].eval()
    bqq.nn.compress(model, 4, include="blocks.*", progress=False, patch=32)
    assert model.training
    assert model.blocks[0].q.training
    assert not model.blocks[1].q.training


# --- files ---


def test_save_and_load(tmp_path):
    model, _, _ = compressed(3, calibration=batches(4))
    x = torch.randint(0, 50, (3, 20))
    y = model(x)
    bqq.nn.save(model, tmp_path / "a" / "b")
    fresh = Model()
    assert bqq.nn.load(fresh, tmp_path / "a" / "b") is fresh
    assert torch.equal(fresh.eval()(x), y)
    with bqq.open(tmp_path / "a" / "b" / "model.safetensors") as file:
        assert file["blocks.0.q"].bits_per_weight == model.blocks[0].q.bits_per_weight
    with torch.device("meta"):
        meta = Model()
    assert torch.equal(bqq.nn.load(meta, tmp_path / "a" / "b").eval()(x), y)


def test_bfloat16_parts(tmp_path):
    model, _, _ = compressed(3, calibration=batches(2), tune=False)
    model.bfloat16()
    bqq.nn.save(model, tmp_path)
    fresh = bqq.nn.load(Model(), tmp_path).eval()
    assert fresh.embed.weight.dtype == torch.bfloat16
    x = torch.randint(0, 50, (3, 20))
    assert torch.equal(fresh(x), model(x))


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="model has no compressed layer"):
        bqq.nn.save(Model(), tmp_path)
    model, _, _ = compressed(3, calibration=batches(2), tune=False)
    bqq.nn.save(model, tmp_path)
    other = Model(blocks=1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"model has no module 'blocks\.1\.down'"):
        bqq.nn.load(other, tmp_path)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    larger = Model(blocks=3)
    with pytest.raises(ValueError, match=r"tensor 'blocks.2.*' is in only one of model and file"):
        bqq.nn.load(larger, tmp_path)
    assert isinstance(larger.blocks[0].q, nn.Linear)
    with pytest.raises(ValueError, match="compressed already"):
        bqq.nn.load(model, tmp_path)
    bqq.save(tmp_path / "model.safetensors", {"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"was not written by bqq\.nn\.save or bqq compress"):
        bqq.nn.load(Model(), tmp_path)


# --- fused experts ---


class ToyExperts(nn.Module):
    """As transformers has them: one parameter for all, used one by one."""

    def __init__(self, number=3):
        super().__init__()
        self.up = nn.Parameter(torch.randn(number, 48, WIDTH) / 8)
        self.down = nn.Parameter(torch.randn(number, WIDTH, 48) / 8)

    def forward(self, x, choice):
        y = torch.zeros_like(x)
        for i in choice.unique():
            rows = choice == i
            h = torch.relu(nn.functional.linear(x[rows], self.up[i]))
            y[rows] = nn.functional.linear(h, self.down[i])
        return y


class Routed(nn.Module):
    def __init__(self, unused=False):
        super().__init__()
        self.blocks = nn.ModuleList(Mixed(unused) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Mixed(nn.Module):
    def __init__(self, unused):
        super().__init__()
        self.proj, self.experts, self.last = nn.Linear(WIDTH, WIDTH), ToyExperts(), 2 if unused else 3

    def forward(self, hidden_states):
        x = self.proj(hidden_states)
        choice = torch.arange(x[..., 0].numel()) % self.last
        return hidden_states + self.experts(x.reshape(-1, WIDTH), choice).reshape(x.shape)


@pytest.mark.parametrize("calibrated", [False, True])
def test_fused_experts(tmp_path, calibrated):
    torch.manual_seed(0)
    net = Routed().eval()
    model, x = copy.deepcopy(net), torch.randn(4, 10, WIDTH)
    data = [torch.randn(8, 10, WIDTH) for _ in range(4)] if calibrated else None
    report = bqq.nn.compress(model, 4, calibration=data, patch=32, tune=10, progress=False)
    assert {layer.name for layer in report.layers} == {
        f"blocks.{b}.{part}"
        for b in (0, 1)
        for part in ("proj", *(f"experts.{w}.{i}" for w in ("up", "down") for i in range(3)))
    }
    assert not any(p.dim() == 3 and p.shape[0] == 3 and p.shape[1] in (48, WIDTH) for p in model.parameters())
    assert not [layer.name for layer in report.layers if layer.note.startswith("saw no")]
    with torch.no_grad():
        y = model(x)
        assert float((y - net(x)).square().mean() / (net(x) - x).square().mean()) < 0.05
    dense = model.blocks[0].experts.up[1].dense()
    assert torch.equal(dense, torch.from_numpy(model.blocks[0].experts.up.layer(1).matrix.reconstruct()))
    bqq.nn.save(model, tmp_path)
    assert torch.equal(bqq.nn.load(Routed(), tmp_path).eval()(x), y)


def test_an_expert_without_tokens_is_named():
    torch.manual_seed(0)
    model = Routed(unused=True).eval()
    data = [torch.randn(8, 10, WIDTH) for _ in range(2)]
    report = bqq.nn.compress(model, 4, calibration=data, patch=32, tune=False, progress=False)
    notes = {layer.name: layer.note for layer in report.layers}
    assert notes["blocks.0.experts.up.2"] == "saw no inputs: without calibration"
    assert notes["blocks.0.experts.up.1"] == ""
