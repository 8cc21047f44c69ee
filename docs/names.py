"""For mkdocstrings: our docstrings say what a parameter is behind its name, where NumPy style wants a type."""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(\*?\w[\w, *]*?) : (.*)$")


class Names(griffe.Extension):
    """Moves the text behind `name :` below it, in sections of parameters."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        lines, inside = [], False
        found = obj.docstring.value.split("\n")
        for i, line in enumerate(found):
            if i + 1 < len(found) and re.fullmatch(r"-{3,}", found[i + 1]):
                inside = line in ("Parameters", "Attributes")
            entry = ENTRY.match(line) if inside else None
            lines += [entry[1], f"    {entry[2]}"] if entry else [line]
        obj.docstring.value = "\n".join(lines)
