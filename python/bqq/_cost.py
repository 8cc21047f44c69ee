"""What a product has to do, counted."""

from __future__ import annotations

from typing import TypedDict

from bqq import _check
from bqq._matrix import Matrix


class Cost(TypedDict):
    """What one product has to do; see :func:`cost`."""

    plane_bytes: int
    scale_bytes: int
    input_bytes: int
    output_bytes: int
    bytes: int
    bit_operations: int


def cost(q: Matrix, batch: int = 1) -> Cost:
    """Memory traffic and arithmetic of ``q @ X`` for X of ``batch`` float32 columns, counted, not measured.

    ``bytes``: planes, scales, inputs and outputs once each. ``bit_operations``: conditional additions, one for each bit
    of a plane and column: ``p l (m K + n J) batch`` for K x J blocks, about ``p m n batch`` at the default l. A dense
    float32 product of the same shape moves ``4 (m n + (m + n) batch)`` bytes and does ``m n batch`` multiply-adds.
    O(1). Raises ValueError or TypeError if batch is not an integer of 0 or more.
    """
    if not isinstance(q, Matrix):
        raise TypeError(f"q is {type(q).__name__}, expected a bqq.Matrix")
    columns = _check.index("batch", batch)
    if columns < 0:
        raise ValueError(f"batch is {columns}, expected 0 or more")
    (m, n), (J, K) = q.shape, q.grid
    scales = 4 * J * K * (3 * q.p + 1)
    planes, inputs, outputs = q.nbytes - scales, 4 * n * columns, 4 * m * columns
    return {
        "plane_bytes": planes,
        "scale_bytes": scales,
        "input_bytes": inputs,
        "output_bytes": outputs,
        "bytes": planes + scales + inputs + outputs,
        "bit_operations": q.p * q.l * (m * K + n * J) * columns,
    }
