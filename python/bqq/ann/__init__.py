"""Vector search: codes of a few bytes a vector, searched as they are.

>>> codec = ann.train(X, code_size=16)  # X: (N, d)
>>> index = ann.Index(codec)
>>> index.add(X)
>>> distances, ids = index.search(Q, k=10)

A compressed :class:`bqq.Matrix` whose rows are vectors is searched as it stands: ``ann.search(q, Q, k)``.
"""

from bqq.ann._codec import Codec, load, train
from bqq.ann._faiss import to_faiss
from bqq.ann._index import Index, open
from bqq.ann._search import search

__all__ = ["Codec", "Index", "load", "open", "search", "to_faiss", "train"]
