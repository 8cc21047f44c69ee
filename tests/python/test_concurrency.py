"""Threads that share objects, processes that fork while they work, other run-time libraries, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time

import pytest

from conftest import available_isas, finish, run_isa, start_python

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX")
forks = pytest.mark.skipif(
    not hasattr(os, "fork") or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="no fork, or one whose child may wait for locks of the interpreter's own objects (free-threaded Python)",
)

SHARED = """
import pickle, sys, tempfile, threading
from pathlib import Path
import numpy as np
import bqq
from conftest import dense, random_matrix, same
sys.setswitchinterval(1e-5)
path = Path(tempfile.mkdtemp()) / "q.safetensors"
q = random_matrix(70, 90, J=2, K=2, p=2, l=20)
bqq.save(path, {str(i): random_matrix(40, 30, seed=i) for i in range(8)} | {"half": np.ones(3)}, scales="float16")
X = np.random.default_rng(0).standard_normal((90, 9)).astype(np.float32)
plain = pickle.dumps(q)
want = (q @ X).tobytes(), (X.T @ q.T).tobytes(), q.reconstruct().tobytes(), (q.T @ X[:70]).tobytes()
wrong = []
for _ in range(20):
    shared, file, start = pickle.loads(plain), bqq.open(path), threading.Barrier(16)
    def work(number):
        try:
            start.wait()
            for i in range(3):
                got = (shared @ X).tobytes(), (X.T @ shared.T).tobytes(), shared.reconstruct().tobytes(), (
                    shared.T @ X[:70]).tobytes()
                assert got == want
                assert shared.T.T is shared
                name = str((number + i) % 8)
                assert same(file[name], bqq.load(path)[name])
                file[name] @ np.ones(30)
                if number == 0 and i == 2:
                    file.close()
        except ValueError as error:
            if "closed" not in str(error): wrong.append(error)
        except BaseException as error:
            wrong.append(error)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert not wrong, wrong
print("done")
"""


def test_sixteen_threads_share_a_matrix_and_a_file():
    assert finish(start_python(SHARED)) == "done\n"


FORK = """
import os, signal, sys, tempfile, threading, time, warnings
from pathlib import Path
import numpy as np
import bqq
warnings.simplefilter("ignore")  # Python says that forking with threads may hang: that it does not is what is tested
rng = np.random.default_rng(0)
path = Path(tempfile.mkdtemp()) / "q.safetensors"
bits = [rng.integers(0, 2, (2, 700, 700), dtype=np.uint8) for _ in "YZ"]
def fresh():
    return bqq.Matrix.from_factors(*bits, np.ones(7))
q = fresh()
bqq.save(path, {"q": q, "r": q})
file = bqq.open(path)
W, x = rng.standard_normal((64, 64)).astype(np.float32), np.ones(700, np.float32)
def first_uses():  # what is made and checked on first use, again and again
    global q, file
    while True:
        q @ x
        q.T @ x
        q = fresh()
        file["q"]
        file = bqq.open(path)
def work():
    while True:
        bqq.decompose(W, 1, patch=16, steps=20, refine=False, threads=2)
        bqq.matmul(q, np.ones((700, 40), np.float32), threads=2)
for target in (first_uses, first_uses, work):
    threading.Thread(target=target, daemon=True).start()
for _ in range(30):
    time.sleep(0.01)
    child = os.fork()
    if not child:
        signal.alarm(40)  # ends a child that hangs
        assert (q @ x)[0] == (q.T.T @ x)[0]
        q.T @ x
        file["q"] @ x, file["r"] @ x
        bqq.matmul(q, np.ones((700, 40), np.float32), threads=2)
        bqq.decompose(W, 1, patch=16, steps=20, refine=False, threads=2)
        bqq.save(path.with_name("child"), {"q": q})
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code: os._exit(abs(code))
print("done")
"""


@forks
def test_fork_while_threads_are_at_work():
    """A lock that another thread held at that moment would be held for ever in the child."""
    assert finish(start_python(FORK)) == "done\n"


INDEX = """
import os, sys, threading, time, warnings
import numpy as np
from bqq import ann
warnings.simplefilter("ignore")
X = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
codec = ann.train(X, 16, effort="fast")
codes, end = codec.encode(X), threading.Event()
def read(index):
    while not end.is_set(): index.search(X[:40], 5, coarse=1, threads=1)
def write(index):
    while not end.is_set():
        index.add_codes(codes)
        index.remove(index.ids[:3000])
for CHANGES in (False, True):
    refused = 0
    for round in range(20):
        index = ann.Index(codec)
        index.add_codes(codes)
        end.clear()
        threads = [threading.Thread(target=read, args=(index,)) for _ in range(2)]
        if CHANGES: threads.append(threading.Thread(target=write, args=(index,)))
        for thread in threads: thread.start()
        time.sleep(0.003 * (round % 5))
        child = os.fork()
        if child == 0:
            try:
                ids = index.search(X[:3], 5, coarse=1)[1]
                index.add_codes(codes[:10])
                index.remove(ids[0])
            except RuntimeError as error:
                os._exit(7 if "when this process was forked" in str(error) else 1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end.set()
        for thread in threads: thread.join()
        if code not in ((0, 7) if CHANGES else (0,)): sys.exit(f"{CHANGES} {round} {code}")
        index.search(X[:3], 5)
print("done")
"""


@forks
def test_fork_while_threads_are_in_an_index():
    """Searching and changing it works in the child, unless it was being changed just then: that is said."""
    assert finish(start_python(INDEX)) == "done\n"


HANDLERS = """
import signal, threading
import numpy as np
from bqq import ann
V = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
codec = ann.train(V, 16, effort="fast")
codes = codec.encode(V, effort="fast")
index = ann.Index(codec)
index.add_codes(np.tile(codes, (50, 1)))
seen, end = [], threading.Event()
def read(*_):
    seen.append(len(index))
    index.search(V[:2], 2)
def write(*_):
    try:
        index.add_codes(codes[:1])
    except RuntimeError as error:
        seen.append(str(error))
def change():
    while not end.is_set(): index.add_codes(codes[:1])
thread = threading.Thread(target=change)
thread.start()
for handler in (read, write):
    seen.clear()
    signal.signal(signal.SIGALRM, handler)
    while len(seen) < 3:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        index.search(V, 5)
    end.set()
    thread.join()
assert "cannot change it from within" in seen[0], seen
print("done")
"""


@posix
def test_handlers_of_signals_use_an_index_that_is_being_searched():
    """Beside a writer, who waits for the search and whom later readers wait for."""
    assert finish(start_python(HANDLERS)) == "done\n"


PROCESSES = """
import multiprocessing, threading, warnings
import numpy as np
import bqq
from conftest import random_matrix, same
warnings.simplefilter("ignore")
def work(q):
    bqq.decompose(np.ones((40, 40)) + np.eye(40), 1, patch=16, steps=20, refine=False, threads=2)
    return q, q @ np.ones(q.shape[1])
def busy(end, q):
    while not end.is_set():
        bqq.matmul(q, np.ones((q.shape[1], 40)), threads=2)
if __name__ == "__main__":
    q, end = random_matrix(60, 50, p=2, l=20), threading.Event()
    threads = [threading.Thread(target=busy, args=(end, q)) for _ in range(2)]
    for thread in threads: thread.start()
    with multiprocessing.get_context("METHOD").Pool(2) as pool:
        for again, product in pool.map(work, [q] * 4):
            assert same(again, q)
            assert (product == q @ np.ones(50)).all()
    end.set()
    print("done")
"""


@posix
@pytest.mark.parametrize("method", [pytest.param("fork", marks=forks), "forkserver", "spawn"])
def test_processes_started_while_threads_are_at_work(method, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(PROCESSES.replace("METHOD", method))
    process = start_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    if method == "fork":
        assert finish(process) == "done\n"
        return
    process.kill()  # their children import the main module: it has to be a file
    process.communicate()
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout) == (0, "done\n"), run.stderr


SUBINTERPRETER = """
import importlib, sys
name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
interpreters = importlib.import_module(name)
import bqq
one = interpreters.create()
code = "try:\\n import bqq._core\\nexcept ImportError as e:\\n print('refused')\\nelse:\\n print('taken')"
interpreters.run_string(one, code)
interpreters.destroy(one)
print(bqq.decompose([[1, 2], [3, 5]], 1, steps=5).shape)
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="subinterpreters that are known to refuse")
def test_subinterpreters_are_refused():
    assert finish(start_python(SUBINTERPRETER)) == "refused\n(2, 2)\n"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a Python with a lock")
def test_free_threaded_python_stays_so():
    code = "import sys, bqq; print(sys._is_gil_enabled())"
    assert finish(start_python(code)) == "False\n"


OPENMP = """
import threading
import numpy as np
import FIRST
import torch, bqq
q = bqq.Matrix.from_factors(np.ones((1, 300, 9)), np.ones((1, 9, 300)), [1.0, 0, 0, 0])
W = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
T, x = torch.ones(300, 300), np.ones((300, 60), np.float32)
def ours():
    assert (bqq.matmul(q, x, threads=4) == 2700).all()
    return bqq.decompose(W, 1, patch=32, steps=20, refine=10, threads=4).scales.tobytes()
def theirs():
    assert ((T @ T) == 300).all()
want = ours()
theirs()
def both():
    for _ in range(5):
        theirs()
        assert ours() == want
threads = [threading.Thread(target=both) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
both()
print("done")
"""


@pytest.mark.parametrize("first", ["torch", "bqq"])
@pytest.mark.parametrize("bound", ["", "true"])
def test_beside_the_openmp_of_torch(first, bound):
    pytest.importorskip("torch")
    environment = {"OMP_PROC_BIND": bound} if bound else {}
    assert finish(start_python(OPENMP.replace("FIRST", first), **environment)) == "done\n"


INTERRUPTED = """
import signal, sys, threading
import numpy as np
import bqq
from bqq import ann
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
W = rng.standard_normal((512, 512)).astype(np.float32)
small = bqq.decompose(W[:64, :64], 2, steps=5, refine=False)
codec = ann.train(W[:, :64], 16, effort="fast")
calls = {
    "descent": lambda: bqq.decompose(W, 1, steps=10**9, refine=False, threads=THREADS),
    "refinement": lambda: bqq.decompose(W[:256, :256], 1, steps=5, refine=10**8, threads=THREADS),
    "blocks": lambda: bqq.decompose(W, 2, patch=32, steps=10**9, threads=THREADS),
    "paper": lambda: bqq.decompose(W, 1, schedule="paper", steps=10**9, threads=THREADS),
    "extend": lambda: bqq.extend(small, W[:64, :64], 9, steps=10**9, threads=THREADS),
    "weight": lambda: bqq.decompose(W, 1, weight=W.T @ W, steps=10**9, threads=THREADS),
    "encode": lambda: bqq.encode(small, np.tile(W[:, :64], (2000, 1)), effort="best", threads=THREADS),
    "train": lambda: ann.train(np.tile(W, (300, 1)), 128, effort="best", threads=THREADS),
    "codes": lambda: codec.encode(np.tile(W[:, :64], (4000, 1)), effort="best", threads=THREADS),
}
print("ready", flush=True)
try:
    calls[NAME]()
except KeyboardInterrupt:
    sys.exit(print("interrupted"))
"""


@posix
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "name", ["descent", "refinement", "blocks", "paper", "extend", "weight", "encode", "train", "codes"]
)
def test_interrupt_in_every_long_call(name, threads):
    """Each would run for hours."""
    process = start_python(INTERRUPTED.replace("NAME", repr(name)).replace("THREADS", str(threads)))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert finish(process, timeout=60) == "interrupted\n"


SIGNALS = """
import signal
import time
import numpy as np
import bqq
from bqq import ann
rng = np.random.default_rng(0)
bits = [rng.integers(0, 2, shape, dtype=np.uint8) for shape in ((6, 1000, 500), (6, 500, 1000))]
q = bqq.Matrix.from_factors(*bits, np.ones(19))
X, dense = np.ones((1000, 20_000), np.float32), np.ones((1000, 1000), np.float32)
vectors = rng.standard_normal((2000, 64)).astype(np.float32)
codec = ann.train(vectors, 32, effort="fast")
codes = np.tile(codec.encode(vectors, effort="fast"), (100, 1))
index = ann.Index(codec)
index.add_codes(codes[:100_000])
def fresh():
    index = ann.Index(codec)
    index.add_codes(np.tile(codes, (3, 1)))
    return index
calls = {
    "matmul": lambda: bqq.matmul(q, X, threads=1),
    "left": lambda: X.T @ q,
    "float16": lambda: bqq.matmul(q, X.astype("f2"), threads=1),
    "reconstruct": lambda: q.reconstruct(threads=1),
    "error": lambda: q.error(dense),
    "row_squares": lambda: q.row_squares(threads=1),
    "decode": lambda: codec.decode(codes, threads=1),
    "search": lambda: index.search(vectors, 10, threads=1),
    "range_search": lambda: index.range_search(vectors, 0.5, threads=1),
    "all": lambda: index.range_search(vectors[:8], 1e9, threads=1),
    "first norms": lambda index: index.search(vectors[:1], 1, coarse=1, threads=1),
}
made = {"first norms": fresh}
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
for name, call in calls.items():
    arguments = lambda: [made[name]()] if name in made else []
    call(*arguments())  # what is made on first use
    given, start = arguments(), time.perf_counter()
    call(*given)
    every = (time.perf_counter() - start) / 20
    given = arguments()
    seen.clear()
    signal.setitimer(signal.ITIMER_REAL, every, every)
    call(*given)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(seen) > 1, (name, len(seen), every)  # one would be seen after the call
print("done")
"""


@posix
def test_signals_are_seen_within_long_products():
    assert finish(start_python(SIGNALS)) == "done\n"


PIECES = """
import numpy as np
import bqq
from conftest import dense, random_matrix
q = random_matrix(1100, 900, J=2, K=2, p=4, l=700)
X = np.random.default_rng(0).standard_normal((900, 6000)).astype(np.float32)
whole, last = bqq.matmul(q, X), bqq.matmul(q, np.asfortranarray(X)[:, ::-1])
want = dense(q) @ X[:, [0, 255, 256, 3000, 5999]]
assert np.abs(whole[:, [0, 255, 256, 3000, 5999]] - want).max() <= 2e-5 * np.linalg.norm(want, axis=0).min()
assert (last[:, ::-1] == whole).all()
print("done")
"""


def test_products_in_pieces():
    """Long products are cut, so that Ctrl-C is seen: every column is its own."""
    assert finish(start_python(PIECES)) == "done\n"


SMALL_STACK = """
import threading
import numpy as np
import bqq
from conftest import random_matrix
W = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)
def work():
    q = bqq.decompose(W, 3, steps=2, refine=2, patch=300, threads=2)
    for batch in (1, 5, 70, 600):
        for precision in ("float32", "fast"):
            bqq.matmul(q, W[:, :batch].copy(), precision=precision, threads=2)
    V = W[:200, :200].copy()
    bqq.encode(bqq.decompose(V, 1, steps=2, refine=2), V[:40], threads=2)
    bqq.decompose(V, 2, steps=2, refine=2, weight=V.T @ V)
    bqq.decompose(V, 2, steps=2, refine=2, patch=50, weight=V.T @ V)
    q.T.reconstruct(), q.error(W), q.prefix(1)
    print("done")
threading.stack_size(128 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@linux
@pytest.mark.parametrize("isa", available_isas())
def test_a_stack_of_128_kilobytes(isa):
    """What every thread has with musl."""
    assert run_isa(isa, SMALL_STACK) == "done\n"
