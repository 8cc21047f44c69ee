"""Random sequences: of calls against a dense float64 model, of words on the command line."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

import bqq
from bqq import cli
from conftest import dense, random_matrix, same

SEEDS = st.integers(0, 2**32 - 1)
MANY = int(os.environ.get("BQQ_EXAMPLES", "1"))  # times as many examples, other ones each time
FAST: dict[str, Any] = {"steps": 3, "refine": False}


def norm(a: Any) -> float:
    return float(np.linalg.norm(a)) + 1e-30


class Calls(RuleBasedStateMachine):
    """Every matrix is kept beside the float64 array it stands for; no call changes any of them."""

    pairs = Bundle("pairs")  # (matrix, dense)
    files = Bundle("files")  # an open file and what is in it

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bqq-machine-"))
        self.saved = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def known(self, q: bqq.Matrix, W: Any = None) -> tuple[bqq.Matrix, Any]:
        W_hat = dense(q)
        if W is not None:
            np.testing.assert_allclose(W_hat, W, rtol=0, atol=1e-6 * norm(W))
        return q, W_hat

    # --- new matrices ---

    @rule(
        target=pairs, m=st.integers(1, 40), n=st.integers(1, 40), p=st.integers(1, 3), l=st.integers(1, 9), seed=SEEDS
    )
    def from_factors(self, m: int, n: int, p: int, l: int, seed: int) -> Any:
        grid = [(J, K) for J in range(1, 4) for K in range(1, 4)]
        J, K = grid[seed % len(grid)]
        rows, cols = -(-m // J), -(-n // K)
        assume((J - 1) * rows < m and (K - 1) * cols < n)
        return self.known(random_matrix(m, n, J=J, K=K, p=p, l=l, seed=seed))

    @rule(target=pairs, m=st.integers(1, 30), n=st.integers(1, 30), p=st.integers(1, 3), seed=SEEDS)
    def decompose(self, m: int, n: int, p: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        W = rng.standard_normal((m, n)) * 10.0 ** rng.integers(-20, 20) + rng.integers(-3, 4)
        patch = [None, 8, 16][seed % 3]
        q = bqq.decompose(W, p, patch=patch, seed=seed, threads=1 + seed % 2, **FAST)
        again = bqq.decompose(W, p, patch=patch, seed=seed, threads=2 - seed % 2, **FAST)
        assert same(q, again)
        assert q.error(W) <= norm(W.astype(np.float32) - W.astype(np.float32).mean(dtype=float)) / norm(W) + 1e-5
        return self.known(q)

    @rule(target=pairs, pair=pairs, more=st.integers(0, 2), seed=SEEDS)
    def extend(self, pair: Any, more: int, seed: int) -> Any:
        q, W_hat = pair
        W = W_hat + np.random.default_rng(seed).standard_normal(W_hat.shape)
        grown = bqq.extend(q, W, q.p + more, seed=seed, **FAST)
        np.testing.assert_array_equal(grown.Y[:, :, : q.p], q.Y)
        np.testing.assert_array_equal(grown.Z[:, :, : q.p], q.Z)
        assert more or same(grown, q)
        return self.known(grown)

    @rule(target=pairs, pair=pairs, k=st.integers(1, 3))
    def prefix(self, pair: Any, k: int) -> Any:
        q, W_hat = pair
        if k > q.p:
            with pytest.raises(ValueError, match="k is"):
                q.prefix(k)
            return pair
        shorter = q.prefix(k)
        np.testing.assert_array_equal(shorter.Y, q.Y[:, :, :k])
        np.testing.assert_array_equal(shorter.scales[..., : 3 * k], q.scales[..., : 3 * k])
        rows, cols = q.patch
        block = np.s_[:rows, :cols]  # its mean stays
        assert abs(dense(shorter)[block].mean() - W_hat[block].mean()) <= 1e-5 * norm(W_hat)
        return self.known(shorter)

    @rule(target=pairs, pair=pairs)
    def transpose(self, pair: Any) -> Any:
        q, W_hat = pair
        assert q.T.T is q
        return self.known(q.T, W_hat.T)

    @rule(target=pairs, pair=pairs, count=st.integers(1, 6), seed=SEEDS)
    def encode(self, pair: Any, count: int, seed: int) -> Any:
        q, W_hat = pair
        rows = W_hat[np.random.default_rng(seed).integers(0, len(W_hat), count)]
        if q.grid[0] > 1:
            with pytest.raises(ValueError, match="block row"):
                bqq.encode(q, rows, effort="fast")
            return pair
        coded = bqq.encode(q, rows, effort="fast", seed=seed)
        np.testing.assert_array_equal(coded.Z, q.Z)
        one = bqq.encode(q, rows[:1], effort="fast", seed=seed)
        np.testing.assert_array_equal(one.Y[0, :, :, 0], coded.Y[0, :, :, 0])  # the rows beside it do not matter
        return self.known(coded)

    @rule(
        target=pairs, pair=pairs, how=st.sampled_from([copy.copy, copy.deepcopy, *range(pickle.HIGHEST_PROTOCOL + 1)])
    )
    def pickled(self, pair: Any, how: Any) -> Any:
        q, W_hat = pair
        again = pickle.loads(pickle.dumps(q, how)) if isinstance(how, int) else how(q)
        assert same(again, q)
        return self.known(again, W_hat)

    # --- files ---

    @rule(target=files, some=st.lists(pairs, min_size=1, max_size=3), mapped=st.booleans(), again=st.booleans())
    def save(self, some: list[Any], mapped: bool, again: bool) -> Any:
        if not again:  # else over the last one, which may be open
            self.saved += 1
        path = self.folder / f"{self.saved}.safetensors"
        items = {str(i): q for i, (q, _) in enumerate(some)} | {"x": np.arange(3)}
        bqq.save(path, items, metadata={"n": str(len(some))})
        assert sorted(os.listdir(self.folder)) == sorted({p.name for p in self.folder.glob("*.safetensors")})
        return (bqq.open(path) if mapped else bqq.load(path)), {str(i): W for i, (_, W) in enumerate(some)}

    @rule(target=pairs, file=files, i=st.integers(0, 2))
    def from_file(self, file: Any, i: int) -> Any:
        found, model = file
        name = str(i % len(model))
        assert found.metadata == {"n": str(len(model))}
        np.testing.assert_array_equal(found["x"], np.arange(3))
        return self.known(found[name], model[name])

    @rule(file=consumes(files))
    def close(self, file: Any) -> None:
        if isinstance(file[0], bqq.File):
            file[0].close()
            with pytest.raises(ValueError, match="closed"):
                file[0]["x"]

    # --- what is asked of them ---

    @rule(pair=pairs)
    def reconstruct(self, pair: Any) -> None:
        q, W_hat = pair
        np.testing.assert_allclose(q.reconstruct(), W_hat, rtol=0, atol=1e-6 * norm(W_hat))
        np.testing.assert_array_equal(np.asarray(q), q.reconstruct(threads=2))
        assert q.error(W_hat) <= 1e-6

    @rule(
        pair=pairs,
        batch=st.sampled_from([None, 0, 1, 3, 20]),
        left=st.booleans(),
        precision=st.sampled_from(["float32", "fast"]),
        dtype=st.sampled_from([np.float32, np.float64, np.float16, np.int8]),
        seed=SEEDS,
    )
    def multiply(self, pair: Any, batch: int | None, left: bool, precision: str, dtype: Any, seed: int) -> None:
        q, W_hat = pair
        assume(norm(W_hat) < 1e4 or dtype is not np.float16)
        rng = np.random.default_rng(seed)
        inner = q.shape[0] if left else q.shape[1]
        X = rng.integers(-5, 6, (inner,) if batch is None else (batch, inner) if left else (inner, batch)).astype(dtype)
        X = X[..., ::-1] if seed % 2 else X
        got = (X @ q) if left else bqq.matmul(q, X, precision=precision, threads=1 + seed % 2)
        want = (X.astype(float) @ W_hat) if left else (W_hat @ X.astype(float))
        assert got.shape == want.shape
        if np.size(want):  # of the terms: integers cancel
            sizes = np.abs(X.astype(float)) @ np.abs(W_hat) if left else np.abs(W_hat) @ np.abs(X.astype(float))
            limit = 0.05 if precision == "fast" else 1e-4
            assert np.abs(got - want).max() <= limit * (sizes.max() + norm(W_hat) * np.abs(X).max() * q.p * q.l)

    @rule(pair=pairs)
    def wrong_calls(self, pair: Any) -> None:
        q, W_hat = pair
        for wrong in (
            lambda: q @ np.ones(q.shape[1] + 1),
            lambda: bqq.extend(q, W_hat[:, :-1], 9),
            lambda: q @ [["a"]],
        ):
            with pytest.raises((ValueError, TypeError)):
                wrong()


Calls.TestCase.settings = settings(max_examples=40 * MANY, stateful_step_count=20, derandomize=MANY == 1)
TestCalls = pytest.mark.filterwarnings("ignore")(Calls.TestCase)


# --- the command line ---

FILES = [
    "w.npy",
    "m.safetensors",
    "none.npy",
    "broken.safetensors",
    "cut.npy",
    "bits.safetensors",
    "folder",
    "o.safetensors",
]
FILES += [
    "m.safetensors:a",
    "m.safetensors:zz",
    "x.npz",
    "",
    "-",
    "--",
    ".",
    "/dev/null",
    "a\udcffb.npy",
    "ü.safetensors",
    "\n",
]
OPTIONS = [
    "--bits",
    "--l",
    "--schedule",
    "--only",
    "--skip",
    "--min-size",
    "--scales",
    "--force",
    "--patch",
    "--effort",
]
OPTIONS += [
    "--steps",
    "--refine",
    "--seed",
    "--threads",
    "--quiet",
    "--out",
    "--help",
    "--version",
    "--bits=2",
    "--l=0",
    "-x",
]
VALUES = [
    "1",
    "2",
    "0",
    "-1",
    "3,1",
    "1e9",
    "99999999999999999999",
    "a",
    "*",
    "[",
    "fast",
    "paper",
    "float16",
    "ünï",
    "\x1b[2J",
    "٣",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    W = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.save(folder / "w.npy", W)
    bqq.save(folder / "m.safetensors", {"a": W, "b.weight": W[:2], "i": np.arange(3), "\x1b": np.full((2, 2), -3e38)})
    bqq.save(folder / "bits.safetensors", random_matrix(5, 4))
    (folder / "broken.safetensors").write_bytes((folder / "m.safetensors").read_bytes()[:-3])
    (folder / "cut.npy").write_bytes((folder / "w.npy").read_bytes()[:70])
    np.savez(folder / "x.npz", W)
    (folder / "folder").mkdir()
    return folder


def words(draw: Any) -> list[str]:
    command = draw(st.sampled_from(["compress", "compress", "compress", "info", "demo", "config", "", "x"]))
    some = st.lists(st.one_of(st.sampled_from(FILES), st.sampled_from(OPTIONS), st.sampled_from(VALUES)), max_size=6)
    argv = [command, *draw(some)]
    if command == "compress" and draw(st.booleans()):  # nearly right
        argv += [draw(st.sampled_from(FILES)), "o.safetensors", "--bits", "1", "--force"]
    return argv


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@settings(max_examples=300 * MANY, derandomize=MANY == 1)
@given(st.composite(words)())
def test_words_on_the_command_line(folder: Path, argv: list[str]) -> None:
    """An exit code that is documented, one line for an error; never a traceback."""
    assume(argv[0] != "demo" or any(word in FILES for word in argv[1:]))  # the photo takes long
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in "oe")
    before = (folder / "m.safetensors").read_bytes()
    with inside(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = cli.main(argv)
        except SystemExit as end:  # --help, --version
            code = end.code
        for stream in (out, err):
            stream.flush()
    said = err.buffer.getvalue().decode()
    assert code in (0, 1, 2, 130)
    assert (code == 0) == (not said), (code, said)
    assert not said or (said.startswith("bqq: error: ") and said.count("\n") == 1), said
    assert (folder / "m.safetensors").read_bytes() == before or "m.safetensors" in argv
    assert not [name for name in os.listdir(folder) if name.startswith(".bqq")]
