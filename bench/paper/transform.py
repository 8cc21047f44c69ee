"""Transforms with uniform quantisation of what is kept, and JPEG. Each takes (W, bits)."""

from __future__ import annotations

import io

import numpy as np

from bench.coded import Array, Coded, bytes_of
from bqq._baselines import uniform_bytes, uniform_quantisation


def hadamard(W: Array, bits: int, keep: float = 1) -> Coded | None:
    """W H with orthonormal H, the first keep*n columns in bits/keep bits, the others dropped.

    H is block diagonal, of Sylvester matrices of the largest power of two that divides n; the first columns of each
    block are kept. ``bits / keep`` must be whole. None if n is odd: there is nothing to transform.
    """
    from scipy.linalg import hadamard as sylvester

    m, n = W.shape
    side = n & -n
    if side == 1:
        return None
    H = sylvester(side) / np.sqrt(side)
    columns = max(1, int(keep * side))
    kept = (W.reshape(m, n // side, side) @ H)[:, :, :columns]
    quantised = uniform_quantisation(kept, round(bits / keep))
    What = (quantised @ H[:columns]).reshape(m, n)
    return Coded(What, uniform_bytes(kept.size, round(bits / keep)))


def dct(W: Array, bits: int, keep: float = 1) -> Coded:
    """The low corner of the orthonormal two-dimensional DCT, sqrt(keep) of either side, in bits/keep bits."""
    from scipy.fft import dctn, idctn

    m, n = W.shape
    rows, columns = (int(np.ceil(size * np.sqrt(keep))) for size in (m, n))
    kept = dctn(W, norm="ortho")[:rows, :columns]
    spectrum = np.zeros((m, n))
    spectrum[:rows, :columns] = uniform_quantisation(kept, round(bits / keep))
    return Coded(idctn(spectrum, norm="ortho"), uniform_bytes(kept.size, round(bits / keep)))


def jpeg(W: Array, bits: int) -> Coded | None:
    """256 grey levels over the range of W, then the JPEG of the highest quality within bits*m*n/8 bytes.

    The file counts whole, with its header, and two float32 limits; Huffman tables are optimised. None if even quality
    1 is too large, or a side exceeds JPEG's 65,535.
    """
    from PIL import Image

    low, high = float(np.min(W)), float(np.max(W))
    span = (high - low) or 1.0
    limit = bytes_of(bits * W.size)
    if max(W.shape) > 65_535:
        return None
    image = Image.fromarray(np.rint((W - low) / span * 255).astype(np.uint8))
    for quality in range(100, 0, -1):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= limit:
            with Image.open(file) as opened:
                return Coded(low + span * np.asarray(opened, np.float64) / 255, file.tell() + 8)
    return None
