"""Layers: the planes are buffers, scales and bias parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import bqq
from bqq.nn import _op

Planes = tuple[torch.Tensor, torch.Tensor]  # packed, of the matrix given, not copied
_EXTRAS = {
    "col_order": torch.int64,
    "entry_rows": torch.int64,
    "entry_cols": torch.int64,
    "entry_values": torch.float32,
}


class _Compressed(nn.Module):
    """What layers over a compressed m x n matrix share.

    state_dict: ``planes_y``, ``planes_z`` (uint8, as ``bqq.Matrix.planes``), ``scales`` (float32, J x K x 3p+1),
    ``col_order``, ``entry_rows``, ``entry_cols``, ``entry_values`` (empty without) and ``bias``. Scales require a
    gradient only if asked to (``layer.scales.requires_grad_()``).
    """

    planes_y: torch.Tensor
    planes_z: torch.Tensor
    col_order: torch.Tensor
    entry_rows: torch.Tensor
    entry_cols: torch.Tensor
    entry_values: torch.Tensor

    def __init__(
        self,
        matrix: bqq.Matrix,
        bias: torch.Tensor | None = None,
        *,
        precision: str = "float32",
        planes: Planes | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(matrix, bqq.Matrix):
            raise TypeError(f"matrix is {type(matrix).__name__}, expected a bqq.Matrix")
        if matrix.row_order is not None:
            raise ValueError("matrix has an order of its rows: a layer takes one of the columns")
        if precision not in ("float32", "fast"):
            raise ValueError(f"precision is {precision!r}, expected 'float32' or 'fast'")
        if bias is not None and tuple(bias.shape) != matrix.shape[:1]:
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {matrix.shape[:1]}")
        self.shape = list(matrix.shape)
        self.precision = precision
        Y, Z = planes or tuple(torch.from_numpy(bits.copy()) for bits in matrix.planes)
        rows, cols, values = matrix.entries
        order = matrix.col_order
        extras = (np.empty(0) if order is None else order, rows, cols, values)
        self.register_buffer("planes_y", Y)
        self.register_buffer("planes_z", Z)
        for (name, dtype), value in zip(_EXTRAS.items(), extras, strict=True):
            self.register_buffer(name, torch.from_numpy(value.astype(np.float64)).to(dtype))
        self.scales = nn.Parameter(torch.from_numpy(matrix.scales.copy()), requires_grad=False)
        trained = not isinstance(bias, nn.Parameter) or bias.requires_grad
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=trained)

    @property
    def _planes(self) -> list[torch.Tensor]:
        return [self.planes_y, self.planes_z, self.col_order, self.entry_rows, self.entry_cols, self.entry_values]

    @property
    def matrix(self) -> bqq.Matrix:
        """The weight as it is now, m x n."""
        return _op.matrix_of(self._planes, self.scales, self.shape)

    @property
    def bits_per_weight(self) -> float:
        """All that stands for the weight, without the bias."""
        return self.matrix.bits_per_weight

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.bqq.linear(x, self._planes, self.scales, self.shape, self.precision)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves, but never another dtype for what the product reads: ``model.half()`` leaves planes and scales."""
        kept = {name: getattr(self, name).data for name in ("scales", "entry_values")}
        super()._apply(fn, recurse)
        for name, data in kept.items():
            tensor = getattr(self, name)
            if tensor.dtype != data.dtype:
                tensor.data = data.to(tensor.device)
        return self

    def extra_repr(self) -> str:
        (m, n), q = self.shape, self.matrix
        return f"{n}, {m}, bias={self.bias is not None}, p={q.p}, {q.bits_per_weight:.3g} bits per weight"


class Linear(_Compressed):
    """torch.nn.Linear over a compressed weight: x (..., n) -> (..., m), on the CPU, in the dtype of x.

    Parameters
    ----------
    matrix : (m, n) bqq.Matrix; its bits become buffers, its scales a parameter
    bias : (m,) tensor or None
    precision : of the product, as in :func:`bqq.matmul`
    planes : the buffers Y and Z of the matrix, if there are such, shared; else copies
    """

    @property
    def out_features(self) -> int:
        return self.shape[0]

    @property
    def in_features(self) -> int:
        return self.shape[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x)


class Conv1D(_Compressed):
    """transformers' Conv1D (GPT-2), a linear layer that holds its weight transposed: x (..., n) -> (..., m)."""

    @property
    def nf(self) -> int:
        return self.shape[0]

    @property
    def nx(self) -> int:
        return self.shape[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x)


class Embedding(_Compressed):
    """torch.nn.Embedding over a compressed table: ids (...) -> (..., n) in float32. No gradients; no padding_idx, whose
    row is whatever the table had."""

    def __init__(
        self, matrix: bqq.Matrix, bias: None = None, *, precision: str = "float32", planes: Planes | None = None
    ) -> None:
        super().__init__(matrix, bias, precision=precision, planes=planes)
        self.num_embeddings, self.embedding_dim = self.shape

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.ops.bqq.rows(ids, self._planes, self.scales, self.shape)
        return found


class Conv2d(_Compressed):
    """torch.nn.Conv2d with groups=1 over its weight as a matrix, (out_channels, in_channels * kh * kw): patches of the
    image are its inputs. Memory: kh * kw images."""

    def __init__(
        self,
        matrix: bqq.Matrix,
        bias: torch.Tensor | None = None,
        *,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        precision: str = "float32",
        planes: Planes | None = None,
    ) -> None:
        super().__init__(matrix, bias, precision=precision, planes=planes)
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = x.dim() == 3
        images = x[None] if single else x
        patches = nn.functional.unfold(images, self.kernel_size, self.dilation, self.padding, self.stride)
        size = [
            (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for length, pad, dilation, kernel, stride in zip(
                images.shape[-2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        ]
        y = self._product(patches.transpose(1, 2)).transpose(1, 2)
        y = y.reshape(images.shape[0], self.shape[0], *size)
        return y[0] if single else y


def weight_matrix(module: nn.Module) -> torch.Tensor | None:
    """The weight of a layer that can be compressed, as (m, n); None for any other."""
    if reason(module):
        return None
    weight: torch.Tensor = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight.reshape(weight.shape[0], -1)


def reason(module: nn.Module) -> str:
    """Why a module with parameters of its own is not compressed; empty if it can be."""
    if isinstance(module, _Compressed):
        return "compressed already"
    if type(module) is nn.Linear or (type(module).__name__ == "Conv1D" and hasattr(module, "nf")):
        return ""
    if type(module) is nn.Embedding:
        return "an embedding with max_norm" if module.max_norm is not None else ""
    if type(module) is nn.Conv2d:
        if module.groups != 1:
            return f"a convolution of {module.groups} groups"
        return "" if module.padding_mode == "zeros" and not isinstance(module.padding, str) else "padding of this kind"
    return f"{type(module).__name__} is no layer that is compressed"


def compressed(
    module: nn.Module, matrix: bqq.Matrix, precision: str = "float32", planes: Planes | None = None
) -> _Compressed:
    """The layer that takes the place of `module`."""
    if isinstance(module, nn.Embedding):
        return Embedding(matrix, precision=precision, planes=planes)
    bias: Any = module.bias
    if isinstance(module, nn.Conv2d):
        geometry: dict[str, Any] = {
            name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation")
        }
        return Conv2d(matrix, bias, **geometry, precision=precision, planes=planes)
    kind = Linear if isinstance(module, nn.Linear) else Conv1D
    return kind(matrix, bias, precision=precision, planes=planes)
