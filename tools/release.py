"""Everything a release consists of, from a clean checkout of its tag, into one folder.

    python tools/release.py --tag v0.2.0 --out release

1. The tag is the version of CMakeLists.txt, and CHANGELOG.md begins with it and a date: its section becomes notes.md.
2. bqq-VERSION.tar.gz (the sdist), and a wheel of this machine built from it alone; on Linux repaired by auditwheel.
3. The wheel is installed into an empty environment and multiplies.
4. abi.txt: what abidiff says of the shared library against that of the last tag. While BQQ_ABI_VERSION is the same,
   something gone ends the release, and so does something changed that the changelog does not speak of.
5. docs.tar.gz: the site, built strictly. sbom.*: what tools/sbom.py writes, if it is there. SHA256SUMS.

Needs: pip install '.[docs,release]', CMake, a C++ compiler, abidiff (Debian: abigail-tools). Without --tag the working
tree is built, and what is wrong with the tag or the changelog is said without an end: to try it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST_WHEEL = 4_000_000  # bytes, without CUDA
TRY = """
import bqq, numpy
print(bqq.__version__, (bqq.decompose(numpy.eye(64), p=1, effort="fast") @ numpy.ones(64)).sum())
"""


class Wrong(Exception):
    """What must not be released."""


def run(*command: str | Path, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run([str(c) for c in command], cwd=cwd, text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise Wrong(f"{command[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def version() -> str:
    found = re.search(r"project\(bqq VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())
    assert found
    return found[1]


def notes(changelog: str, number: str) -> str:
    """The section of a version, which must be the first one and have a date."""
    sections = re.split(r"^## ", changelog, flags=re.M)[1:]
    first = sections[0].split("\n", 1) if sections else [""]
    if not re.fullmatch(rf"{re.escape(number)} \(\d{{4}}-\d\d-\d\d\)", first[0].strip()):
        raise Wrong(f"CHANGELOG.md begins with '## {first[0].strip()}', expected '## {number} (YYYY-MM-DD)'")
    if not first[1].strip():
        raise Wrong(f"CHANGELOG.md says nothing of {number}")
    return first[1].strip() + "\n"


def check_tag(tag: str | None) -> str:
    """The notes of the release."""
    number = version()
    if tag != f"v{number}":
        raise Wrong(f"the tag is {tag}, but CMakeLists.txt says {number}: expected v{number}")
    if run("git", "status", "--porcelain").stdout.strip():
        raise Wrong("the working tree has changes that are not committed")
    return notes((ROOT / "CHANGELOG.md").read_text(), number)


def sdist_and_wheel(out: Path, work: Path) -> Path:
    run(sys.executable, "-m", "build", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "sdist", filter="data")
    (source,) = (work / "sdist").iterdir()
    no_cuda = "-Ccmake.define.BQQ_CUDA=OFF"
    run(sys.executable, "-m", "build", "--wheel", no_cuda, "--outdir", work / "wheel", source, cwd=source)
    (wheel,) = (work / "wheel").glob("*.whl")
    if sys.platform == "linux":
        run(sys.executable, "-m", "auditwheel", "repair", "-w", out, wheel)
    else:
        shutil.copy(wheel, out)
    (wheel,) = out.glob("*.whl")
    if wheel.stat().st_size > LARGEST_WHEEL:
        raise Wrong(f"{wheel.name} has {wheel.stat().st_size} bytes, expected at most {LARGEST_WHEEL}")
    return wheel


def try_wheel(wheel: Path, work: Path) -> None:
    venv.create(work / "venv", with_pip=True)
    python = work / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=work)
    print(run(python, "-c", TRY, cwd=work).stdout, end="")


def shared_library(source: Path, build: Path) -> Path:
    """libbqq of a source tree, with debugging information: what abidiff reads types from."""
    # The ABI is the same on every level; little optimisation saves minutes.
    flags = ["-DCMAKE_BUILD_TYPE=Debug", "-DBQQ_CUDA=OFF", "-DCMAKE_CXX_FLAGS=-Og -g"]
    run("cmake", "-S", source, "-B", build, *flags)
    run("cmake", "--build", build, "--target", "bqq_shared", "--parallel", str(os.cpu_count() or 1))
    return next(build.glob("libbqq.so.*.*"))


def abi_report(out: Path, work: Path, before: str | None) -> None:
    """abi.txt, and an end where programs break."""
    before = before or next(iter(previous_tags()), None)
    if before is None:
        (out / "abi.txt").write_text("There is no earlier tag to compare with.\n")
        return
    if shutil.which("abidiff") is None:
        raise Wrong("abidiff not found: apt-get install abigail-tools")
    old, new = work / "before", work / "after"
    run("git", "worktree", "add", "--detach", old, before)
    try:
        libraries = shared_library(old, work / "build-before"), shared_library(ROOT, new)
        headers = [f"--headers-dir{i}" for i in (1, 2)]
        folders = [old / "cpp" / "include", ROOT / "cpp" / "include"]
        options: Sequence[str | Path] = [word for pair in zip(headers, folders, strict=True) for word in pair]
        done = run("abidiff", *options, *libraries, check=False)
        old_ones = run("abidiff", "--no-added-syms", *options, *libraries, check=False)
        same = abi_version(old) == abi_version(ROOT)
    finally:
        run("git", "worktree", "remove", "--force", old)
    text = f"{before} -> {version()}\n{done.stdout or 'The binary interface is the same.'}\n"
    (out / "abi.txt").write_text(text)
    said = out / "notes.md"
    if same:
        judge_abi(old_ones.returncode, old_ones.stdout + old_ones.stderr, said.read_text() if said.exists() else "")


def judge_abi(code: int, report: str, said: str) -> None:
    """Ends a release that breaks programs while BQQ_ABI_VERSION is the same.

    code: abidiff's exit code without added symbols, a sum of 1 and 2 (it failed), 4 (something that was there has
    changed, as a structure that grows at its end does), 8 (something is gone). said: the notes of the release.
    """
    if code & 3:
        raise Wrong(f"abidiff failed\n{report}")
    if code & 8:
        raise Wrong(f"programs of the last release break, but BQQ_ABI_VERSION is the same\n{report}")
    if code & 4 and "ABI" not in said:
        raise Wrong(
            "the binary interface of the last release has changed, but BQQ_ABI_VERSION is the same: raise it or, if "
            f"programs keep working, say why in the changelog, with the word ABI\n{report}"
        )


def abi_version(source: Path) -> str:
    found = re.search(r"define BQQ_ABI_VERSION (\d+)", (source / "cpp" / "include" / "bqq" / "bqq.h").read_text())
    assert found
    return found[1]


def previous_tags() -> list[str]:
    """Tags of releases before this commit, the newest first."""
    found = run("git", "tag", "--list", "v*", "--merged", "HEAD^", "--sort=-version:refname", check=False)
    return found.stdout.split()


def docs_and_sbom(out: Path, work: Path) -> None:
    run(sys.executable, ROOT / "docs" / "build.py", work / "site")
    with tarfile.open(out / "docs.tar.gz", "w:gz") as archive:
        archive.add(work / "site", "bqq-docs")
    sbom = ROOT / "tools" / "sbom.py"
    if sbom.exists():
        run(sys.executable, sbom, "--out", out)
    else:
        print("no tools/sbom.py: no list of materials", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tag", help="vX.Y.Z; default: try the working tree")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet, or empty")
    parser.add_argument("--before", help="commit to compare the ABI with; default: the last tag")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    if out.exists() and any(out.iterdir()):
        parser.error(f"--out {given.out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    try:
        try:
            (out / "notes.md").write_text(check_tag(given.tag))
        except Wrong as error:
            if given.tag:
                raise
            print(f"not a release: {error}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            try_wheel(sdist_and_wheel(out, work), work)
            abi_report(out, work, given.before)
            docs_and_sbom(out, work)
    except Wrong as error:
        sys.exit(f"no release: {error}")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.iterdir())]
    (out / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")


if __name__ == "__main__":
    main()
