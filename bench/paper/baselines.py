"""All that BQQ is compared with, by name: ``BASELINES[name](W, bits)`` gives a Coded, or None if nothing fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bench.coded import Array, Coded
from bench.scalar import binary_coding, lloyd_max, uniform

from .lowrank import lplr, svd, svd_uniform
from .transform import dct, hadamard, jpeg
from .vector import e8, kmeans_rows

BASELINES: dict[str, Callable[[Array, int], Coded | None]] = {
    "uniform": uniform,
    "bcq": binary_coding,
    "lloyd_max": lloyd_max,
    "svd": svd,
    "svd_8": partial(svd_uniform, width=8),
    "svd_4": partial(svd_uniform, width=4),
    "lplr": lplr,
    "vq": kmeans_rows,
    "vq_8": partial(kmeans_rows, width=8),
    "vq_4": partial(kmeans_rows, width=4),
    "e8": e8,
    "e8_flat": partial(e8, scale_bits=0),
    "ht100": hadamard,
    "ht50": partial(hadamard, keep=0.5),
    "dct100": dct,
    "dct50": partial(dct, keep=0.5),
    "jpeg": jpeg,
}
LABELS = {
    "uniform": "uniform",
    "bcq": "binary coding",
    "lloyd_max": "Lloyd-Max",
    "svd": "SVD, float32",
    "svd_8": "SVD, 8 bit",
    "svd_4": "SVD, 4 bit",
    "lplr": "LPLR",
    "vq": "k-means rows, float32",
    "vq_8": "k-means rows, 8 bit",
    "vq_4": "k-means rows, 4 bit",
    "e8": "E8, two scales per level",
    "e8_flat": "E8, one scale per level",
    "ht100": "Hadamard + uniform",
    "ht50": "half Hadamard + uniform",
    "dct100": "DCT + uniform",
    "dct50": "half DCT + uniform",
    "jpeg": "JPEG",
}
