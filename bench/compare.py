"""Two commits against each other: how much slower one is, or whether they compute the same.

    python -m bench.compare main                                  # HEAD against main: products and searches
    python -m bench.compare main . --bench matmul --limit 1.03    # what is in the working tree; status 1 if slower
    python -m bench.compare 0dcb448 HEAD --bench hashes           # status 1 where a bit differs

Both are built with the same compiler into build/compare/, once for each commit, and measured by the code of this
checkout through public functions: the other commit needs no benchmarks. Rounds are interleaved, each in a fresh process
pinned to the same cores; a row is the median over rounds of the ratio HEAD / BASE, with the lowest and the highest.
Times are CPU time on one thread, wall time on more. --bench hashes runs every instruction set of this machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import ROOT, commit, describe, write_csv

CACHE = ROOT / "build" / "compare"
BENCHES = ("matmul", "decompose", "hashes")
Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Build:
    """A bqq to measure: the folder it is installed in, or None for the one of this Python."""

    name: str
    site: Path | None = None

    def run(self, bench: str, threads: int = 1, quick: bool = False, isa: str | None = None) -> dict[str, Any]:
        """What bench.compare_round prints in a process of its own."""
        env = {**os.environ, **({"BQQ_ISA": isa} if isa else {})}
        if self.site is not None:
            env["PYTHONPATH"] = str(self.site)
        site = None if self.site is None else str(self.site)
        asked = json.dumps({"bench": bench, "site": site, "threads": threads, "quick": quick})
        command = [sys.executable, "-m", "bench.compare_round", asked]
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}: a round of {bench} ended with {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def build(revision: str) -> Build:
    """The package of a commit, or of the working tree if `revision` is "."; built unless it is there."""
    if revision == ".":
        site = CACHE / "working-tree"
        shutil.rmtree(site, ignore_errors=True)
        _install(ROOT, site)
        return Build(f"{commit() or 'the working tree'}", site)
    sha = git("rev-parse", "--verify", "--short=12", f"{revision}^{{commit}}")
    site = CACHE / f"{sha}-{sys.implementation.cache_tag}"
    if not site.exists():
        source = CACHE / f"source-{sha}"
        shutil.rmtree(source, ignore_errors=True)  # of a run that was killed
        git("worktree", "prune")
        git("worktree", "add", "--force", "--detach", str(source), sha)
        try:
            _install(source, site)
        finally:
            git("worktree", "remove", "--force", str(source))
    return Build(sha, site)


def _install(source: Path, site: Path) -> None:
    """pip install into a folder of its own, for the CPU alone; whole or not at all."""
    print(f"building {source} ...", flush=True)
    here = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11", "cmeel", "nlohmann_json"))
    part = site.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part), str(source)]
    command += ["-Ccmake.define.BQQ_CUDA=OFF", *(["--no-build-isolation"] if here else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source} cannot be built:\n{done.stdout}")
    part.rename(site)


def compare_times(base: Build, head: Build, bench: str, rounds: int, threads: int, quick: bool = False) -> Rows:
    """A row for each measurement both know: medians, and the ratios of rounds that follow each other."""
    times: list[tuple[dict[str, float], dict[str, float]]] = []
    for done in range(rounds):
        times.append((base.run(bench, threads, quick), head.run(bench, threads, quick)))
        print(f"{bench}: round {done + 1} of {rounds}", flush=True)
    rows: Rows = []
    for name in (name for name in times[0][0] if name in times[0][1]):
        ratios = [b[name] / a[name] for a, b in times]
        row: dict[str, object] = {"bench": bench, "row": name, "threads": threads, "rounds": rounds}
        row |= {"base": base.name, "base_us": f"{1e6 * median(a[name] for a, _ in times):.2f}"}
        row |= {"head": head.name, "head_us": f"{1e6 * median(b[name] for _, b in times):.2f}"}
        row |= {"ratio": f"{median(ratios):.4f}", "lowest": f"{min(ratios):.4f}", "highest": f"{max(ratios):.4f}"}
        rows.append(row)
    return rows


def compare_hashes(base: Build, head: Build, isas: Sequence[str], quick: bool = False) -> Rows:
    """A row for each hash both know, on each instruction set."""
    rows: Rows = []
    for isa in isas:
        a, b = base.run("hashes", quick=quick, isa=isa), head.run("hashes", quick=quick, isa=isa)
        for name in (name for name in a if name in b):
            row: dict[str, object] = {"bench": "hashes", "row": name, "isa": isa}
            row |= {"base": base.name, "base_hash": a[name], "head": head.name, "head_hash": b[name]}
            rows.append(row | {"same": a[name] == b[name]})
        print(f"hashes, {isa}: {sum(row['isa'] == isa for row in rows)} compared", flush=True)
    return rows


def report_times(rows: Rows, limit: float | None) -> int:
    """Prints the table; how many rows are over the limit."""
    print(f"\n{'':46} {'base us':>11} {'head us':>11}  ratio  lowest highest")
    over = 0
    for row in rows:
        slower = limit is not None and float(str(row["ratio"])) > limit
        over += slower
        times = f"{row['base_us']:>11} {row['head_us']:>11} {row['ratio']:>7} {row['lowest']:>7} {row['highest']:>7}"
        print(f"{row['row']:46} {times}{'  over the limit' * slower}")
    print(f"\n{len(rows)} rows, median ratio {median(float(str(row['ratio'])) for row in rows):.4f}")
    if limit is not None:
        print(f"{over} over the limit of {limit:g}")
    return over


def report_hashes(rows: Rows) -> int:
    """Prints what differs; how many rows that is."""
    wrong = [row for row in rows if not row["same"]]
    for row in wrong:
        print(f"differs on {row['isa']}: {row['row']}")
    print(f"{len(rows)} hashes, {len(wrong)} differ")
    return len(wrong)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    description = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=description)
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD", help='another, "." for the working tree')
    parser.add_argument("--bench", type=lambda text: text.split(","), default=["matmul", "decompose"], metavar="NAMES")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, help="status 1 if the median ratio of a row is higher")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    args = parser.parse_args(given)
    unknown = set(args.bench) - set(BENCHES)
    if unknown:
        parser.error(f"--bench {','.join(sorted(unknown))}: expected some of {','.join(BENCHES)}")
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads: expected 1 or more")
    return args


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    base, head = build(args.base), build(args.head)
    config = base.run("config")
    print(f"{describe()}\nbase {base.name}, head {head.name}; {config['isa']}, {args.threads} thread(s)", flush=True)
    rows, failed = [], 0
    for bench in args.bench:
        if bench == "hashes":
            found = compare_hashes(base, head, config["isa_available"].split(), args.quick)
            failed += report_hashes(found)
        else:
            found = compare_times(base, head, bench, args.rounds, args.threads, args.quick)
            failed += report_times(found, args.limit)
        rows += found
    if args.csv:
        write_csv(args.csv, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
