"""What the process around the library does to it: ends, has no threads to give, is bound to cores."""

import os
import shutil
import subprocess
import sys

import pytest

import bqq
from conftest import finish, start_python

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")

ENDING = """
import tempfile, threading, time
from pathlib import Path
import numpy as np
import bqq

W = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
q = bqq.decompose(W, 1, patch=32, steps=5)
x, path = np.ones((96, 4), np.float32), Path(tempfile.mkdtemp()) / "q.safetensors"
bqq.save(path, {{"q": q}})
codebook = bqq.decompose(W, 1, steps=5)
calls = {{
    "matmul": lambda: q @ x,
    "matvec": lambda: q @ x[:, 0],
    "reconstruct": lambda: q.reconstruct(),
    "transpose": lambda: q.T,
    "decompose": lambda: bqq.decompose(W, 1, patch=32, steps=200),
    "report": lambda: bqq.decompose(W, 1, patch=8, steps=5, progress=lambda done, total: None),
    "encode": lambda: bqq.encode(codebook, W[:40]),
    "save": lambda: bqq.save(path, {{"q": q}}),
    "load": lambda: bqq.load(path),
    "open": lambda: bqq.open(path)["q"],
}}
call, ran = calls[{name!r}], threading.Event()
def forever():
    while True:
        call()
        ran.set()
for _ in range(2):
    threading.Thread(target=forever, daemon=True).start()
assert ran.wait(60)
time.sleep(0.05)
"""
CALLS = ("matmul", "matvec", "reconstruct", "transpose", "decompose", "report", "encode", "save", "load", "open")


@pytest.mark.parametrize("name", CALLS)
def test_the_interpreter_ends_while_a_daemon_thread_is_at_work(name):
    for process in [start_python(ENDING.format(name=name)) for _ in range(2)]:
        assert finish(process) == ""


WITHOUT_THREADS = """
import os, resource
import numpy as np
import bqq

W = np.random.default_rng(0).standard_normal((128, 96)).astype(np.float32)
alone = bqq.decompose(W, 1, patch=32, steps=20, threads=1)
if os.geteuid() == 0:
    os.setuid(65534)  # the limit does not hold for root
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
together = bqq.decompose(W, 1, patch=32, steps=20, threads={threads})
assert (together.Y == alone.Y).all() and (together.Z == alone.Z).all()
x = np.ones((96, 300), np.float32)
assert (bqq.matmul(alone, x, threads=8) == bqq.matmul(alone, x, threads=1)).all()
assert bqq.encode(bqq.decompose(W, 1, steps=5), W[:40], threads=8).shape == (40, 96)
print("done")
"""


@linux
@pytest.mark.parametrize("threads", [8, None])
def test_no_threads_to_be_had(threads):
    process = start_python(WITHOUT_THREADS.format(threads=threads), BQQ_NUM_THREADS="4")
    assert finish(process).strip() == "done"


CORES = """
import os
before = len(os.sched_getaffinity(0))
import bqq
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # as a run-time library of OpenMP does
print(bqq.show_config("dict")["threads"], before)
"""


@linux
def test_threads_that_openmp_has_bound():
    """One core is what the caller has left; helpers and their number are those of the process."""
    for bound in ({"OMP_PROC_BIND": "true"}, {"GOMP_CPU_AFFINITY": "0-1"}, {"OMP_PROC_BIND": "spread"}):
        found, before = finish(start_python(CORES, BQQ_NUM_THREADS="", **bound)).split()
        assert found == before
    assert finish(start_python(CORES, BQQ_NUM_THREADS="", OMP_PROC_BIND="false")).split()[0] == "1"
    assert finish(start_python(CORES, BQQ_NUM_THREADS="2")).split()[0] == "2"


HELPERS = """
import os, threading
import numpy as np
import bqq
before = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(before)})
W = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
def masks():
    found = []
    for thread in os.listdir("/proc/self/task"):
        try:
            found.append(os.sched_getaffinity(int(thread)))
        except ProcessLookupError:  # ended meanwhile
            pass
    return found
seen = []
bqq.decompose(W, 1, patch=32, steps=20, threads=2, progress=lambda done, total: seen.append(masks()))
assert any(mask == before for some in seen for mask in some), (before, seen)
print("done")
"""


@linux
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_helpers_run_on_the_cores_of_the_process():
    assert finish(start_python(HELPERS, OMP_PROC_BIND="true")).strip() == "done"


@linux
def test_the_module_exports_nothing_but_its_entry():
    """Or templates of the standard library would be those of the first module loaded, whatever compiler made it."""
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) not found")
    path = bqq._core.__file__
    listed = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["PyInit__core"]
