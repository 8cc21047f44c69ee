"""A vision transformer on Fashion-MNIST at 1 to 4 bits: top-1 of bqq and of others, with and without calibration.

    python -m bench.models.fashion [small|deit-ti] [cpu|cuda]
    python -m bench.models.vit [--size small|deit-ti] [--bits 1,2,3,4] [--seeds 3] [--images 512] [--correct]
        [--resume DIR] [--csv FILE]

The table that the paper has of ImageNet, in kind: the linear layers of the blocks are compressed; the convolutions in
front (a ninth of all weights), the position table, norms and the head stay. Calibration: training images without
labels, in batches of 16. Rows with "c-" have been corrected as in the paper: 15 epochs on the logits of the original
model; of norms and biases, for bqq of scales too, which are 1/1,000 of the weights. "same_class" and "logit_error" (a
share of the variance) are against the original model: this task forgives much.
"""

from __future__ import annotations

import torch
from torch import nn

from bench.models.experiment import Experiment, arguments
from bench.models.fashion import SIZES, images, trained

GROUP = 64  # columns of a row that share a scale, of the others


def main() -> None:
    parser = arguments(__doc__, images=512)
    parser.add_argument("--size", choices=SIZES, default="small")
    args = parser.parse_args()
    x, _, test, labels = images()
    model = trained(args.size)
    reference = _outputs(model, test)

    def measure(compressed: nn.Module) -> dict[str, str]:
        found = _outputs(compressed, test)
        return {
            "top1": f"{100 * float((found.argmax(1) == labels).float().mean()):.2f}",
            "same_class": f"{100 * float((found.argmax(1) == reference.argmax(1)).float().mean()):.2f}",
            "logit_error": f"{float((found - reference).square().mean() / reference.var(0).mean()):.4f}",
        }

    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[: args.images]
    Experiment(model, x[chosen], ["blocks.*"], GROUP, measure, args).run()


@torch.no_grad()
def _outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in x.split(250)])


if __name__ == "__main__":
    main()
