"""What every quantiser gives back: the approximation and the bytes it takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Coded(NamedTuple):
    What: Array  # (m, n)
    bytes: int


def bytes_of(bits: int) -> int:
    """Whole bytes that hold so many bits."""
    return -(-bits // 8)


def mse(What: npt.NDArray[Any], W: npt.NDArray[Any]) -> float:
    """Mean squared error of an element, in float64."""
    return float(((np.asarray(What, np.float64) - W) ** 2).mean())


def bqq_bytes(m: int, n: int, p: int, l: int, blocks: int = 1) -> int:
    """The paper's account of BQQ: bit planes without padding, 3p+1 float32 scales for each of equal blocks.

    Reproduces every printed size. m and n are of the whole matrix for one block, of a block otherwise.
    """
    return bytes_of(blocks * (p * l * (m + n) + 32 * (3 * p + 1)))


def rank_of(m: int, n: int, scale: float = 1) -> int:
    """The inner dimension at which a stack takes scale*m*n bits, rounded as the printed sizes are."""
    return max(1, round(scale * m * n / (m + n)))


def budget(m: int, n: int, bits: int) -> int:
    """Bytes of BQQ with so many stacks at l-scale 1: what a rank or a quality is chosen to fit."""
    return bqq_bytes(m, n, bits, rank_of(m, n))
