"""Codes inside stock FAISS: an additive quantizer whose codebooks are ours reads our codes as they are.

`IndexResidualQuantizer(d, groups, 4, metric, ST_norm_qint8)` stores 4 bits a group, lowest first, and a byte of norm:
the bytes of :meth:`Codec.encode`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bqq import _check
from bqq.ann._codec import Codec
from bqq.ann._index import _ids


def to_faiss(codec: Codec, codes: Any, *, ids: Any = None, lists: int | None = None, seed: int = 0) -> Any:
    """A FAISS index of these codes, for ``faiss-cpu`` as it is: it searches, adds, and saves by FAISS's own means.

    Parameters
    ----------
    codec, codes : codes of ``codec.encode``, (N, code_size)
    ids : N integers; None: 0 to N - 1. FAISS keeps ids in lists and, without lists, in an ``IndexIDMap2``
    lists : inverted lists (``IndexIVFResidualQuantizer``) of the nearest of so many centroids of the decoded vectors;
        codes are not residuals, so one table serves all lists. None: exhaustive (``IndexResidualQuantizer``)
    seed : of the clustering

    Returns
    -------
    faiss.Index
        An ``IndexPreTransform`` where vectors are centred or normalised first. ``index.add(X)`` encodes by FAISS's
        beam search, fast and a little worse than :meth:`Codec.encode`. For ``"cosine"`` it ranks normalised vectors by
        L2, as :meth:`Index.search` does, and returns squared distances, 2 - 2 cos.

    Raises ImportError without FAISS, ValueError or TypeError as :meth:`Index.add_codes`.
    """
    faiss = _faiss()
    if not isinstance(codec, Codec):
        raise TypeError(f"codec is {type(codec).__name__}, expected a bqq.ann.Codec")
    given = codec._codes("codes", codes)
    named = None if ids is None else _ids(ids, len(given))
    entries, center, origin, low, step = codec._core.parts()
    groups = len(entries)
    book = entries.reshape(groups * 16, codec.d).copy()
    book[:16] += center - origin  # of every vector
    ip = codec.metric == "ip"
    metric = faiss.METRIC_INNER_PRODUCT if ip else faiss.METRIC_L2
    kind = faiss.AdditiveQuantizer.ST_LUT_nonorm if ip else faiss.AdditiveQuantizer.ST_norm_qint8
    if lists is None:
        index = faiss.IndexResidualQuantizer(codec.d, groups, 4, metric, kind)
    else:
        count = _check.positive("lists", lists)
        coarse = faiss.IndexFlatIP(codec.d) if ip else faiss.IndexFlatL2(codec.d)
        index = faiss.IndexIVFResidualQuantizer(coarse, codec.d, count, groups, 4, metric, kind)
        index.by_residual = False
        coarse.this.disown()
        index.own_fields = True
        kmeans = faiss.Kmeans(codec.d, count, seed=seed, niter=10, min_points_per_centroid=1)
        decoded = codec.decode(given) - origin
        kmeans.train(decoded)
        coarse.add(kmeans.centroids)
    quantizer = index.rq
    faiss.copy_array_to_vector(book.ravel(), quantizer.codebooks)
    quantizer.norm_min, quantizer.norm_max = low - step / 2, low + 255.5 * step
    quantizer.is_trained = index.is_trained = True
    quantizer.train_type = faiss.ResidualQuantizer.Train_default
    quantizer.compute_codebook_tables()
    if lists is None:
        mapped = None if named is None else faiss.IndexIDMap2(index)  # while it is empty
        faiss.copy_array_to_vector(given.ravel(), index.codes)
        index.ntotal = len(given)
        if mapped is not None:
            index = _named(faiss, mapped, index, named)
    else:
        _fill(faiss, index, coarse.search(decoded, 1)[1][:, 0], given, named)
    return _behind(faiss, index, codec, origin)


def _faiss() -> Any:
    import faiss

    return faiss


def _named(faiss: Any, mapped: Any, index: Any, ids: Any) -> Any:
    faiss.copy_array_to_vector(ids, mapped.id_map)
    mapped.ntotal = index.ntotal
    mapped.construct_rev_map()
    index.this.disown()
    mapped.own_fields = True
    return mapped


def _fill(faiss: Any, index: Any, nearest: Any, codes: Any, ids: Any) -> None:
    names = np.arange(len(codes), dtype=np.int64) if ids is None else ids
    for at in np.unique(nearest):
        mine = np.flatnonzero(nearest == at)
        part, of = np.ascontiguousarray(codes[mine]), np.ascontiguousarray(names[mine])
        index.invlists.add_entries(int(at), len(mine), faiss.swig_ptr(of), faiss.swig_ptr(part))
    index.ntotal = len(codes)


def _behind(faiss: Any, index: Any, codec: Codec, origin: Any) -> Any:
    """The transforms that the codec makes first."""
    chain = []
    if codec.metric == "cosine":
        chain.append(faiss.NormalizationTransform(codec.d, 2.0))
    if origin.any():
        centering = faiss.CenteringTransform(codec.d)
        faiss.copy_array_to_vector(origin, centering.mean)
        centering.is_trained = True
        chain.append(centering)
    for transform in reversed(chain):
        whole = faiss.IndexPreTransform(transform, index)
        for part in (transform, index):
            part.this.disown()
        whole.own_fields = True
        index = whole
    return index
