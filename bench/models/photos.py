"""Photos of packages: crops to calibrate on, and others to test on.

pip install scikit-image scikit-learn foolbox==3.3.4
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.models.packages import folder

SIDE = 224
_INSTALL = {"skimage": "scikit-image", "sklearn": "scikit-learn", "foolbox": "foolbox==3.3.4"}
_CALIBRATION = {
    "skimage": [
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/rocket.jpg",
        "data/motorcycle_left.png",
        "data/hubble_deep_field.jpg",
        "data/ihc.png",
        "data/retina.jpg",
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}


def calibration(number: int, seed: int = 0) -> torch.Tensor:
    """(number, 3, 224, 224) in 0..1: random squares, of half to all of the shorter side, of ten photos by turns."""
    rng = np.random.default_rng(seed)
    photos = [
        _photo(folder(package, _INSTALL[package]) / path) for package, paths in _CALIBRATION.items() for path in paths
    ]
    crops = []
    for i in range(number):
        photo = photos[i % len(photos)]
        side = int(min(photo.shape[1:]) * rng.uniform(0.5, 1))
        top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[1:])
        crop = resized(photo[:, top : top + side, left : left + side])
        crops.append(crop.flip(2) if rng.random() < 0.5 else crop)
    return torch.stack(crops)


def test() -> tuple[torch.Tensor, torch.Tensor]:
    """(20, 3, 224, 224) in 0..1 and their classes of ImageNet: the middle of foolbox's photos."""
    files = sorted((folder("foolbox", _INSTALL["foolbox"]) / "data").glob("imagenet_*.jpg"))
    middles = []
    for photo in map(_photo, files):
        top, left = ((length - min(photo.shape[1:])) // 2 for length in photo.shape[1:])
        middles.append(resized(photo[:, top : photo.shape[1] - top, left : photo.shape[2] - left]))
    return torch.stack(middles), torch.tensor([int(file.stem.split("_")[2]) for file in files])


def standardised(photos: torch.Tensor) -> torch.Tensor:
    """As models of ImageNet take them."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (photos - mean[:, None, None]) / deviation[:, None, None]


def _photo(path: Path) -> torch.Tensor:
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def resized(photos: torch.Tensor) -> torch.Tensor:
    """(..., 3, h, w) -> (..., 3, 224, 224)."""
    size = (SIDE, SIDE)
    batch = photos.reshape(-1, *photos.shape[-3:])
    found = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    return found.view(*photos.shape[:-2], *size)
