"""Vision transformers trained on Fashion-MNIST and kept in bench/data.

cd bench/data && apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist*.deb fashion
python -m bench.models.fashion                    # 4 blocks of 128: trains in about 10 minutes of one core
python -m bench.models.fashion deit-ti cuda       # 12 blocks of 192, of DeiT-Ti's shape: five minutes of a GPU
"""

from __future__ import annotations

import gzip
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.matrices import DATA


@dataclass(frozen=True)
class Size:
    """Of a transformer, with how it is trained; tokens a side of the image: 4 (they overlap) or 7."""

    width: int
    heads: int
    blocks: int
    side: int
    epochs: int
    batch: int
    rate: float


SIZES = {
    "small": Size(width=128, heads=4, blocks=4, side=4, epochs=6, batch=100, rate=2e-3),
    "deit-ti": Size(width=192, heads=3, blocks=12, side=7, epochs=40, batch=200, rate=1e-3),
}
_NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """Images (N, 1, 28, 28) -> logits (N, 10): patches behind two convolutions; the mean of the tokens is read."""

    def __init__(self, size: Size = SIZES["small"]) -> None:
        super().__init__()
        kernel, stride, padding = {4: (5, 3, 1), 7: (2, 2, 0)}[size.side]
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, size.width, kernel, stride, padding)
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, size.side**2, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.blocks))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x).mean(1))
        return logits


def images(data: Path = DATA) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images and labels, test images and labels; images (N, 1, 28, 28), standardised."""
    found = []
    for name in _NAMES:
        path = next((data / "fashion").rglob(f"{name}-ubyte.gz"), None)
        if path is None:
            raise SystemExit(f"Fashion-MNIST is not in {data / 'fashion'}: see python -m pydoc bench.models.fashion")
        with gzip.open(str(path)) as file:
            raw = torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=16 if "images" in name else 8).copy())
        found.append((raw.reshape(-1, 1, 28, 28).float() / 255 - 0.286) / 0.353 if "images" in name else raw.long())
    return found[0], found[1], found[2], found[3]


@torch.no_grad()
def top1(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent."""
    found = torch.cat([model(part).argmax(1) for part in x.split(500)])
    return 100 * float((found == labels).float().mean())


def trained(name: str = "small", device: str = "cpu", data: Path = DATA) -> ViT:
    """The model of a size, from bench/data if it is there, else trained now: on one thread, the same weights
    everywhere, or on a GPU."""
    path = data / f"fashion-{name}.pt"
    size, model = SIZES[name], ViT(SIZES[name])
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        model.eval()
        return model
    x, labels, test_x, test_labels = (part.to(device) for part in images(data))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ViT(size)
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), size.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, size.rate, total_steps=size.epochs * (len(x) // size.batch)
    )
    start = time.process_time()
    for epoch in range(size.epochs):
        for part in torch.randperm(len(x)).split(size.batch):
            batch = x[part]
            batch = torch.where(torch.rand(len(part), 1, 1, 1).to(device) < 0.5, batch.flip(-1), batch)
            loss = nn.functional.cross_entropy(model(batch), labels[part], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        found = top1(model, test_x, test_labels)
        print(f"epoch {epoch + 1}  top-1 {found:.2f}  {time.process_time() - start:.0f} CPU seconds", flush=True)
    torch.set_num_threads(threads)
    model.cpu().eval()
    torch.save(model.state_dict(), path)
    return model


if __name__ == "__main__":
    given = sys.argv[1:] + ["small", "cpu"][len(sys.argv) - 1 :]
    trained(given[0], given[1])
