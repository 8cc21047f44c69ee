"""Writes v2-small.safetensors from FORMAT.md alone, as make_v1_small.py does v1-small: orders and entries.

python make_v2_small.py [output]     # default: compare with the file beside this script
python make_v2_small.py --table      # the reconstructions, in units of 1/64, as test_io.cpp holds them
"""

import json
import pathlib
import struct
import sys
import zlib

import numpy as np
from make_v1_small import make_matrix
from make_v1_small import reconstruct as blocks_of

# name: matrix, order of rows, order of columns, entries {(row, column) of the blocks: value in units of 1/64}
MATRICES = {
    "all": (
        make_matrix(1, m=7, n=10, J=2, K=3, p=2, l=9),
        [6, 0, 3, 1, 5, 2, 4],
        [9, 1, 2, 0, 4, 3, 8, 7, 5, 6],
        {(0, 3): 6400, (0, 9): -3200, (5, 0): 1, (6, 9): 777},
    ),
    "columns": (make_matrix(2, m=3, n=5, J=1, K=1, p=1, l=2), None, [4, 2, 0, 1, 3], {}),
    "entries": (make_matrix(2, m=3, n=5, J=1, K=1, p=1, l=2), None, None, {(2, 4): -640}),
    "plain": (make_matrix(2, m=3, n=5, J=1, K=1, p=1, l=2), None, None, {}),
}


def reconstruct(matrix, row_order, col_order, entries):
    A = blocks_of(matrix)
    for (a, b), value in entries.items():
        A[a, b] += value / 64
    W = np.empty_like(A)
    rows = range(A.shape[0]) if row_order is None else row_order
    cols = range(A.shape[1]) if col_order is None else col_order
    W[np.ix_(rows, cols)] = A
    return W


def write(matrices):
    parts, metadata = {}, {"bqq": "2"}
    for name, (((m, n), Y, Z, scales), row_order, col_order, entries) in matrices.items():
        J, K, p, rows, l = Y.shape
        own = {
            "y": ("U8", np.packbits(Y, axis=-1, bitorder="little")),
            "z": ("U8", np.packbits(Z, axis=-1, bitorder="little")),
            "scales": ("F32", scales.astype("<f4")),
        }
        record = {"shape": [m, n], "grid": [J, K], "block": [rows, Z.shape[-1]], "p": p, "l": l}
        for key, order in (("row_order", row_order), ("col_order", col_order)):
            if order is not None:
                own[key] = ("U16", np.array(order, "<u2"))
                record[key] = 1
        if entries:
            own["positions"] = ("U32", np.array([a * n + b for a, b in entries], "<u4"))
            own["values"] = ("F32", np.array([value / 64 for value in entries.values()], "<f4"))
            record["entries"] = len(entries)
        numbers = [m, n, J, K, rows, Z.shape[-1], p, l]
        if len(own) > 3:
            numbers += [record.get(key, 0) for key in ("row_order", "col_order", "entries")]
        crc = zlib.crc32(name.encode() + struct.pack(f"<{len(numbers)}q", *numbers))
        for part, (dtype, array) in own.items():
            crc = zlib.crc32(array.tobytes(), crc)
            parts[f"{name}.bqq_{part}"] = (dtype, array)
        metadata["bqq." + name] = json.dumps({**record, "crc32": f"{crc:08x}"}, separators=(",", ":"))
    header: dict[str, object] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    data = b""
    for name, (dtype, array) in sorted(parts.items(), key=lambda part: (-part[1][1].itemsize, part[0].encode())):
        raw = array.tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        for name, matrix in MATRICES.items():
            print(name)
            for row in reconstruct(*matrix) * 64:
                print("   ", ", ".join(f"{int(v)}" for v in row) + ",")
    else:
        file = write(MATRICES)
        golden = pathlib.Path(__file__).with_name("v2-small.safetensors")
        if sys.argv[1:]:
            pathlib.Path(sys.argv[1]).write_bytes(file)
        elif golden.read_bytes() != file:
            sys.exit("v2-small.safetensors differs")
        else:
            print("v2-small.safetensors is reproduced byte for byte")
