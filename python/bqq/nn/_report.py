"""What compress did, layer by layer, and what it left alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn


@dataclass
class LayerReport:
    """One compressed layer."""

    name: str
    shape: tuple[int, int]
    bits_per_weight: float  # planes, scales, order, entries
    error: float  # relative output error |X (W - W_hat)^T|^2 / |X W^T|^2, without calibration |W - W_hat|^2 / |W|^2
    seconds: float
    note: str = ""


@dataclass
class Report:
    """What :func:`bqq.nn.compress` gives back; ``print`` shows a table."""

    model: nn.Module
    layers: list[LayerReport] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # module with parameters -> why it was left alone
    blocks: list[dict[str, float]] = field(default_factory=list)  # tuning: loss before and after, by block
    correction: dict[str, float] = field(default_factory=dict)  # of the whole model: the same
    uncompressed: int = 0  # parameters that stay as they are

    @property
    def weights(self) -> int:
        return sum(layer.shape[0] * layer.shape[1] for layer in self.layers)

    @property
    def bits_per_weight(self) -> float:
        """Of all compressed layers together."""
        return sum(x.bits_per_weight * x.shape[0] * x.shape[1] for x in self.layers) / max(self.weights, 1)

    def to_json(self) -> str:
        """Everything but the model."""
        content: dict[str, Any] = {
            "bits_per_weight": self.bits_per_weight,
            "weights": self.weights,
            "uncompressed": self.uncompressed,
            "layers": [asdict(layer) for layer in self.layers],
            "blocks": self.blocks,
            "correction": self.correction,
            "skipped": self.skipped,
        }
        return json.dumps(content, indent=1)

    def __repr__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [5])
        lines = [f"{'layer':{width}}  {'shape':>11}  {'bits':>6}  {'error':>8}  note"]
        for x in self.layers:
            shape = f"{x.shape[0]}x{x.shape[1]}"
            line = f"{x.name:{width}}  {shape:>11}  {x.bits_per_weight:6.3f}  {x.error:8.5f}  {x.note}"
            lines.append(line.rstrip())
        lines.append(
            f"{len(self.layers)} layers, {self.weights:,} weights at {self.bits_per_weight:.4f} bits; "
            f"{self.uncompressed:,} parameters as they were"
        )
        if self.correction:
            before, after = self.correction["before"], self.correction["after"]
            lines.append(f"correction: error of the outputs {before:.5f} before, {after:.5f} after")
        lines += [f"not compressed: {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)
