"""Where installed packages keep their models and photos."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def folder(package: str, wanted: str) -> Path:
    """That of a package, which is not imported; without it the program ends and says what pip should install."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"pip install {wanted}")
    return Path(next(iter(spec.submodule_search_locations)))
