"""Products of ggml's low-bit types, as llama.cpp runs them, through the library inside the xllamacpp package.

pip install xllamacpp
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TYPES = {"Q2_K": 10, "TQ2_0": 35, "Q4_0": 2}  # 2.63, 2.06 and 4.5 bits; TQ2_0 knows only -1, 0 and 1


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_quantize_chunk": (
        c_size_t,
        [c_int, POINTER(c_float), c_void_p, c_int64, c_int64, c_int64, POINTER(c_float)],
    ),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_blck_size": (c_int64, [c_int]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_alloc_ctx_tensors": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
    "ggml_backend_get_device": (c_void_p, [c_void_p]),
    "ggml_backend_dev_backend_reg": (c_void_p, [c_void_p]),
    "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
}


_SILENT = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, data: None)


@cache
def library() -> Any:
    from xllamacpp import xllamacpp

    lib = ctypes.CDLL(xllamacpp.__file__)
    for name, (result, arguments) in FUNCTIONS.items():
        getattr(lib, name).restype, getattr(lib, name).argtypes = result, arguments
    lib.ggml_log_set(_SILENT, None)
    return lib


def _pointer(array: npt.NDArray[Any]) -> Any:
    return array.ctypes.data_as(c_void_p)


class Product:
    """y = W x of W (m x n) in a ggml type and X (n x batch), in a graph of one node."""

    def __init__(self, W: Floats, X: Floats, type_name: str, threads: int) -> None:
        lib = self._lib = library()
        (m, n), batch, kind = W.shape, X.shape[1], TYPES[type_name]
        if n % lib.ggml_blck_size(kind):
            raise ValueError(f"{type_name} needs rows of a multiple of {lib.ggml_blck_size(kind)}, not {n}")
        self._shape = (batch, m)
        self._backend = lib.ggml_backend_cpu_init()
        lib.ggml_backend_cpu_set_n_threads(self._backend, threads)
        self._contexts: list[int] = []
        self._buffers: list[int] = []
        device = lib.ggml_backend_get_device(self._backend)
        for layout in [*self._layouts(device), None]:
            weights, rest = (lib.ggml_init(InitParams(1 << 20, None, True)) for _ in range(2))
            w = lib.ggml_new_tensor_2d(weights, kind, n, m)
            x = lib.ggml_new_tensor_2d(rest, 0, n, batch)
            self._y = lib.ggml_mul_mat(rest, w, x)
            if layout is None:
                buffer = lib.ggml_backend_alloc_ctx_tensors(weights, self._backend)
            else:
                buffer = lib.ggml_backend_alloc_ctx_tensors_from_buft(weights, layout)
            self._contexts += [weights, rest]
            self._buffers += [buffer] if buffer else []
            if buffer and lib.ggml_backend_dev_supports_op(device, self._y):
                break
        self._graph = lib.ggml_new_graph(rest)
        lib.ggml_build_forward_expand(self._graph, self._y)
        self._buffers.append(lib.ggml_backend_alloc_ctx_tensors(rest, self._backend))
        codes = np.empty(lib.ggml_nbytes(w), np.uint8)
        dense = np.ascontiguousarray(W)
        lib.ggml_quantize_chunk(kind, dense.ctypes.data_as(POINTER(c_float)), _pointer(codes), 0, m, n, None)
        lib.ggml_backend_tensor_set(w, _pointer(codes), 0, codes.nbytes)
        columns = np.ascontiguousarray(X.T)
        lib.ggml_backend_tensor_set(x, _pointer(columns), 0, columns.nbytes)

    def _layouts(self, device: int) -> list[int]:
        """Layouts of weights for this CPU, repacked or for AMX; not every type has one in each."""
        lib = self._lib
        name = b"ggml_backend_dev_get_extra_bufts"
        address = lib.ggml_backend_reg_get_proc_address(lib.ggml_backend_dev_backend_reg(device), name)
        found: list[int] = []
        if address:
            for layout in ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device):
                if not layout:
                    break
                found.append(layout)
        return found

    def __call__(self) -> None:
        self._lib.ggml_backend_graph_compute(self._backend, self._graph)

    def result(self) -> Floats:
        out = np.empty(self._shape, np.float32)
        self._lib.ggml_backend_tensor_get(self._y, _pointer(out), 0, out.nbytes)
        return np.ascontiguousarray(out.T)

    def __del__(self) -> None:
        for buffer in getattr(self, "_buffers", []):
            self._lib.ggml_backend_buffer_free(buffer)
        for context in getattr(self, "_contexts", []):
            self._lib.ggml_free(context)
        if hasattr(self, "_backend"):
            self._lib.ggml_backend_free(self._backend)


def maker(type_name: str) -> Callable[[Floats, Floats, int], Callable[[], object]]:
    return lambda W, X, threads: Product(W, X, type_name, threads)


LOW_BITS = {"Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "IQ2_XXS": 16, "IQ2_S": 22}


def rounded(W: Floats, type_name: str, importance: npt.NDArray[Any] | None = None) -> tuple[Floats, float]:
    """W as it comes back from a type of blocks of 256, and its bits per weight; importance: one number a column, the
    mean squares of the inputs. Where rows are no multiple of 256, several of them make one."""
    from gguf import GGMLQuantizationType, dequantize  # of ggml's own project

    lib, kind = library(), LOW_BITS[type_name]
    (m, n), block = W.shape, 256
    rows = next(r for r in range(1, block + 1) if (n * r) % block == 0)
    if m % rows:
        raise ValueError(f"{type_name} needs rows of a multiple of {block}, not {n}")
    dense = np.ascontiguousarray(W, np.float32).reshape(m // rows, n * rows)
    weights = np.ones(n) if importance is None else importance
    tiled = np.ascontiguousarray(np.tile(weights, rows), np.float32)
    context = lib.ggml_init(InitParams(1 << 20, None, True))
    size = lib.ggml_nbytes(lib.ggml_new_tensor_2d(context, kind, n * rows, m // rows))
    lib.ggml_free(context)
    codes = np.empty((m // rows, size // (m // rows)), np.uint8)
    floats = POINTER(c_float)
    lib.ggml_quantize_chunk(
        kind, dense.ctypes.data_as(floats), _pointer(codes), 0, m // rows, n * rows, tiled.ctypes.data_as(floats)
    )
    values = dequantize(codes, GGMLQuantizationType(kind)).reshape(m, n)
    return np.ascontiguousarray(values, np.float32), 8 * codes.nbytes / W.size
