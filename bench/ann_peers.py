"""What else stores vectors in few bytes: FAISS's types and others' libraries, each searched exhaustively by one thread.

    pip install faiss-cpu rabitqlib turbovec scalable-vs usearch

bytes: all that is stored for a vector, factors and norms counted. Each runs in a process of its own, which is stopped
after a while: what has not ended then is written down as that. HNSW stands beside them as what a graph gains and costs:
its links are counted.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.ann_sets import Floats, Vectors, load

UNIT_SETS = ("glove", "minilm", "wordllama")  # TurboQuant and usearch's int8 are made for vectors of norm 1
HNSW_LINKS = 16
TICK = 1e-3  # seconds: less is not measured everywhere


class Peer(NamedTuple):
    name: str
    bytes: int
    make: Callable[[], Any]  # with train, add and search, as FAISS's


def faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def padded(d: int, parts: int) -> tuple[int, str]:
    """A multiple of `parts`, and what brings d dimensions there in FAISS's words."""
    wide = -(-d // parts) * parts
    return wide, "" if wide == d else f"RR{wide},"


def fast_scan(d: int, size: int) -> Any:
    return faiss().index_factory(d, f"{padded(d, 2 * size)[1]}PQ{2 * size}x4fs")


def of_faiss(d: int, size: int) -> Iterator[Peer]:
    made = partial(faiss().index_factory, d)
    wide4, before8 = padded(d, 2 * size)[0], padded(d, size)[1]
    yield Peer("OPQ4fs", size, partial(made, f"OPQ{2 * size}_{wide4},PQ{2 * size}x4fs"))
    yield Peer("PQ8", size, partial(made, f"{before8}PQ{size}x8"))
    yield Peer("RQ4", size, partial(made, f"RQ{2 * size - 2}x4_Nqint8"))
    yield Peer("RQ8", size, partial(made, f"RQ{size - 1}x8_Nqint8"))
    yield Peer("LSQ4", size, partial(made, f"LSQ{2 * size - 2}x4_Nqint8"))
    yield Peer("LSQ8", size, partial(made, f"LSQ{size - 1}x8_Nqint8"))
    for name in (
        "SQ4",
        "SQ6",
        "SQ8",
        *(f"SQtqmse{bits}" for bits in (1, 2, 3, 4)),
        *(f"SQtq{bits}" for bits in (2, 3, 4)),
    ):
        before = "" if name in ("SQ4", "SQ6", "SQ8") else f"RR{d},"  # TurboQuant's types want a rotation
        index = made(name)
        yield Peer(name, index.code_size, partial(made, before + name))
    for bits in (1, 2, 3, 4):
        for name in ("RaBitQ", "RaBitQfs"):
            factory = f"{name}{bits}" if bits > 1 else name
            yield Peer(f"{name}{bits}", made(factory).code_size, partial(made, f"RR{d},{factory}"))


def graphs(d: int) -> Iterator[Peer]:
    def graph(name: str) -> Any:
        index = faiss().index_factory(d, f"HNSW{HNSW_LINKS},{name}")
        index.hnsw.efSearch = 64
        return index

    for name, size in (("Flat", 4 * d), ("SQ8", d), ("SQ4", -(-d // 2))):
        yield Peer(f"HNSW{HNSW_LINKS} {name}", size + 4 * 2 * HNSW_LINKS, partial(graph, name))


class RaBitQLib:
    """rabitqlib's inverted lists, all of them visited."""

    LISTS = 16

    def __init__(self, d: int, bits: int) -> None:
        self.d, self.bits = -(-d // 64) * 64, bits  # it takes multiples of 64

    def train(self, X: Floats) -> None:
        X = self._padded(X)
        self.kmeans = faiss().Kmeans(self.d, self.LISTS, seed=0)
        self.kmeans.train(X)

    def add(self, X: Floats) -> None:
        from rabitqlib import IvfIndex

        X = self._padded(X)
        self.index = IvfIndex(self.d, len(X), self.LISTS, self.bits)
        lists = self.kmeans.index.search(X, 1)[1][:, 0].astype(np.uint32)
        self.index.build(X, self.kmeans.centroids, lists, num_threads=1)

    def search(self, Q: Floats, k: int) -> Any:
        found = self.index.search(self._padded(Q), k, self.LISTS, num_threads=1)
        return next((a, b) for a, b in (found, found[::-1]) if np.issubdtype(np.asarray(b).dtype, np.integer))

    def _padded(self, X: Floats) -> Floats:
        return np.pad(X, ((0, 0), (0, self.d - X.shape[1])))

    def stored(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self.index.save(str(path))
            return path.stat().st_size


class TurboVec:
    def __init__(self, d: int, bits: int) -> None:
        from turbovec import TurboQuantIndex

        self.more = -d % 8  # it takes multiples of 8
        self.index = TurboQuantIndex(d + self.more, bits)

    def train(self, X: Floats) -> None:
        pass

    def add(self, X: Floats) -> None:
        self.index.add(np.pad(X, ((0, 0), (0, self.more))))

    def search(self, Q: Floats, k: int) -> Any:
        return self.index.search(np.pad(Q, ((0, 0), (0, self.more))), k)

    def stored(self) -> int:
        return len(self.index.to_bytes())


class Lvq:
    """scalable-vs, flat, 8 bits."""

    def train(self, X: Floats) -> None:
        pass

    def add(self, X: Floats) -> None:
        import svs

        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/base.fvecs"
            np.hstack([np.full((len(X), 1), X.shape[1], np.int32).view(np.float32), X]).tofile(path)
            self.index = svs.Flat(
                svs.LVQLoader(svs.VectorDataLoader(path, svs.DataType.float32), 8), svs.DistanceType.L2
            )

    def search(self, Q: Floats, k: int) -> Any:
        return self.index.search(Q, k)[::-1]


class USearch:
    """usearch's exact search of vectors in int8: its types take values of -1 to 1."""

    def train(self, X: Floats) -> None:
        pass

    def add(self, X: Floats) -> None:
        self.base = np.rint(127 * X).astype(np.int8)

    def search(self, Q: Floats, k: int) -> Any:
        from usearch.index import search

        found = search(self.base, np.rint(127 * Q).astype(np.int8), k, "ip", exact=True, threads=1)
        return found.distances, found.keys.astype(np.int64)


def of_others(d: int, units: bool) -> Iterator[Peer]:
    if find_spec("rabitqlib"):
        for bits in (1, 2, 3, 4):
            yield Peer(f"rabitqlib {bits}", 0, partial(RaBitQLib, d, bits))
    if units and find_spec("turbovec"):
        for bits in (2, 3, 4):
            yield Peer(f"turbovec {bits}", 0, partial(TurboVec, d, bits))
    if find_spec("svs"):
        yield Peer("svs LVQ8", d + 8, Lvq)
    if units and find_spec("usearch"):
        yield Peer("usearch int8", d, USearch)


def peers(name: str, d: int, size: int) -> dict[str, Peer]:
    """Those of at most `size` bytes; with size 0 those whose bytes do not depend on it, and graphs."""
    if size:
        found = [p for p in of_faiss(d, size) if p.bytes == size and p.name[:3] in ("OPQ", "PQ8", "RQ4", "RQ8", "LSQ")]
    else:
        units = name in UNIT_SETS
        found = [p for p in of_faiss(d, 16) if p.name[:2] == "SQ" or p.name[:3] == "RaB"]
        found = [p for p in found if units or not p.name.startswith("SQtq")]
        found += [*of_others(d, units), *graphs(d)]
    return {p.name: p for p in found}


def recalls(ids: Any, nearest: Any) -> tuple[float, float]:
    """Of the true 10 nearest, how many are among the 10 found; whether the true nearest is."""
    ten = np.mean([len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(ids.tolist(), nearest.tolist(), strict=True)])
    return float(ten), float((np.asarray(ids)[:, :10] == nearest[:, :1]).any(1).mean())


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor's seconds it takes."""
    start = time.process_time()
    value = job()
    return value, time.process_time() - start


def row(v: Vectors, ids: Any, search_s: float, encode_s: float, train_s: float) -> dict[str, object]:
    ten, one = recalls(np.asarray(ids).astype(np.int64), v.nearest)
    return {
        "recall": f"{ten:.4f}",
        "recall1": f"{one:.4f}",
        "queries_s": f"{len(v.queries) / max(search_s, TICK):.0f}",
        "encode_s": f"{len(v.base) / max(encode_s, TICK):.0f}",
        "train": f"{train_s:.1f}",
    }


def measure(name: str, data: Path, size: int, method: str) -> dict[str, object]:
    v = load(name, data)
    peer = peers(name, v.base.shape[1], size)[method]
    index = peer.make()
    train_s = timed(partial(index.train, v.train))[1]
    encode_s = timed(partial(index.add, v.base))[1]
    runs = [timed(partial(index.search, v.queries, 10))]
    while len(runs) < 3 and sum(seconds for _, seconds in runs) < 2:
        runs.append(timed(partial(index.search, v.queries, 10)))
    search_s = float(np.median([seconds for _, seconds in runs]))
    true = peer.bytes or round(index.stored() / len(v.base))
    start = {"set": name, "method": method, "bytes": true, "seed": 0}
    return start | row(v, runs[0][0][1], search_s, encode_s, train_s)


def _measure_into(sender: Any, seconds: int, *args: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    sender.send(measure(*args))


def limited(name: str, data: Path, size: int, method: str, seconds: int) -> dict[str, object]:
    """:func:`measure` in a process of its own; no recall if it takes the processor longer than that."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure_into, args=(sender, seconds, name, data, size, method))
    process.start()
    sender.close()
    try:
        return dict(receiver.recv())
    except EOFError:
        process.join()
        why = f"not within {seconds} s" if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL) else "failed"
    finally:
        process.kill()
        process.join()
    return {"set": name, "method": method, "bytes": size, "seed": 0, "note": why}
