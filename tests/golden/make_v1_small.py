"""Writes v1-small.safetensors from FORMAT.md alone: a second implementation of the format, without the library.

python make_v1_small.py [output]     # default: compare with the file beside this script
python make_v1_small.py --table      # the reconstructions, in units of 1/64, as test_io.cpp holds them
"""

import json
import pathlib
import struct
import sys
import zlib

import numpy as np


class Lcg:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 1103515245 + 12345) % 2**31
        return self.state >> 16


def make_matrix(seed, m, n, J, K, p, l):
    """Bits and scales drawn one by one: all Y, then all Z, then the scales (multiples of 1/64)."""
    draw = Lcg(seed)
    rows, cols = -(-m // J), -(-n // K)
    Y = np.zeros((J, K, p, rows, l), np.uint8)
    Z = np.zeros((J, K, p, l, cols), np.uint8)
    for j, k, i, a, c in np.ndindex(Y.shape):
        if j * rows + a < m:
            Y[j, k, i, a, c] = draw.next() & 1
    for j, k, i, c, b in np.ndindex(Z.shape):
        if k * cols + b < n:
            Z[j, k, i, c, b] = draw.next() & 1
    scales = np.zeros((J, K, 3 * p + 1), np.float32)
    for at in np.ndindex(scales.shape):
        scales[at] = (draw.next() % 129 - 64) / 64
    return (m, n), Y, Z, scales


def reconstruct(matrix):
    (m, n), Y, Z, scales = matrix
    J, K, p, rows, _ = Y.shape
    cols = Z.shape[-1]
    W = np.zeros((J * rows, K * cols))
    for j, k, i in np.ndindex(J, K, p):
        y, z = Y[j, k, i].astype(float), Z[j, k, i].astype(float)
        r, s, t = scales[j, k, 3 * i : 3 * i + 3].astype(float)
        block = W[j * rows : (j + 1) * rows, k * cols : (k + 1) * cols]
        block += r * (y @ z) + s * y.sum(1)[:, None] + t * z.sum(0)
        if i == 0:
            block += scales[j, k, -1]
    return W[:m, :n]


def write(matrices, tensors, metadata):
    metadata = dict(metadata, bqq="1")
    parts = {name: ("F32", list(x.shape), x.astype("<f4").tobytes(), 4) for name, x in tensors.items()}
    for name, ((m, n), Y, Z, scales) in matrices.items():
        J, K, p, rows, l = Y.shape
        cols = Z.shape[-1]
        y = np.packbits(Y, axis=-1, bitorder="little")
        z = np.packbits(Z, axis=-1, bitorder="little")
        s = scales.astype("<f4").tobytes()
        numbers = struct.pack("<8q", m, n, J, K, rows, cols, p, l)
        crc = zlib.crc32(name.encode() + numbers + y.tobytes() + z.tobytes() + s)
        parts[name + ".bqq_y"] = ("U8", list(y.shape), y.tobytes(), 1)
        parts[name + ".bqq_z"] = ("U8", list(z.shape), z.tobytes(), 1)
        parts[name + ".bqq_scales"] = ("F32", list(scales.shape), s, 4)
        record = {"shape": [m, n], "grid": [J, K], "block": [rows, cols], "p": p, "l": l, "crc32": f"{crc:08x}"}
        metadata["bqq." + name] = json.dumps(record, separators=(",", ":"))
    header = {"__metadata__": {key: metadata[key] for key in sorted(metadata, key=str.encode)}}
    data = b""
    for name in sorted(parts, key=lambda name: (-parts[name][3], name.encode())):
        dtype, shape, raw, _ = parts[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


MATRICES = {
    "layer.blocks": make_matrix(1, m=7, n=10, J=2, K=3, p=2, l=9),
    "tiny": make_matrix(2, m=3, n=5, J=1, K=1, p=1, l=2),
}
TENSORS = {"bias": np.array([0.5, -1.25, 3.0, 0.0, 1e-8], np.float32)}
METADATA = {"note": 'the "ä" of version 1'}

if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        for name, matrix in MATRICES.items():
            print(name)
            for row in reconstruct(matrix) * 64:
                print("   ", ", ".join(f"{int(v)}" for v in row) + ",")
    else:
        file = write(MATRICES, TENSORS, METADATA)
        golden = pathlib.Path(__file__).with_name("v1-small.safetensors")
        if sys.argv[1:]:
            pathlib.Path(sys.argv[1]).write_bytes(file)
        elif golden.read_bytes() != file:
            sys.exit("v1-small.safetensors differs")
        else:
            print("v1-small.safetensors is reproduced byte for byte")
