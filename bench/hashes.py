"""Hashes of 40 decompositions and of products: two builds that print the same lines compute the same.

    python -m bench.hashes                       # with the installed bqq; BQQ_ISA=avx2 for another instruction set
    python -m bench.compare BASE --bench hashes  # two commits, on every instruction set of this machine

Bits, scales, transposes, prefixes, errors and dense matrices of decompositions of all kinds of matrices, options and
weights, and of extensions of them; products of every shape of batch, type and precision. A few seconds, a minute with
BQQ_ISA=generic.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import bqq
from bench.inputs import fast_class, random_matrix

Array = npt.NDArray[np.float32]
FAST = {"effort": "fast"}
CASES: tuple[tuple[str, int, int, int, dict[str, Any]], ...] = (  # matrix, m, n, p, options
    ("gauss", 64, 64, 1, {}),
    ("gauss", 64, 96, 2, FAST),
    ("student", 96, 64, 2, FAST),
    ("smooth", 100, 100, 1, {}),
    ("smooth", 80, 70, 3, FAST),
    ("constant", 40, 30, 2, FAST),
    ("low rank", 64, 80, 2, FAST),
    ("offset", 48, 64, 2, FAST),
    ("gauss", 1, 50, 1, FAST),
    ("gauss", 50, 1, 2, FAST),
    ("gauss", 7, 5, 3, FAST),
    ("gauss", 130, 70, 1, FAST | {"patch": 64}),
    ("gauss", 257, 129, 1, {"steps": 60, "refine": 20}),
    ("gauss", 600, 300, 1, {"steps": 20, "refine": 5}),
    ("student", 64, 64, 1, {"effort": "best", "refine": 600, "steps": 400}),
    ("gauss", 48, 48, 1, {"effort": "best", "patch": 24}),
    ("gauss", 64, 64, 1, {"schedule": "paper", "steps": 500}),
    ("smooth", 60, 60, 2, {"schedule": "paper", "steps": 400, "refine": 100}),
    ("smooth", 60, 60, 1, {"schedule": "paper", "steps": 300, "refine": True, "effort": "fast"}),
    ("gauss", 64, 64, 2, {"refine": False, "steps": 300}),
    ("gauss", 64, 64, 1, {"refine": 50, "steps": 10}),
    ("gauss", 64, 64, 1, {"seed": 2**64 - 1, "steps": 50, "refine": 30}),
    ("gauss", 64, 64, 2, FAST | {"l": 8}),
    ("gauss", 64, 64, 1, {"l": 64, "effort": "default"}),
    ("gauss", 40, 40, 1, {"l": 100, "steps": 100, "refine": 100}),
    ("gauss", 64, 64, 2, FAST | {"weight": "diagonal"}),
    ("gauss", 64, 64, 2, FAST | {"weight": "full"}),
    ("student", 96, 160, 1, FAST | {"weight": "full", "patch": 64}),
    ("gauss", 64, 130, 2, FAST | {"weight": "full", "patch": 48, "damping": 0.1}),
    ("low rank", 70, 70, 1, {"weight": "diagonal", "patch": 35, "steps": 100, "refine": 200}),
    ("smooth", 64, 64, 1, {"weight": "full", "steps": 200, "refine": 300}),
    ("gauss", 128, 128, 1, {"steps": 200, "refine": 300}),
    ("gauss", 128, 128, 2, FAST | {"refine": 100, "steps": 100}),
    ("student", 33, 47, 4, FAST),
    ("gauss", 17, 200, 2, FAST | {"patch": 50}),
    ("smooth", 200, 17, 2, FAST | {"patch": 50}),
    ("low rank", 64, 64, 1, {}),
    ("smooth", 128, 32, 1, {}),
    ("gauss", 64, 64, 4, FAST | {"seed": 7}),
    ("gauss", 70, 60, 1, FAST | {"l": 3}),
)
PRODUCTS = (  # m, n, p, J, K, l
    (64, 64, 2, 1, 1, 32),
    (300, 500, 3, 3, 4, 56),
    (1000, 700, 4, 8, 6, 57),
    (97, 33, 1, 1, 1, 25),
    (600, 600, 4, 2, 2, 150),
    (130, 1030, 2, 4, 32, 9),
    (1024, 512, 4, 8, 4, 64),
)
BATCHES = (0, 1, 2, 3, 5, 8, 9, 16, 40, 64, 130, 300)  # 0: a vector


def of(*arrays: npt.ArrayLike) -> str:
    """Of their bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def matrix(kind: str, m: int, n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    if kind == "gauss":
        W = rng.standard_normal((m, n))
    elif kind == "student":
        W = rng.standard_t(3, (m, n))
    elif kind == "smooth":
        W = np.linalg.norm(rng.random((m, 2))[:, None] - rng.random((n, 2))[None], axis=2)
    elif kind == "constant":
        W = np.full((m, n), 0.75)
    elif kind == "low rank":
        W = rng.standard_normal((m, 3)) @ rng.standard_normal((3, n))
    else:
        W = 1e4 + rng.standard_normal((m, n))
    return W.astype(np.float32)


def weight(n: int, seed: int, kind: str) -> Array:
    rng = np.random.default_rng(seed + 1000)
    X = rng.standard_normal((3 * n, n)) * rng.random(n) * 2 + 0.3
    H: Array = (X.T @ X).astype(np.float32)
    return H if kind == "full" else np.ascontiguousarray(np.diag(H))


def decompositions(numbers: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(what, hash) of these of CASES, each with one stack more."""
    for i in numbers:
        kind, m, n, p, given = CASES[i]
        options = dict(given)
        W = matrix(kind, m, n, i)
        if "weight" in options:
            options["weight"] = weight(n, i, options["weight"])
        q = bqq.decompose(W, p, **options)
        more = {name: value for name, value in options.items() if name not in ("l", "patch")}
        longer = bqq.extend(q, W, p + 1, **(more | {"steps": 20, "refine": 10}))
        made = [a for x in (q, longer, q.T) for a in (x.Y, x.Z, x.scales)]
        words = " ".join(f"{name}={value}" for name, value in given.items())
        yield (
            f"decompose {i}: {kind} {m}x{n} p={p} {words}".strip(),
            of(*made, q.prefix(1).scales, [q.error(W)], q.reconstruct()),
        )


def products(shapes: Sequence[tuple[int, int, int, int, int, int]]) -> Iterator[tuple[str, str]]:
    """(what, hash) of these products: from both sides, of three types, on one thread and on all."""
    for m, n, p, J, K, l in shapes:
        rng = np.random.default_rng([m, n, p])
        q = random_matrix(rng, m, n, p, J, K, l)
        for batch in BATCHES:
            for precision in ("float32", fast_class()):
                out: list[Any] = []
                for dtype in (np.float32, np.float64, np.float16):
                    X = rng.standard_normal((n, batch) if batch else n).astype(dtype)
                    V = rng.standard_normal((batch, m) if batch else m).astype(dtype)
                    for threads in (None, 1):
                        out += [bqq.matmul(q, X, precision=precision, threads=threads)]
                        out += [bqq.matmul(V, q, precision=precision, threads=threads)]
                name = "fast" if precision != "float32" else precision
                yield f"matmul {m}x{n} p={p} l={l} batch {batch} {name}", of(*out)


def lines(quick: bool = False) -> Iterator[tuple[str, str]]:
    """(what, hash), all of them or a few that take no second."""
    yield from decompositions((8, 9, 10) if quick else range(len(CASES)))
    yield from products(PRODUCTS[3:4] if quick else PRODUCTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small ones")
    for what, found in lines(parser.parse_args().quick):
        print(f"{found}  {what}", flush=True)


if __name__ == "__main__":
    main()
