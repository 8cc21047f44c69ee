"""The experiments on images: photos, the rows of a run, the model that draws maps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image", reason="pip install pillow")

from bench.machine import read_csv  # noqa: E402
from bench.models import packages, photos  # noqa: E402
from bench.models.experiment import Experiment, arguments  # noqa: E402
from bench.models.saliency import Saliency  # noqa: E402

torch.set_num_threads(1)  # tests run side by side: threads of one would wait for those of another


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Photos where packages have them: red on the left, green below; white in the middle of those for tests."""
    monkeypatch.setattr(photos, "folder", lambda package, _: tmp_path / package)

    def draw(path, height, width, middle=None):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2, 0] = 255
        pixels[height // 2 :, :, 1] = 255
        if middle:
            side = min(height, width) // 2
            top, left = (height - side) // 2, (width - side) // 2
            pixels[top : top + side, left : left + side] = middle
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(path)

    for package, paths in photos._CALIBRATION.items():
        for path in paths:
            draw(tmp_path / package / path, 300, 400)
    draw(tmp_path / "foolbox/data/imagenet_00_243.jpg", 512, 512, (255, 255, 255))
    draw(tmp_path / "foolbox/data/imagenet_01_7.jpg", 300, 600, (255, 255, 255))
    return tmp_path


def test_photos(installed):
    crops = photos.calibration(12)
    assert crops.shape == (12, 3, 224, 224)
    assert 0 <= float(crops.min()) < 0.1 < 0.9 < float(crops.max()) < 1.001
    assert torch.equal(crops, photos.calibration(12))
    assert not torch.equal(crops, photos.calibration(12, seed=1))
    sides = [float(crop[0, :, 0].mean()) > float(crop[0, :, -1].mean()) for crop in crops]
    assert 0 < sum(sides) < 12  # some are mirrored
    middles, classes = photos.test()
    assert classes.tolist() == [243, 7]
    assert middles.shape == (2, 3, 224, 224)
    assert torch.allclose(middles[:, :, 112, 112], torch.ones(2, 3), atol=0.05)
    assert torch.allclose(middles[1].mean((1, 2)), torch.tensor([0.625, 0.625, 0.25]), atol=0.03)  # the middle alone
    assert photos.resized(torch.rand(2, 4, 3, 100, 100)).shape == (2, 4, 3, 224, 224)
    white = photos.standardised(torch.ones(1, 3, 2, 2))
    assert torch.allclose(white[0, :, 0, 0], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-3)


def test_a_package_that_is_not_there():
    with pytest.raises(SystemExit, match="pip install this==1"):
        packages.folder("nothing_of_this_name", "this==1")


def test_rows_of_an_experiment(tmp_path, capsys):
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU()) for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.Flatten(), *blocks, torch.nn.Linear(64, 4)).eval()
    images, path = torch.randn(64, 1, 8, 8), tmp_path / "rows.csv"
    with torch.no_grad():
        reference = model(images)

    def measure(found):
        with torch.no_grad():
            return {"error": f"{float((found(images) - reference).square().mean() / reference.var()):.5f}"}

    args = arguments("A test.\n", images=64).parse_args(["--bits", "2", "--csv", str(path), "--correct"])
    Experiment(model, images, ["1.*", "2.*"], 32, measure, args, block=32).run()
    _, rows = read_csv(path)
    errors = {row["method"]: float(row["error"]) for row in rows}
    others = ["uniform, blocks", "binary coding, blocks", "uniform", "binary coding", "double binary", "GPTQ"]
    expected = ["float32", "BQQ data-free", "BQQ calibrated", "c-BQQ", *others, *(f"c-{name}" for name in others)]
    assert list(errors) == expected
    assert errors["float32"] == 0 < errors["BQQ calibrated"] < errors["BQQ data-free"]
    assert errors["GPTQ"] < errors["uniform"]
    assert all(errors[f"c-{name}"] < errors[name] for name in others)
    assert all(1.5 < float(row["bits_per_weight"]) < 4.1 for row in rows[1:])
    assert all(torch.equal(a, b) for a, b in zip(model(images), reference, strict=True))  # it is left alone


def test_a_model_that_draws_maps():
    class Backbone(torch.nn.Module):
        def forward(self, x):
            tokens = torch.zeros(len(x), 257, 384)
            tokens[:, 1:] = x[:, :1, ::14, ::14].flatten(1)[..., None]
            return type("Output", (), {"last_hidden_state": tokens})

    model = Saliency(Backbone()).eval()
    x = torch.zeros(2, 3, 224, 224)
    x[1, :, 112:] = 5
    with torch.no_grad():
        found = model(x)
    assert found.shape == (2, 224, 224)
    assert 0 < float(found.min()) < float(found.max()) < 1
    change = (found[1] - found[0]).abs().mean(1)
    assert float(change[:80].max()) < 1e-5 < float(change[140:].min())  # a place of the map is of the same place
