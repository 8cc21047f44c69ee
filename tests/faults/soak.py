"""Everything at small sizes on two threads for a long time: memory and descriptors stay as they are.

    python tests/faults/soak.py --minutes 60 --log soak.csv

Writes resident memory, descriptors, threads and calls so far every ten seconds. After a sixth of the time, in which
caches and the allocator's arenas fill, resident memory stays within 2 % of its median and the others stay the same;
exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import bqq
from bqq import ann


class Worker(threading.Thread):
    """Calls of every kind, one after the other, each checked a little."""

    def __init__(self, seed: int, folder: Path, end: threading.Event) -> None:
        super().__init__()
        self.rng, self.path, self.end = np.random.default_rng(seed), folder / f"{seed}.safetensors", end
        self.calls, self.error = 0, ""
        self.codec = ann.train(self.rng.standard_normal((500, 16)).astype(np.float32), 9, effort="fast", threads=1)

    def run(self) -> None:
        try:
            while not self.end.is_set():
                self.round()
        except Exception as error:
            self.error = repr(error)
            raise

    def round(self) -> None:
        rng = self.rng
        m, n = (int(x) for x in rng.integers(8, 96, 2))
        W = rng.standard_normal((m, n)).astype(np.float32)
        patch = int(rng.integers(8, 96)) if rng.integers(2) else None
        q = bqq.decompose(W, 2, patch=patch, steps=50, refine=20, threads=2, seed=int(rng.integers(99)))
        longer = bqq.extend(q, W, 3, steps=20, refine=5)
        codebook = bqq.decompose(W[: m // 2 + 1], 1, steps=20, refine=5)
        coded = bqq.encode(codebook, W, effort="fast", threads=2)
        for precision in ("float32", "fast"):
            for batch in (1, 7, 200):
                X = rng.standard_normal((n, batch)).astype(rng.choice(["f2", "f4", "f8"]))
                bqq.matmul(longer, X, precision=precision, threads=2)
                X.T @ longer.T
        items = {"q": longer, "t": longer.T, "c": coded, "x": W, "p": longer.prefix(1)}
        bqq.save(self.path, items, metadata={"m": str(m)})
        with bqq.open(self.path) as file:
            assert (file["q"] @ np.ones(n)).shape == (m,)
        assert np.array_equal(bqq.load(self.path)["x"], W)
        index, X = ann.Index(self.codec), rng.standard_normal((m, 16)).astype(np.float32)
        index.add(X, threads=2)
        index.save(self.path)
        index = ann.open(self.path)
        index.add(X)
        index.remove(index.ids[::2])
        index.search(X, 3, coarse=1, threads=2)
        index.range_search(X, 1.0)
        for wrong in (
            lambda: q @ np.ones(n + 1),
            lambda: bqq.load(self.path.parent),
            lambda: bqq.decompose(W * np.nan, 1),
            lambda: index.search(X * np.inf, 1),
        ):
            try:
                wrong()
            except (ValueError, OSError):
                continue
            raise AssertionError("no error")
        self.calls += 28


def sample(workers: list[Worker], start: float) -> dict[str, int]:
    return {
        "seconds": round(time.monotonic() - start),
        "rss_kB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "calls": sum(worker.calls for worker in workers),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--log", type=Path, help="a CSV file")
    args = parser.parse_args()
    end, start = threading.Event(), time.monotonic()
    rows: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory(prefix="bqq-soak-") as folder:
        workers = [Worker(seed, Path(folder), end) for seed in range(2)]
        for worker in workers:
            worker.start()
        while (left := 60 * args.minutes - (time.monotonic() - start)) > 0 and not any(w.error for w in workers):
            time.sleep(min(10, left))
            rows.append(sample(workers, start))
        end.set()
        for worker in workers:
            worker.join()
    if args.log:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        args.log.write_text("\n".join(lines) + "\n")
    steady = [row for row in rows if row["seconds"] >= 10 * args.minutes]
    memory = [row["rss_kB"] for row in steady]
    middle = statistics.median(memory)
    spread = max(abs(kB - middle) for kB in memory) / middle
    descriptors = {row["descriptors"] for row in steady}
    print(f"{rows[-1]['calls']} calls in {rows[-1]['seconds']} s: resident {middle / 1000:.1f} MB within {spread:.2%},")
    print(f"descriptors {min(descriptors)} to {max(descriptors)}, threads up to {max(r['threads'] for r in steady)}")
    # a sample may come while each thread has a file, its folder or a temporary one open
    flat = spread <= 0.02 and max(descriptors) - min(descriptors) <= 2 * len(workers)
    print("flat" if flat else "not flat", *(f"; {w.error}" for w in workers if w.error))
    return 0 if flat and not any(w.error for w in workers) else 1


if __name__ == "__main__":
    sys.exit(main())
