"""What a release is made of, as CycloneDX 1.5: python tools/sbom.py --out bqq.cdx.json

Header libraries are compiled in (their pins, with hashes: third_party/requirements.txt), the packages of
`[project] dependencies` are asked for on installation, those of `[build-system] requires` made the wheel.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LICENCES = {"cmeel-eigen": "MPL-2.0", "nlohmann-json": "MIT", "numpy": "BSD-3-Clause", "tqdm": "MPL-2.0 AND MIT"}
LICENCES |= {"pybind11": "BSD-3-Clause", "scikit-build-core": "Apache-2.0"}


def version() -> str:
    found = re.search(r"project\(bqq VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())
    assert found is not None
    return found[1]


def requirements(section: str, key: str) -> dict[str, str]:
    """Name and what comes behind it, of a list in pyproject.toml; read as text, since Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text().split(f"[{section}]", 1)[1]
    listed = re.search(rf"^{key} = \[([^\]]*)\]", text, re.M)
    assert listed is not None
    words = re.findall(r'"([A-Za-z0-9_.-]+)([^"]*)"', listed[1])
    return dict(words)


def component(name: str, specifier: str, scope: str, hashes: list[str]) -> dict[str, Any]:
    exact = specifier.removeprefix("==") if specifier.startswith("==") else ""
    part: dict[str, Any] = {
        "type": "library",
        "name": name,
        "bom-ref": name,
        "scope": scope,
        "purl": f"pkg:pypi/{name}" + (f"@{exact}" if exact else ""),
        "licenses": [{"expression": LICENCES[name]}],
        "properties": [{"name": "bqq:requirement", "value": name + specifier}],
    }
    if exact:
        part["version"] = exact
    if hashes:
        part["hashes"] = [{"alg": "SHA-256", "content": content} for content in hashes]
    return part


def bill() -> dict[str, Any]:
    pins = (ROOT / "third_party" / "requirements.txt").read_text()
    hashes = {name: re.findall(rf"^{name}==.*$", pins, re.M) for name in LICENCES}
    digests = {name: re.findall(r"sha256:([0-9a-f]{64})", " ".join(lines)) for name, lines in hashes.items()}
    needed = requirements("project", "dependencies")
    built = requirements("build-system", "requires")
    parts = [component(name, spec, "required", digests[name]) for name, spec in sorted(needed.items())]
    for name, specifier in sorted(built.items()):  # headers are in the binary, the rest made it
        compiled = bool(digests[name]) or name == "pybind11"
        parts.append(component(name, specifier, "required" if compiled else "excluded", digests[name]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "name": "bqq",
                "bom-ref": "bqq",
                "version": version(),
                "purl": f"pkg:pypi/bqq@{version()}",
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": parts,
        "dependencies": [{"ref": "bqq", "dependsOn": [part["name"] for part in parts if part["scope"] == "required"]}],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="default: standard output")
    args = parser.parse_args()
    text = json.dumps(bill(), indent=2) + "\n"
    args.out.write_text(text) if args.out else sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
