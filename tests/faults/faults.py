"""Randomised faults: processes that are killed, full disks, limits, signals, files that others cut short.

    python tests/faults/faults.py --runs 208 --seed 0

Each run does something with bqq in a process of its own while something goes wrong. Its outcome has to be a finished
result or an error of a type that is documented; the old file, or the new one, is whole; and after the next save nothing
else lies beside it. Prints a line for each kind and the count; exit code 1 if a run lost anything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import bqq

# What a child may say: the last line of its output is "done" or the name of an exception of these.
START = """
import json, os, resource, signal, sys, threading, time
import numpy as np
import bqq
path, arg = sys.argv[1], json.loads(sys.argv[2])
rng = np.random.default_rng(arg.get("seed", 0))
def items(k):
    return {"x": np.full(arg.get("size", 100_000), k, np.float32), "w": Q}
def as_nobody():  # what root may do anyway is no fault; the interpreter itself may lie where only root reads
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
Q = bqq.decompose(np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32), 2, steps=5, refine=False)
X = np.ones((48, 20), np.float32)
def attempt(call):
    try:
        call()
    except (OSError, MemoryError, bqq.FormatError) as error:
        print(type(error).__name__, flush=True)
        return False
    return True
print("ready", flush=True)
"""
END = "\nprint('done', flush=True)\n"
ERRORS = ("done", "OSError", "FileNotFoundError", "PermissionError", "MemoryError", "FormatError", "InterruptedError")

SAVING = "k = 0\nwhile True:\n    bqq.save(path, items(k := k + 1))\n"


class Run:
    """One run: its random numbers and its folder."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        self.rng, self.folder, self.path = rng, folder, folder / "q.safetensors"
        self.old = np.full(1000, -1, np.float32)
        bqq.save(self.path, {"x": self.old})

    def start(self, code: str, **arg: object) -> subprocess.Popen[str]:
        arg.setdefault("seed", self.rng.randrange(2**32))
        command = [sys.executable, "-X", "faulthandler", "-c", START + code + END, str(self.path), json.dumps(arg)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)
        return child

    def wait_until_ready(self, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        line = child.stdout.readline()
        if line.strip() != "ready":
            child.kill()
            raise AssertionError(f"did not start: {line!r} {child.communicate()[1]}")

    def finish(self, child: subprocess.Popen[str], codes: tuple[int, ...] = (0,)) -> str:
        """The last line of the output of a child that ends well."""
        try:
            out, err = child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            child.kill()
            raise AssertionError(f"hangs: {child.communicate()}") from None
        assert child.returncode in codes, f"ended with {child.returncode}: {out[-500:]}{err[-3000:]}"
        last = ([""] + out.split())[-1]
        assert child.returncode != 0 or last in ERRORS, f"said {last!r}: {out[-500:]}{err[-3000:]}"
        assert not any(word in err for word in ("terminate called", "Fatal")), err
        return last

    def pause(self, seconds: float) -> None:
        time.sleep(self.rng.random() * seconds)

    def check(self, whole: Callable[[dict[str, object]], bool] | None = None) -> None:
        """The file is the old one or a new one, and the next save leaves nothing beside it."""
        found = bqq.load(self.path)
        x = np.asarray(found["x"]) if "x" in found else np.zeros(1)
        assert (whole and whole(found)) or (x == x[0]).all(), "the file is neither the old one nor a new one"
        bqq.save(self.path, {"x": self.old})
        assert os.listdir(self.folder) == [self.path.name], os.listdir(self.folder)


def killed(run: Run, number: int) -> None:
    child = run.start(SAVING, size=run.rng.choice([10_000, 300_000, 3_000_000]))
    run.wait_until_ready(child)
    run.pause(0.2)
    child.send_signal(number)
    child.communicate()
    assert child.returncode == -number, child.returncode
    run.check()


def kill_while_saving(run: Run) -> None:
    killed(run, signal.SIGKILL)


def sigterm_while_saving(run: Run) -> None:
    killed(run, signal.SIGTERM)


def command_line(run: Run, number: int, codes: tuple[int, ...]) -> None:
    source = run.folder.with_name(run.folder.name + ".npy")
    np.save(source, np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32))
    command = [sys.executable, "-m", "bqq", "compress", str(source), str(run.path), "--bits", "2", "--force"]
    child = subprocess.Popen(
        [*command, "--effort", "fast", "--patch", "48"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    run.pause(1.5)
    child.send_signal(number)
    out, err = child.communicate()
    source.unlink()
    early = child.returncode in (-number, 1) and b"bqq" not in out and b"import" in err  # Python was still starting
    assert child.returncode in codes or early, (child.returncode, err)
    if b"Traceback" in err:
        assert early or child.returncode == -signal.SIGINT, err
    run.check(lambda found: "matrix" in found)


def kill_the_command(run: Run) -> None:
    command_line(run, signal.SIGKILL, (0, -9))


def interrupt_the_command(run: Run) -> None:
    command_line(run, signal.SIGINT, (0, 130, -2))


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, capture_output=True)


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), 1 << 20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def disk_full(run: Run) -> None:
    with mounted(run.folder, run.rng.randrange(200_000, 3_000_000)):
        bqq.save(run.path, {"x": run.old})
        size = run.rng.randrange(1_000, 1_500_000)
        run.finish(run.start("attempt(lambda: bqq.save(path, items(7))) or sys.exit()", size=size))
        assert os.listdir(run.folder) == [run.path.name], "a file that did not fit is left"
        run.check()


def file_size_limit(run: Run) -> None:
    code = "resource.setrlimit(resource.RLIMIT_FSIZE, (arg['limit'],) * 2)\n"
    code += "attempt(lambda: bqq.save(path, items(7))) or sys.exit()"
    run.finish(run.start(code, limit=run.rng.randrange(1, 500_000)))
    assert os.listdir(run.folder) == [run.path.name]
    run.check()


def unwritable_folder(run: Run) -> None:
    run.folder.chmod(0o555)
    last = run.finish(run.start("as_nobody()\nattempt(lambda: bqq.save(path, items(7))) or sys.exit()"))
    assert last == "PermissionError", last
    run.folder.chmod(0o755)
    run.check()


def vanishing_folder(run: Run) -> None:
    child = run.start("k = 0\nwhile attempt(lambda: bqq.save(path, items(k))): k += 1\nsys.exit()")
    run.wait_until_ready(child)
    run.pause(0.1)
    shutil.rmtree(run.folder, ignore_errors=True)
    if run.folder.exists():  # a file came while it was emptied
        shutil.rmtree(run.folder)
    assert run.finish(child) in ("FileNotFoundError", "OSError")
    run.folder.mkdir()
    bqq.save(run.path, {"x": run.old})
    run.check()


LIMITED = """
calls = {
    "decompose": lambda: bqq.decompose(rng.standard_normal((600, 500)), 2, steps=2, refine=1, patch=200, threads=2),
    "whole": lambda: bqq.decompose(rng.standard_normal((512, 512)), 1, steps=2, refine=1),
    "matmul": lambda: big @ np.ones((900, 2000), np.float32),
    "left": lambda: np.ones((2000, 900), np.float32) @ big,
    "reconstruct": lambda: big.reconstruct(), "transpose": lambda: big.T @ np.ones(900),
    "encode": lambda: bqq.encode(Q, rng.standard_normal((20_000, 48)), steps=1),
    "save": lambda: bqq.save(path, items(7)), "load": lambda: bqq.load(path), "open": lambda: bqq.open(path)["x"],
}
big = bqq.Matrix.from_factors(*(rng.integers(0, 2, (2, 900, 900)) for _ in "YZ"), rng.standard_normal(7))
"""


def address_space(run: Run) -> None:
    code = """
bqq.save(path, items(3))
call = calls[arg["call"]]
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + arg["room"],) * 2)
attempt(call) or sys.exit()
"""
    calls = ("decompose", "whole", "matmul", "left", "reconstruct", "transpose", "encode", "save", "load", "open")
    room = int(2 ** run.rng.uniform(12, 26))
    run.finish(run.start(LIMITED + code, call=run.rng.choice(calls), room=room))
    run.check()


def descriptors(run: Run) -> None:
    code = """
soft = len(os.listdir("/proc/self/fd")) - 1 + arg["more"]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
held = []
ok = all([attempt(lambda: bqq.save(path, items(k))) for k in range(3)])
ok &= all([attempt(lambda: held.append(bqq.open(path)["x"])) for _ in range(50)])
ok &= attempt(lambda: bqq.decompose(rng.standard_normal((64, 64)), 1, patch=16, steps=2, refine=False, threads=4))
ok or sys.exit()
"""
    run.finish(run.start(code, more=run.rng.randrange(0, 4)))
    run.check()


def no_threads(run: Run) -> None:
    run.folder.chmod(0o777)
    code = """
as_nobody()
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
bqq.decompose(rng.standard_normal((96, 96)), 1, patch=16, steps=3, threads=arg["threads"])
bqq.matmul(Q, X, threads=arg["threads"])
attempt(lambda: bqq.save(path, items(1)))
"""
    last = run.finish(run.start(code, threads=run.rng.randrange(1, 9)))
    assert last == "done", last
    run.folder.chmod(0o755)
    run.check()


WORK = """
W = rng.standard_normal((96, 96)).astype(np.float32)
calls = {
    "decompose": lambda: bqq.decompose(W, 1, patch=48, steps=50_000, refine=False, threads=arg["threads"]),
    "refine": lambda: bqq.decompose(W, 1, steps=10, refine=60_000, threads=arg["threads"]),
    "encode": lambda: bqq.encode(Q, rng.standard_normal((300_000, 48)), threads=arg["threads"]),
    "matmul": lambda: bqq.matmul(Q, X, threads=arg["threads"]),
    "save": lambda: bqq.save(path, items(7)), "load": lambda: bqq.load(path),
}
call = calls[arg["call"]]
"""


def interrupt(run: Run) -> None:
    """Ctrl-C, in whatever it comes, is a KeyboardInterrupt."""
    code = """
try:
    while True: call()
except KeyboardInterrupt:
    sys.exit(print("OSError"))
"""
    call = run.rng.choice(("decompose", "refine", "encode", "matmul", "save", "load"))
    child = run.start(
        WORK + "signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code,
        call=call,
        threads=run.rng.randrange(1, 4),
    )
    run.wait_until_ready(child)
    run.pause(0.3)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    run.finish(child)
    run.check()


def storm_of_signals(run: Run) -> None:
    """A handler that runs every millisecond disturbs nothing."""
    code = """
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for k in range(20):
    bqq.save(path, items(k))
    assert bqq.load(path)["x"][0] == k
short = bqq.decompose(np.ones((20, 20)), 1, steps=200, threads=2)
signal.setitimer(signal.ITIMER_REAL, 0)
assert seen
"""
    last = run.finish(run.start(code))
    assert last == "done", last
    run.check()


def cut_short_by_others(run: Run) -> None:
    bqq.save(run.path, {"x": np.zeros(2_000_000, np.float32)})
    child = run.start("while attempt(lambda: bqq.load(path)): pass\nsys.exit()")
    run.wait_until_ready(child)
    run.pause(0.1)
    os.truncate(run.path, run.rng.randrange(0, 8_000_000))
    assert run.finish(child) in ("FormatError", "OSError")
    bqq.save(run.path, {"x": run.old})
    run.check()


def interpreter_ends(run: Run) -> None:
    code = """
started = threading.Event()
def forever():
    while True:
        call()
        started.set()
for _ in range(2): threading.Thread(target=forever, daemon=True).start()
"""
    call = run.rng.choice(("matmul", "save", "load"))
    child = run.start(WORK + code + f"started.wait(60)\ntime.sleep({run.rng.random() / 20})", call=call, threads=2)
    run.finish(child)
    run.check()


def callback_ends_the_program(run: Run) -> None:
    code = """
def report(done, total):
    if done > arg["after"] * total: sys.exit(print("done", flush=True))
W = rng.standard_normal((64, 64))
bqq.decompose(W, 1, patch=16, steps=2000, refine=200, threads=arg["threads"], progress=report)
"""
    run.finish(run.start(code, after=run.rng.random() / 2, threads=run.rng.randrange(1, 4)))
    run.check()


KINDS: tuple[Callable[[Run], None], ...] = (
    kill_while_saving,
    sigterm_while_saving,
    kill_the_command,
    interrupt_the_command,
    disk_full,
    file_size_limit,
    unwritable_folder,
    vanishing_folder,
    address_space,
    descriptors,
    no_threads,
    interrupt,
    storm_of_signals,
    cut_short_by_others,
    interpreter_ends,
    callback_ends_the_program,
)


def run_one(kind: Callable[[Run], None], seed: int) -> str | None:
    """What went wrong, or None."""
    with tempfile.TemporaryDirectory(prefix="bqq-faults-") as base:
        os.chmod(base, 0o755)
        folder = Path(base) / "folder"
        folder.mkdir()
        try:
            kind(Run(random.Random(f"{kind.__name__}-{seed}"), folder))
        except Exception:
            return traceback.format_exc()
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=208)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind")
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if args.only in (None, kind.__name__)]
    if disk_full in kinds and not can_mount():
        print("disk_full: skipped, nothing can be mounted here (root)")
        kinds.remove(disk_full)
    rounds = -(-args.runs // len(kinds))
    good = 0
    for kind in kinds:
        wrong = [(seed, text) for seed in range(args.seed, args.seed + rounds) if (text := run_one(kind, seed))]
        good += rounds - len(wrong)
        print(f"{kind.__name__}: {rounds - len(wrong)} of {rounds}", flush=True)
        for seed, text in wrong:
            print(f"--- {kind.__name__}, seed {seed}\n{text}", flush=True)
    print(f"{good} of {rounds * len(kinds)} runs lost nothing")
    return 0 if good == rounds * len(kinds) else 1


if __name__ == "__main__":
    sys.exit(main())
