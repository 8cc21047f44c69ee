"""Error and time of compression: our three efforts, the published schedule, PyTorch, scalar quantisers.

    python -m bench.decompose --quick                     # under three minutes; figures of less weight
    python -m bench.decompose --rd100 FILE --out DIR      # everything: hours, mostly the 384 x 384
    python -m bench.decompose --parts steps               # one part
    python -m bench.decompose --parts scaling --large     # 4096 x 4096 and its memory

Parts: ``errors`` (MSE and time on the matrices of matrices.py), ``steps`` (cost of a descent step by instruction
set), ``scaling`` (time over the number of blocks). Figures are compared as ratios; the last lines say which targets
are met and which are missed. ``--out`` writes CSV files and a picture; what an earlier run on the same machine with
the same versions wrote there and this one did not measure stays, so that a long run can be done in pieces.

MSE on matrices standardised to mean 0 and standard deviation 1; medians over seeds. Uniform quantisation: 2^b levels
with a grid-searched clipping range. Lloyd-Max: the best 2^b free levels. Both store b bits an element and their levels.
Published figures are Table S.4 of the paper; where our matrix is only of the same kind the ratio is for orientation.
PyTorch (torch_amfd.py) is timed over --torch-timing steps, in turns with our published schedule, with the number of
threads that is fastest for it; the seconds of its 50,000 steps are extrapolated from that unless --torch-steps asks for
a full run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.machine import describe, with_earlier, write_csv
from bench.matrices import DATA, LOADERS, Options, cases
from bench.measure_errors import Settings, rows_of_case
from bench.measure_scaling import measure
from bench.targets import judge, report
from bench.time_steps import have_torch, step_costs

FILES = {  # of a part, and what tells its measurements apart
    "errors": ("decompose.csv", ("matrix", "bits", "threads")),
    "steps": ("decompose_steps.csv", ("size", "isa", "threads")),
    "scaling": ("decompose_scaling.csv", ("size", "effort", "threads")),
}
PARTS = tuple(FILES)
Rows = list[dict[str, object]]


def arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer matrices, bits, seeds, steps")
    parser.add_argument("--parts", type=words, default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--matrices", type=words, help=f"default: all but sift_10k of {','.join(LOADERS)}")
    parser.add_argument("--bits", type=numbers, help="default 1,2,3,4")
    parser.add_argument("--threads", type=numbers, help="default 1,2; the first one counts in tables")
    parser.add_argument("--seeds", type=int, help="default 3")
    parser.add_argument("--paper-steps", type=int, help="of schedule='paper'; default 50000, 0 leaves it out")
    parser.add_argument("--torch-timing", type=int, help="PyTorch steps that are timed; default 2000, 0 leaves it out")
    parser.add_argument(
        "--torch-steps", type=int, default=0, help="run PyTorch for so many steps instead of extrapolating"
    )
    parser.add_argument("--large", action="store_true", help="4096 x 4096 at two bits: time and memory")
    parser.add_argument("--rd100", metavar="FILE", help="TSPLIB's rd100.tsp: the paper's Distance matrix")
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="DIR", help="downloaded packages; default bench/data"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write decompose*.csv and decompose.png there")
    args = parser.parse_args()
    for option, known in (("parts", PARTS), ("matrices", tuple(LOADERS))):
        unknown = set(getattr(args, option) or ()) - set(known)
        if unknown:
            parser.error(f"--{option} {','.join(sorted(unknown))}: expected some of {','.join(known)}")
    return args


def plain(row: dict[str, object]) -> str:
    """A row for reading: what is empty is left out."""
    return "  ".join(f"{key} {value}" for key, value in row.items() if value != "" and key != "source")


def main() -> None:
    args = arguments()
    quick = args.quick
    every = [key for key in LOADERS if key != "sift_10k"]
    keys = args.matrices or (["random", "distance", "photo", "student"] if quick else every)
    settings = Settings(
        bits=args.bits or ([1, 2] if quick else [1, 2, 3, 4]),
        threads=args.threads or ([1] if quick else [1, 2]),
        seeds=args.seeds or (1 if quick else 3),
        curve=not quick,
        paper_steps=(5000 if quick else 50_000) if args.paper_steps is None else args.paper_steps,
        torch_timing=(200 if quick else 2000) if args.torch_timing is None else args.torch_timing,
        torch_steps=args.torch_steps,
    )
    settings.torch = settings.torch_timing > 0 and have_torch()
    print(describe())
    tables: dict[str, Rows] = {part: [] for part in PARTS}
    if "errors" in args.parts:
        for case in cases(keys, Options(args.rd100, args.data)):
            print(f"{case.name}: {case.source}", flush=True)
            for row in rows_of_case(case, settings):
                tables["errors"].append(row)
                print(plain(row), flush=True)
    if "steps" in args.parts:
        for threads in settings.threads:
            tables["steps"] += step_costs([64, 128, 384], threads, 3 if quick else 15, settings.torch)
    if "scaling" in args.parts:
        for threads in settings.threads:
            for size in (256, 512, 768) if quick else (512, 1024, 2048):
                tables["scaling"].append(measure(size, 2, "fast", threads))
        if args.large:
            tables["scaling"].append(measure(4096, 2, "default", max(settings.threads), progress=True))
    if args.out is not None:
        for part, (name, keys) in FILES.items():
            tables[part] = with_earlier(args.out / name, tables[part], keys)
    verdicts = list(judge(tables["errors"], tables["steps"], tables["scaling"]))
    report(verdicts)
    if args.out is not None:
        write(args.out, tables, verdicts)


def write(folder: Path, tables: dict[str, Rows], verdicts: Rows) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in tables.items():
        if rows:
            write_csv(folder / FILES[part][0], rows)
    if verdicts:
        write_csv(folder / "decompose_targets.csv", verdicts)
    if tables["errors"]:
        try:
            from bench.plot_curves import draw
        except ImportError:
            print("no picture: pip install matplotlib")
            return
        draw(folder / "decompose.csv", folder / "decompose.png")


if __name__ == "__main__":
    main()
