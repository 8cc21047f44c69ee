"""One budget of bits over the layers of a model: what depends more on a layer gives it more stacks."""

from __future__ import annotations

import copy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

import bqq  # noqa: E402
import bqq.nn  # noqa: E402
from bqq.nn._guide import dependence  # noqa: E402
from bqq.nn._mix import Trial, inner, mix  # noqa: E402

WIDTH = 64
RECIPE = SimpleNamespace(seed=0, mixed=True)


class Block(nn.Module):
    """Gated, with a way around it: `up` and `gate` are heard through `down` alone, and `skip` on its own."""

    def __init__(self, loud):
        super().__init__()
        self.up, self.gate = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.skip, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.loud = loud

    def forward(self, x):
        x = x + 0.1 * self.skip(x)
        return x + self.loud * self.down(torch.tanh(self.gate(x)) * self.up(x))


def make():
    torch.manual_seed(0)
    return nn.Sequential(*(Block(loud) for loud in (0.1, 1.0, 0.1))).eval()


def batches(count=8, size=100):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, WIDTH, generator=generator) for _ in range(count)]


def compressed(bits=3, **options):
    model = make()
    report = bqq.nn.compress(
        model, bits, calibration=batches(), progress=False, patch=32, order=False, outliers=None, **options
    )
    return model, report


def error(model):
    x = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        y = make()(x)
        return float((model(x) - y).square().mean() / y.square().mean())


def trial(shape, taken=1.0, p=3):
    return Trial(torch.zeros(0), torch.zeros(0), p, taken, shape, False)


def test_the_budget_goes_where_it_matters():
    model, report = compressed(tune=False)
    plain, same = compressed(tune=False, mixed=False)
    assert {m.matrix.p for m in plain.modules() if isinstance(m, bqq.nn.Linear)} == {3}
    assert report.bits_per_weight == pytest.approx(same.bits_per_weight, rel=0.01)
    stacks = {name: m.matrix.p for name, m in model.named_modules() if isinstance(m, bqq.nn.Linear)}
    assert stacks["1.down"] > stacks["0.down"]
    assert stacks["1.gate"] >= stacks["0.gate"]
    assert error(model) < 0.8 * error(plain)


def test_a_fractional_budget_is_kept():
    for bits in (2.5, 3.3):
        _, report = compressed(bits, tune=False)
        assert 0.97 * bits < report.bits_per_weight <= bits


def test_errors_are_evened_out():
    """With errors that fall by .38 a stack, a layer that matters as much as 1/.38 others has one stack more."""
    trials = {name: trial((100, 100)) for name in "abcdef"}
    moved = {"a": 1 / 0.38, "b": 1.01, "c": 1.0, "d": 0.99, "e": 0.38, "f": 1.0}
    assert mix(3.0, trials, moved) == {"a": 4, "b": 3, "c": 3, "d": 3, "e": 2, "f": 3}
    assert mix(3.0, trials, dict.fromkeys(trials, 1.0)) == {}  # even
    far = mix(3.0, trials, {**moved, "a": 1e9, "e": 0.0})
    assert (far["a"], far["e"]) == (5, 2)  # two stacks more, one less at most
    assert sum(far.values()) == 18


def test_small_and_large_layers():
    trials = {"small": trial((10, 10), 1.1, p=2), "large": trial((100, 30), 1.02, p=2)}
    assert mix(2.0, trials, {"small": 1.0, "large": 1.0}) == {}  # what the large one lost, the small one would not gain
    found = mix(2.0, trials, {"small": 9.0, "large": 1.0})
    assert found["small"] > 2
    used = 100 * 1.1 * found["small"] + 3000 * found["large"]  # a fraction counts with its scales
    assert found["large"] != int(found["large"])
    assert used == pytest.approx(2 * (100 * 1.1 + 3000 * 1.02), rel=1e-6)


def test_without_a_budget_for_one_stack_nothing_is_said():
    assert mix(0.8, {"a": trial((64, 64), 1.1)}, {"a": 1.0}) == {}
    assert mix(2.0, {"a": trial((64, 64))}, {"a": 0.0}) == {}
    _, report = compressed(0.9, tune=False)
    assert report.bits_per_weight <= 0.9


def test_inner_layers():
    block = make()[0]
    x = batches()[0]
    layers = dict(block.named_children())
    assert inner(layers, lambda: block(x)) == {"up", "gate"}
    assert inner({"down": block.down}, lambda: block(x)) == set()

    def in_place():
        y = block.down(torch.tanh(block.up(x)))
        y += block.skip(x)
        return y

    assert inner(layers, in_place) == {"up"}
    assert not any(m._forward_hooks for m in block.modules())


def row(*layers):
    torch.manual_seed(2)
    return nn.Sequential(*layers).eval()


class Within(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = row(nn.Linear(48, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 40))
        self.heads = nn.ModuleList(nn.Linear(40, 32) for _ in range(7))  # side by side: no blocks

    def forward(self, x):
        x = self.body(x)
        return sum(head(x) for head in self.heads)


@pytest.mark.parametrize("model", ["row", "within", "embedded"])
def test_layers_in_a_row(model, tmp_path):
    """Members of a Sequential that are layers themselves are blocks: none is left out, errors are passed on."""
    if model == "within":
        net, data, names = Within().eval(), [x[:, :48] for x in batches()], [f"body.{i}" for i in (0, 2, 4)]
        names += [f"heads.{i}" for i in range(7)]
    elif model == "row":
        net = row(nn.Linear(WIDTH, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 48))
        data, names = batches(), ["0", "2", "4"]
    else:
        net = row(nn.Embedding(40, WIDTH), nn.Linear(WIDTH, 96), nn.Tanh(), nn.Linear(96, 48))
        data = [torch.randint(0, 40, (20, 6), generator=torch.Generator().manual_seed(i)) for i in range(8)]
        names = ["1", "3"]
    found = {}
    options = {"calibration": data, "progress": False, "patch": 32}
    for propagate in (False, True):
        copied = copy.deepcopy(net)
        report = bqq.nn.compress(
            copied, 2, propagate=propagate, tune=propagate, resume=tmp_path / f"{propagate}", **options
        )
        assert sorted(layer.name for layer in report.layers) == sorted(names)
        with torch.no_grad():
            found[propagate] = sum(float((copied(x) - net(x)).square().sum() / net(x).square().sum()) for x in data)
    assert found[True] < 0.9 * found[False]
    again = copy.deepcopy(net)
    bqq.nn.compress(again, 2, resume=tmp_path / "True", **options)
    assert torch.equal(again(data[0]), copied(data[0]))


@pytest.mark.parametrize("kind", ["tokens", "sequences", "convolution"])
def test_movement_is_that_of_the_output(kind):
    """Summed over random directions, the square of the movement along them is that of the movement itself."""
    torch.manual_seed(3)
    if kind == "convolution":
        model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(128, 5))
        data = [torch.randn(40, 6, 8, 8) for _ in range(12)]
    else:
        model = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 20))
        data = [torch.randn(*((60,) if kind == "tokens" else (60, 7)), 24) for _ in range(12)]
    W = model[0].weight.detach().flatten(1)
    off = 1e-3 * torch.randn(W.shape) + 1e-3  # a part that all tokens share
    whole = Trial(torch.arange(len(W)), off, 2, 1.0, tuple(W.shape), False)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[0].weight += off.view_as(changed[0].weight)
        true = sum(float((changed(x) - model(x)).square().sum()) for x in data)
    layers = {"0": model[0]}
    _, moved = dependence(model, data, [None] * len(data), layers, {"0": whole}, RECIPE)
    assert moved["0"] / 2 == pytest.approx(true, rel=0.25)  # of two draws a batch
    half = Trial(torch.arange(0, len(W), 2), off[::2], 2, 1.0, tuple(W.shape), True)
    _, less = dependence(model, data, [None] * len(data), layers, {"0": half}, RECIPE)
    assert less["0"] / 0.65 == pytest.approx(moved["0"], rel=0.6)


def test_bits_are_kept(tmp_path, monkeypatch):
    whole, _ = compressed(tune=False)
    compressed(tune=False, resume=tmp_path)
    for path in tmp_path.glob("block-*"):
        path.unlink()
    monkeypatch.setattr("bqq.nn._recipe.Recipe.trial", None)
    again, _ = compressed(tune=False, resume=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_without_guide():
    model, _ = compressed(tune=False, guide=False)
    assert len(Counter(m.matrix.p for m in model.modules() if isinstance(m, bqq.nn.Linear))) > 1


def test_weights_that_move_nothing():
    model = make()
    with torch.no_grad():
        model[2].down.weight.zero_()
        model[2].down.bias.zero_()
    report = bqq.nn.compress(model, 3, calibration=batches(), progress=False, patch=32, tune=False)
    bits = {layer.name: layer.bits_per_weight for layer in report.layers}
    assert bits["2.down"] == min(bits.values()) < 2.6
    assert all(np.isfinite(layer.error) for layer in report.layers)


class Gate(nn.Module):
    """To one of two layers, by a router that is not compressed: what `mix` is off by changes who gets what."""

    def __init__(self):
        super().__init__()
        self.o, self.router = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))

    def forward(self, x):
        x = x + self.o(x)
        choice, y = self.router(x).argmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y[choice == i] = expert(x[choice == i])
        return x + y


class Twice(nn.Module):
    """A layer of two calls, of unlike shapes."""

    def __init__(self):
        super().__init__()
        self.p, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        few = x[:, ::2]
        return x + self.v((self.p(x) @ self.p(few).transpose(1, 2)).softmax(-1) @ few)


class Squares(nn.Module):
    def forward(self, x):
        return x.square().mean()


class Pair(NamedTuple):
    hidden: torch.Tensor
    rest: str


class Named(nn.Module):
    """Gives a named tuple, which the model reads by name."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return Pair(x + torch.tanh(self.up(x)), "")


class OfNamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Named() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).hidden
        return x


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


class Pooled(nn.Module):
    """A gate that sees one vector."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.sigmoid(self.gate(x.mean(0))) * self.up(x)


def mlp(act=nn.Tanh):
    return [module for _ in range(3) for module in (nn.Linear(WIDTH, WIDTH), act())]


ODD = {
    "experts": lambda: [Gate(), Gate()],
    "two calls": lambda: [Twice(), Twice()],
    "vectors": mlp,
    "a vector inside": lambda: [Pooled(), Pooled()],
    "named tuples": lambda: [OfNamed()],
    "argmax": lambda: [*mlp(), Argmax()],
    "a number": lambda: [*mlp(), Squares()],
    "embedded later": lambda: [nn.Identity(), nn.Embedding(40, WIDTH), *mlp()],
    "in place": lambda: [nn.SiLU(inplace=True), *mlp()],
    "one activation": lambda: [nn.Linear(WIDTH, WIDTH), act := nn.Tanh(), nn.Linear(WIDTH, WIDTH), act],
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_models(kind):
    """Everything is compressed, the mean of the bits is kept, nothing is left behind."""
    torch.manual_seed(0)
    net = nn.Sequential(*ODD[kind]()).eval()
    shape = {"two calls": (8, 6, WIDTH), "vectors": (WIDTH,)}.get(kind, (20, WIDTH))
    data = [torch.randn(shape) for _ in range(40 if kind == "vectors" else 6)]
    if kind == "embedded later":
        data = [torch.randint(0, 40, (20, 6)) for _ in range(6)]
    targets = [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and m.out_features > 2]
    model = copy.deepcopy(net)
    with ThreadPoolExecutor(2) as executor:
        report = bqq.nn.compress(
            model, 2, calibration=data, patch=32, tune=5, progress=False, order=False, outliers=None, executor=executor
        )
    assert sorted(layer.name for layer in report.layers) == sorted(targets)
    plain = {"patch": 32, "mixed": False, "tune": False, "progress": False, "order": False, "outliers": None}
    even = bqq.nn.compress(copy.deepcopy(net), 2, calibration=data, **plain)
    assert report.bits_per_weight <= 1.01 * even.bits_per_weight
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    for name, p in model.named_parameters():
        assert p.grad is None
        assert p.requires_grad != name.endswith("scales")


def test_budgets_of_many_rows():
    """The size of a stack is that of the whole layer, not that of the rows of its trial."""
    torch.manual_seed(0)
    sides = [(WIDTH, 257), (257, 32), (32, 300), (300, 32)]
    net = nn.Sequential(*(module for n, m in sides for module in (nn.Linear(n, m), nn.Tanh()))).eval()
    options = {"calibration": batches(4), "tune": False, "progress": False, "order": False, "outliers": None}
    for bits in (2.5, 3):
        report = bqq.nn.compress(copy.deepcopy(net), bits, effort="fast", patch=64, **options)
        even = bqq.nn.compress(copy.deepcopy(net), bits, effort="fast", patch=64, mixed=False, **options)
        assert report.bits_per_weight <= (bits if bits == 2.5 else 1.01 * even.bits_per_weight)


def test_work_in_place_changes_nothing():
    data = batches(4)
    models = [nn.Sequential(*mlp(lambda inplace=inplace: nn.SiLU(inplace=inplace))).eval() for inplace in (False, True)]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        bqq.nn.compress(model, 2, calibration=data, patch=32, tune=5, progress=False)
    one, other = (model.state_dict().values() for model in models)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_few_inputs_and_a_resumed_run(tmp_path):
    data = [torch.randn(1, 64, WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    options = {"calibration": data, "patch": 32, "tune": False, "progress": False}
    torch.manual_seed(0)
    net = nn.Sequential(*mlp()).eval()
    models = [copy.deepcopy(net) for _ in range(3)]

    def stop(layer):
        raise KeyboardInterrupt

    bqq.nn.compress(models[0], 3, **options)
    with pytest.raises(KeyboardInterrupt):
        bqq.nn.compress(models[1], 3, resume=tmp_path, **{**options, "progress": stop})
    bqq.nn.compress(models[2], 3, resume=tmp_path, **options)
    assert torch.equal(models[0](data[0]), models[2](data[0]))
