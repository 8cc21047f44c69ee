"""The product as an operator of torch: traced by torch.compile and torch.export, with gradients.

Arguments are the tensors of a layer. What products read is made from them on first use and again after something was
written to them; when the planes are gone it goes with the next layer that is first used. Scales are compared by value.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import bqq

Tensors = list[torch.Tensor]

_lock = threading.Lock()
_made: dict[tuple[Any, ...], tuple[list[StorageWeakRef], bytes, bqq.Matrix]] = {}


def matrix_of(planes: Tensors, scales: torch.Tensor, shape: list[int]) -> bqq.Matrix:
    """The matrix of Y and Z (packed), an order of the columns, and rows, columns and values of entries; the last four
    are empty where there are none."""
    key, refs = _key(planes, shape)
    values = scales.detach().float().contiguous().numpy()
    digest = values.tobytes()
    with _lock:
        found = _made.get(key)
        if found is not None and found[1] == digest:
            return found[2]
        _forget()
        matrix = _matrix(planes, values, shape) if found is None else found[2].with_scales(values)
        _made[key] = refs, digest, matrix
        return matrix


def _forget() -> None:
    """Drops what was made from planes that are gone; a look at each, so not on every product."""
    for old in [k for k, (kept, _, _) in _made.items() if any(ref.expired() for ref in kept)]:
        del _made[old]


def _key(planes: Tensors, shape: list[int]) -> tuple[tuple[Any, ...], list[StorageWeakRef]]:
    tensors = [t for t in planes if t.numel()]
    refs = [StorageWeakRef(t.untyped_storage()) for t in tensors]
    return (tuple(shape), *((ref.cdata, t.data_ptr(), _version(t)) for ref, t in zip(refs, tensors, strict=True))), refs


def remember(planes: Tensors, scales: torch.Tensor, shape: list[int], matrix: bqq.Matrix) -> None:
    """The matrix that these tensors are, known already."""
    key, refs = _key(planes, shape)
    with _lock:
        _forget()
        _made[key] = refs, scales.detach().float().contiguous().numpy().tobytes(), matrix


def _version(t: torch.Tensor) -> int:
    return -1 if t.is_inference() else t._version


def _matrix(planes: Tensors, scales: np.ndarray[Any, Any], shape: list[int]) -> bqq.Matrix:
    y, z, *extras = (t.detach().contiguous().numpy() for t in planes)
    order, rows, cols, values = extras
    return bqq.Matrix.from_planes(
        y,
        z,
        scales,
        (shape[0], shape[1]),
        col_order=order if order.size else None,
        entries=(rows, cols, values) if values.size else None,
    )


def _float32(x: torch.Tensor) -> torch.Tensor:
    if x.device.type != "cpu":
        raise RuntimeError(f"the input of a bqq layer is on {x.device}, expected the CPU")
    return x.detach().float().contiguous()


@torch.library.custom_op("bqq::linear", mutates_args=())
def linear(x: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int], precision: str) -> torch.Tensor:
    """x (..., n) -> (..., m): x W_hat^T, in the dtype of x."""
    if not x.dim() or x.shape[-1] != shape[1]:
        raise ValueError(f"the input has shape {tuple(x.shape)}, expected {shape[1]} features in the last dimension")
    q = matrix_of(planes, scales, shape)
    flat = _float32(x).reshape(-1, shape[1])
    out = torch.empty(flat.shape[0], shape[0])
    how: Any = precision
    if flat.shape[0]:
        bqq.matmul(flat.numpy(), q.T, out.numpy(), precision=how)
    return out.reshape(*x.shape[:-1], shape[0]).to(x.dtype)


@linear.register_fake
def _(x: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int], precision: str) -> torch.Tensor:
    torch._check(x.shape[-1] == shape[1], lambda: f"x has {x.shape[-1]} features, expected {shape[1]}")
    return x.new_empty((*x.shape[:-1], shape[0]))


@torch.library.custom_op("bqq::rows", mutates_args=())
def rows(ids: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """ids (...) -> (..., n): rows of W_hat, float32. Only the block rows that hold one are unpacked."""
    q = matrix_of(planes, scales, shape)
    wanted, places = np.unique(ids.detach().cpu().numpy(), return_inverse=True)
    if wanted.size and (wanted[0] < 0 or wanted[-1] >= shape[0]):
        raise IndexError(f"index {wanted[0] if wanted[0] < 0 else wanted[-1]} is out of range for {shape[0]} rows")
    out = np.empty((wanted.size, shape[1]), np.float32)
    owner = wanted // q.patch[0]
    for j in np.unique(owner):
        out[owner == j] = _rows_of_block(q, int(j), wanted[owner == j] % q.patch[0])
    at, cols, values = q.entries
    for row, col, value in zip(at, cols, values, strict=True):
        out[wanted == row, col] += value
    return torch.from_numpy(out[places.reshape(-1)]).reshape(*ids.shape, shape[1])


@rows.register_fake
def _(ids: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int]) -> torch.Tensor:
    return scales.new_empty((*ids.shape, shape[1]))


def _rows_of_block(q: bqq.Matrix, j: int, wanted: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows of block row j, without entries."""
    (_, n), K, cols = q.shape, q.grid[1], q.patch[1]
    packed_y, packed_z = q.planes
    y = np.unpackbits(packed_y[j][:, :, wanted], axis=-1, count=q.l, bitorder="little").astype(np.float32)
    z = np.unpackbits(packed_z[j], axis=-1, count=cols, bitorder="little").astype(np.float32)
    c = q.scales[j]
    r, s, t = (c[:, i:-1:3, None, None] for i in range(3))
    W = (r * (y @ z) + s * y.sum(-1, keepdims=True) + t * z.sum(-2, keepdims=True)).sum(1)
    W += c[:, -1, None, None]
    flat: npt.NDArray[np.float32] = W.transpose(1, 0, 2).reshape(wanted.size, K * cols)[:, :n]
    if q.col_order is None:
        return flat
    placed = np.empty_like(flat)
    placed[:, q.col_order] = flat
    return placed


@torch.library.custom_op("bqq::linear_backward", mutates_args=())
def linear_backward(
    grad: torch.Tensor, x: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int], of_scales: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients for x and, if asked for, for the scales; in float32 products, whatever the precision forward."""
    q = matrix_of(planes, scales, shape)
    flat = _float32(grad).reshape(-1, shape[0])
    back = torch.empty(flat.shape[0], shape[1])
    if flat.shape[0]:
        bqq.matmul(flat.numpy(), q, back.numpy())
    of_x = back.reshape(x.shape).to(x.dtype)
    if not of_scales:
        return of_x, torch.zeros(0, dtype=scales.dtype)
    return of_x, scale_gradient(q, flat.T @ _float32(x).reshape(-1, shape[1])).to(scales.dtype)


@linear_backward.register_fake
def _(
    grad: torch.Tensor, x: torch.Tensor, planes: Tensors, scales: torch.Tensor, shape: list[int], of_scales: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(x), torch.empty_like(scales) if of_scales else scales.new_empty(0)


def scale_gradient(q: bqq.Matrix, of_weight: torch.Tensor) -> torch.Tensor:
    """From the gradient for W_hat (m, n) that for the scales (J, K, 3p+1): W_hat is linear in them."""
    (m, n), (J, K), (rows, cols) = q.shape, q.grid, q.patch
    if q.row_order is not None:
        of_weight = of_weight[torch.from_numpy(q.row_order.astype(np.int64))]
    if q.col_order is not None:
        of_weight = of_weight[:, torch.from_numpy(q.col_order.astype(np.int64))]
    G = torch.nn.functional.pad(of_weight, (0, K * cols - n, 0, J * rows - m))
    G = G.reshape(J, rows, K, cols).transpose(1, 2)
    out = torch.empty(J, K, 3 * q.p + 1)
    Y, Z = torch.from_numpy(q.Y), torch.from_numpy(q.Z)
    for i in range(q.p):
        y, z = Y[:, :, i].float(), Z[:, :, i].float()
        out[..., 3 * i] = ((y.transpose(-1, -2) @ G) * z).sum((-1, -2))
        out[..., 3 * i + 1] = (y.sum(-1) * G.sum(-1)).sum(-1)
        out[..., 3 * i + 2] = (z.sum(-2) * G.sum(-2)).sum(-1)
    out[..., -1] = G.sum((-1, -2))
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, planes, scales, shape, _ = inputs
    ctx.save_for_backward(x, scales, *planes)
    ctx.shape = shape


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, scales, *planes = ctx.saved_tensors
    of_scales = ctx.needs_input_grad[2]
    of_x, of_s = torch.ops.bqq.linear_backward(grad, x, planes, scales, ctx.shape, of_scales)
    return of_x, [None] * len(planes), of_s if of_scales else None, None, None


linear.register_autograd(_backward, setup_context=_setup)
