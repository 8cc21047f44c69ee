"""What the benchmarks of models compare with: levels, factors and errors of each method."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bench import model_tables  # noqa: E402
from bench.models import fashion, peers  # noqa: E402
from bench.models.double_binary import double_binary  # noqa: E402

from test_compress import batches, make  # noqa: E402

torch.set_num_threads(1)  # tests run side by side: threads of one would wait for those of another


@pytest.fixture
def W():
    return torch.randn(24, 64, generator=torch.Generator().manual_seed(0))


def share(W_hat, W):
    return float((W_hat - W).square().sum() / W.square().sum())


def test_uniform(W):
    errors = []
    for bits in (2, 3, 4):
        W_hat, used = peers.uniform(W, bits, 32)
        assert used == bits + (16 + bits) / 32
        assert all(len(row.unique()) <= 2**bits for row in W_hat.unflatten(1, (2, 32)).flatten(0, 1))
        errors.append(share(W_hat, W))
    assert 0.06 < errors[0] < 0.14  # 0.119 is the best of uniform levels for a Gaussian, groups are small
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    exact = torch.arange(64.0).remainder(4).repeat(3, 1) - 1
    assert torch.allclose(peers.uniform(exact, 2, 32)[0], exact, atol=1e-6)


def test_binary_coding(W):
    one, used = peers.binary(W, 1, 32)
    assert used == 1.5
    assert torch.allclose(
        one, (W.sign().unflatten(1, (2, 32)) * W.abs().unflatten(1, (2, 32)).mean(-1, True)).flatten(1)
    )
    greedy = peers.binary(W, 2, 32, rounds=0)[0]
    two, used = peers.binary(W, 2, 32)
    assert used == 3
    assert share(two, W) < share(greedy, W) < share(one, W)
    exact = 0.5 * W.sign() + 0.2 * W.roll(1, 0).sign()
    assert torch.allclose(peers.binary(exact, 2, 32)[0], exact, atol=1e-5)
    signs = 0.5 * W.sign()
    assert torch.allclose(peers.binary(signs, 3, 32)[0], signs, atol=1e-5)  # the other planes are the same


@pytest.mark.parametrize("how", [peers.uniform, peers.binary])
def test_groups_of_several_rows(W, how):
    found, used = how(W, 2, 32, 8)
    assert used == 2 + {peers.uniform: 18, peers.binary: 32}[how] / 256
    block = W[8:16, 32:].reshape(1, 256)
    assert torch.allclose(found[8:16, 32:], how(block, 2, 256)[0].reshape(8, 32), atol=1e-5)


def test_gptq_minds_the_inputs(W):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(500, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    X += 0.2 * torch.randn(500, 64, generator=generator)

    def wrong(W_hat):
        return float((X @ (W_hat - W).T).square().sum() / (X @ W.T).square().sum())

    W_hat, used = peers.gptq(W, 3, 32, X.T @ X)
    assert used == 3 + 19 / 32 + 16 / 24
    assert wrong(W_hat) < 0.6 * wrong(peers.uniform(W, 3, 32)[0])
    flat, _ = peers.gptq(W, 3, 32, torch.eye(64))
    assert torch.allclose(flat, peers.uniform(W, 3, 32)[0], atol=1e-5)


def test_a_whole_model():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32)).eval()
    data, before = [torch.randn(50, 64) for _ in range(4)], [p.clone() for p in net.parameters()]
    with torch.no_grad():
        y = net(data[0])
        used = peers.calibrated(net, ["0", "2"], data, 4, 32)
        assert used == pytest.approx(4 + 20 / 32 + (16 * 64 / 4096 * 4096 + 16 * 64 / 2048 * 2048) / (4096 + 2048))
        assert share(net(data[0]), y) < 0.02
    assert not torch.equal(net[0].weight, before[0])
    assert torch.equal(net[2].bias, before[3])
    assert peers.data_free(net, ["0"], peers.binary, 3, 64) == 3.75


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("propagate", [True, False])
def test_gptq_with_and_without_its_tricks(ordered, propagate):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 32)).eval()
    data = [torch.randn(100, 16) @ torch.randn(16, 64) for _ in range(4)]
    with torch.no_grad():
        y = net(data[0])
        used = peers.calibrated(net, ["0", "2"], data, 3, 32, ordered, propagate)
        wrong = share(net(data[0]), y)
    order = (16 * 64 + 16 * 64) / (64 * 64 + 64 * 32) if ordered else 0
    assert used == pytest.approx(3 + 19 / 32 + order)
    assert wrong < 0.1


def test_propagation_moves_to_what_the_float_model_sees():
    generator = torch.Generator().manual_seed(0)
    X, true, W = (torch.randn(*shape, generator=generator) for shape in ((500, 32), (500, 32), (8, 32)))
    X = true + 0.5 * X
    moved = peers.propagated(W, X.T @ X, (true - X).T @ X, damping=1e-9)
    best = torch.linalg.lstsq(X, true @ W.T).solution.T
    assert torch.allclose(moved, best, atol=1e-4)
    assert torch.equal(peers.propagated(W, X.T @ X, torch.zeros(32, 32)), W)


def test_padding_does_not_count():
    short = batches(3)
    padded = [
        {
            "ids": torch.cat([b["ids"], torch.full((4, 6), 7)], 1),
            "attention_mask": torch.cat([torch.ones(4, 20), torch.zeros(4, 6)], 1),
        }
        for b in short
    ]
    names = ["blocks.0.q", "blocks.0.down", "blocks.1.v"]
    a, b = make(), make()
    assert peers.calibrated(a, names, short, 3, 32) == peers.calibrated(b, names, padded, 3, 32)
    for name in names:
        difference = (a.get_submodule(name).weight - b.get_submodule(name).weight).detach()
        assert float(difference.square().mean()) < 1e-3  # the mask is float arithmetic in the attention


def test_the_vision_transformer_is_trained_and_kept(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"see python -m pydoc bench\.models\.fashion"):
        fashion.trained(data=tmp_path)
    (tmp_path / "fashion").mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 200), ("t10k", 100)):
        labels = rng.integers(0, 2, count)
        pixels = rng.integers(0, 100, (count, 28, 28)) + 100 * labels[:, None, None]  # dark and light
        for kind, begin, values in (("images-idx3", 16, pixels), ("labels-idx1", 8, labels)):
            with gzip.open(tmp_path / "fashion" / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(bytes(begin) + values.astype(np.uint8).tobytes())
    monkeypatch.setitem(fashion.SIZES, "small", replace(fashion.SIZES["small"], epochs=3))
    model = fashion.trained(data=tmp_path)
    assert "epoch 3  top-1" in capsys.readouterr().out
    *_, x, labels = fashion.images(tmp_path)
    assert x.shape == (100, 1, 28, 28)
    assert fashion.top1(model, x, labels) > 90
    again = fashion.trained(data=tmp_path)
    assert not again.training
    assert torch.equal(again(x), model(x))
    assert capsys.readouterr().out == ""


def test_picture(tmp_path):
    plot = pytest.importorskip("bench.plot_models", reason="pip install matplotlib")
    rows = [
        {"method": "bqq", "bits_per_weight": "3", "cosine": "0.75", "correct": "0"},
        {"method": "bqq", "bits_per_weight": "2", "cosine": "0.5", "correct": "0"},
        {"method": "bqq", "bits_per_weight": "2", "cosine": "0.6", "correct": "8"},
        {"method": "bqq", "bits_per_weight": "2", "cosine": "0.1", "correct": "0", "without": "calibration"},
        {"method": "bqq", "bits_per_weight": "2.01", "cosine": "0.4", "correct": "0", "without": "mixed"},
        {"method": "bqq", "bits_per_weight": "4", "cosine": "0.875", "correct": "0", "without": "mixed"},
        {"method": "bqq", "bits_per_weight": "2", "cosine": "0.7", "correct": "0", "seed": "1"},
        {"method": "gptq", "bits_per_weight": "2.5", "cosine": "0.25", "correct": ""},
    ]
    assert plot.points(rows, "cosine") == {"bqq": [(2, 0.5), (3, 0.25), (4, 0.125)], "GPTQ": [(2.5, 0.75)]}
    plot.draw(plot.RESULTS / "models", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(24, 64), (64, 24), (48, 48)])
def test_double_binary(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    m, n = shape
    errors = []
    for bits in (1, 2, 4):
        W_hat, used = double_binary(W, bits, rounds=60)
        k = int(bits * m * n / (m + n))
        assert used == pytest.approx((k * (m + n) + 16 * (m + n + k)) / (m * n))
        errors.append(share(W_hat, W))
    assert 0.2 < errors[0] < 0.4  # one sign a number of a Gaussian leaves 0.36, and here are scales
    assert errors[0] > 1.6 * errors[1] > 2.5 * errors[2]
    assert torch.equal(4 * double_binary(W, 1, rounds=20)[0], double_binary(4 * W, 1, rounds=20)[0])


def test_double_binary_minds_the_inputs(W):
    importance = torch.logspace(-2, 2, 64)
    flat, minding = double_binary(W, 1)[0], double_binary(W, 1, importance)[0]
    wrong = [float(((found - W).square() * importance).sum()) for found in (flat, minding)]
    assert wrong[1] < 0.7 * wrong[0]
    loud = W * torch.linspace(0.1, 3, 24)[:, None]
    assert share(double_binary(loud, 1)[0], loud) < 0.3  # rows have scales of their own


def test_importance_is_of_tokens():
    model, tokens = make(), batches(2)
    for batch in tokens:
        batch["attention_mask"] = torch.ones(4, 20)
        batch["attention_mask"][:, 13:] = 0
    seen = []
    model.blocks[0].q.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, :13]))
    found = peers.mean_squares(model, ["blocks.0.q", "blocks.1.down"], tokens)
    assert torch.allclose(found["blocks.0.q"], torch.cat(seen).flatten(0, 1).square().mean(0))
    assert found["blocks.1.down"].shape == model.blocks[1].down.weight.shape[1:]
    given = {}

    def how(W, importance):
        given[tuple(W.shape)] = importance
        return W / 2, 1.5

    before = model.blocks[0].q.weight.clone()
    assert peers.by_importance(model, ["blocks.0.q"], tokens, how) == 1.5
    assert torch.equal(model.blocks[0].q.weight, before / 2)
    assert torch.allclose(given[tuple(before.shape)], found["blocks.0.q"])


def test_types_of_ggml():
    pytest.importorskip("xllamacpp", reason="pip install xllamacpp gguf")
    W = torch.randn(8, 384, generator=torch.Generator().manual_seed(0))
    W_hat, used = peers.by_ggml("Q2_K")(W, torch.ones(384))
    assert used == 2.625
    assert 0.03 < share(W_hat, W) < 0.2


def test_convolutions_of_single_pixels_are_layers():
    torch.manual_seed(0)
    linear, image = torch.nn.Linear(40, 48), torch.randn(6, 40, 5, 5)
    convolution = torch.nn.Conv2d(40, 48, 1)
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[..., None, None])
        convolution.bias.copy_(linear.bias)
    as_linear, as_image = torch.nn.Sequential(linear), torch.nn.Sequential(convolution)
    used = [
        peers.calibrated(as_linear, ["0"], [image.movedim(1, -1)], 3, None),
        peers.calibrated(as_image, ["0"], [image], 3, None),
    ]
    assert used == pytest.approx([3 + 19 / 40 + 16 / 48] * 2)
    assert torch.allclose(as_image[0].weight[..., 0, 0], as_linear[0].weight, atol=1e-5)
    assert peers.data_free(as_image, ["0"], peers.uniform, 2, None) == 2 + 18 / 40
    with pytest.raises(ValueError, match=r"0 has a kernel of \(3, 3\), expected 1 x 1"):
        peers.calibrated(torch.nn.Sequential(torch.nn.Conv2d(40, 48, 3)), ["0"], [image], 3, None)


def test_tables():
    rows = [
        {"method": "bqq", "bits": "2", "bits_per_weight": "2.1", "cosine": "0.5", "seed": "0"},
        {"method": "bqq", "bits": "2", "bits_per_weight": "2.3", "cosine": "0.7", "seed": "1"},
        {"method": "bqq", "bits": "2", "bits_per_weight": "2.3", "cosine": "0.1", "without": "calibration"},
        {"method": "Q2_K", "bits": "", "bits_per_weight": "2.625", "cosine": "0.4"},
    ]
    found = model_tables.averaged(rows, ("bits_per_weight", "cosine"))
    assert [(row["method"], float(row["cosine"]), row["seeds"]) for row in found] == [
        ("bqq", pytest.approx(0.6), "2"),
        ("bqq", 0.1, "1"),
        ("Q2_K", 0.4, "1"),
    ]
    assert float(found[0]["bits_per_weight"]) == pytest.approx(2.2)
    summary = model_tables.summary()
    assert len(summary) == 6
    assert all("bits)" in cell for row in summary for cell in row[1:])
