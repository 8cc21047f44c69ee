"""Codes inside stock FAISS."""

from __future__ import annotations

from typing import Any


def to_faiss(codec: Any, codes: Any) -> Any:
    raise NotImplementedError
