"""Layers over compressed matrices: values, gradients, tracing, copies, threads."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import bqq  # noqa: E402
import bqq.nn  # noqa: E402


def matrix(m=24, n=40, *, p=2, patch=16, extras=True, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n)).astype(np.float32) / n**0.5
    W[3, 5] = 9
    weight = np.exp(rng.standard_normal(n))
    options = {"weight": np.diag(weight), "order": "weight", "outliers": 8.0} if extras else {}
    return bqq.decompose(W, p, patch=patch, steps=50, refine=20, **options)


def layer(extras=True, bias=True, **options):
    q = matrix(extras=extras)
    b = torch.randn(24, generator=torch.Generator().manual_seed(1)) if bias else None
    return bqq.nn.Linear(q, b, **options)


def dense(module):
    return torch.from_numpy(np.asarray(module.matrix))


def reference(module, x):
    y = x.double() @ dense(module).double().T
    return y if module.bias is None else y + module.bias.double()


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("shape", [(40,), (1, 40), (5, 40), (2, 3, 4, 40), (0, 40)])
def test_values(shape, extras):
    module, x = layer(extras), torch.randn(shape)
    y = module(x)
    assert y.shape == (*shape[:-1], 24)
    torch.testing.assert_close(y.double(), reference(module, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    module, x = layer(), torch.randn(5, 40).to(dtype)
    y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), reference(module, x), rtol=2e-2, atol=5e-2)
    fast = layer(precision="fast")(x.float())
    torch.testing.assert_close(fast.double(), reference(module, x.float()), rtol=0.1, atol=0.2)


def test_half_leaves_what_products_read():
    module = layer()
    scales = module.scales.clone()
    module.half()
    assert module.bias.dtype == torch.float16
    assert torch.equal(module.scales, scales)
    assert module(torch.randn(5, 40).half()).dtype == torch.float16


@pytest.mark.parametrize("extras", [False, True])
def test_gradients(extras):
    module = layer(extras)
    module.scales.requires_grad_()
    x = torch.randn(2, 3, 40, requires_grad=True)
    out = torch.randn(2, 3, 24)
    (module(x) * out).sum().backward()
    torch.testing.assert_close(x.grad, (out.reshape(-1, 24) @ dense(module)).reshape(2, 3, 40), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.bias.grad, out.sum((0, 1)))
    base, of_weight = module.matrix, out.reshape(-1, 24).T.double() @ x.detach().reshape(-1, 40).double()
    W0 = np.asarray(base).astype(float)
    for at in ((0, 0, 0), (1, 2, 1), (0, 1, 2), (1, 0, 5), (1, 2, 6)):  # W_hat is linear in each scale
        scales = base.scales.copy()
        scales[at] += 1
        slope = np.asarray(base.with_scales(scales)).astype(float) - W0
        expected = float((torch.from_numpy(slope) * of_weight).sum())
        assert float(module.scales.grad[at]) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_gradcheck_style_of_torch():
    """The operator is well-formed: schema, fake, autograd registration, AOT dispatch."""
    module = layer()
    x = torch.randn(4, 40, requires_grad=True)
    scales = module.scales.detach().clone().requires_grad_()
    torch.library.opcheck(torch.ops.bqq.linear.default, (x, module._planes, scales, module.shape, "float32"))


def test_a_step_of_training_is_seen():
    module = layer()
    module.scales.requires_grad_()
    x, target = torch.randn(32, 40), torch.randn(32, 24)
    optimiser = torch.optim.Adam([module.scales, module.bias], lr=1e-3)
    losses = []
    for _ in range(20):
        loss = (module(x) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    torch.testing.assert_close(module(x).double(), reference(module, x), rtol=1e-4, atol=1e-4)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = layer(), torch.nn.LayerNorm(24), bqq.nn.Linear(matrix(8, 24, patch=12), None)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))


def test_compile_without_graph_breaks():
    net, x = Net(), torch.randn(3, 7, 40, requires_grad=True)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    net.a.scales.requires_grad_()
    compiled(x).square().sum().backward()
    of_x, of_scales = x.grad.clone(), net.a.scales.grad.clone()
    x.grad = net.a.scales.grad = None
    net(x).square().sum().backward()
    torch.testing.assert_close(of_x, x.grad)
    torch.testing.assert_close(of_scales, net.a.scales.grad)


def test_export():
    net, x = Net().eval(), torch.randn(3, 40)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    again = torch.randn(9, 40)
    torch.testing.assert_close(program.module()(again), net(again))
    assert any("bqq.linear" in str(node.target) for node in program.graph.nodes)


def test_copies_and_state():
    net, x = Net(), torch.randn(3, 40)
    y = net(x)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(x), y)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = Net()
    other.a = bqq.nn.Linear(matrix(seed=5), torch.zeros(24))
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), y)


def test_threads():
    net, xs = Net(), [torch.randn(i + 1, 40) for i in range(8)]
    expected = [net(x) for x in xs]
    found = [None] * 8

    def work(i):
        with torch.no_grad():
            found[i] = net(xs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in workers]
    [t.join() for t in workers]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_conv2d():
    conv = torch.nn.Conv2d(3, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    q = bqq.decompose(conv.weight.detach().reshape(8, -1), 4, steps=50, refine=20)
    module = bqq.nn.Conv2d(q, conv.bias, kernel_size=(3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    x = torch.randn(2, 3, 9, 11)
    conv.weight.data = torch.from_numpy(np.asarray(q)).reshape(8, 3, 3, 2)
    torch.testing.assert_close(module(x), conv(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module(x[0]), conv(x[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extras", [False, True])
def test_embedding(extras):
    module = bqq.nn.Embedding(matrix(70, 40, extras=extras))
    ids = torch.randint(0, 70, (3, 5))
    torch.testing.assert_close(module(ids), dense(module)[ids], rtol=1e-5, atol=1e-5)
    assert module(ids[:, :0]).shape == (3, 0, 40)
    assert module(torch.tensor(3)).shape == (40,)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(ids), module(ids))
    for bad in (-1, 70):
        with pytest.raises(IndexError, match=f"index {bad} is out of range for 70 rows"):
            module(torch.tensor([0, bad]))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: bqq.nn.Linear(np.ones((3, 4))), TypeError, "matrix is ndarray, expected a bqq.Matrix"),
        (lambda: bqq.nn.Linear(matrix().T), ValueError, "order of its rows"),
        (lambda: bqq.nn.Linear(matrix(), torch.zeros(3)), ValueError, r"bias has shape \(3,\), expected \(24,\)"),
        (lambda: bqq.nn.Linear(matrix(), precision="half"), ValueError, "precision is 'half'"),
        (lambda: layer()(torch.randn(40, 39)), ValueError, r"shape \(40, 39\), expected 40 features"),
        (lambda: layer()(torch.tensor(1.0)), ValueError, r"shape \(\), expected 40 features"),
    ],
)
def test_bad_arguments(make, error, text):
    with pytest.raises(error, match=text):
        make()
