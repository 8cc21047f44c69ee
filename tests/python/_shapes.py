"""How long the functions of the sources are and how many parameters they take.

Of C++, comments, strings and the preprocessor's lines are blanked out and braces matched. A body is a brace after a
closing parenthesis and what may stand between; a lambda belongs to the function around it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CONTROL = re.compile(r"\b(?:if|for|while|switch|catch|return|do|else)\b")
AFTER = r"(?:\s*(?:const|noexcept|override|final|mutable|try|&&?|->\s*[\w:<>,\s*&]+|:\s.*))*\s*$"
HEAD = re.compile(r"((?:[\w:~]+|operator\s*[^\s(]+|operator\s*\(\s*\)))\s*\($")
NOT_A_NAME = re.compile(r"^(?:operator|__launch_bounds__|alignas|__attribute__|decltype|noexcept|requires)$")


class Function(NamedTuple):
    """Where a function stands, how many lines it has from its name to its last brace, how many parameters."""

    name: str
    line: int
    lines: int
    parameters: int
    kernel: bool  # __global__


def cpp_functions(text: str) -> Iterator[Function]:
    """The functions that a formatted C++ file defines."""
    code = _blanked(text)
    start = 0  # where the text before a brace begins
    opened_by: list[tuple[tuple[str, int, bool], int] | None] = []  # of each open brace the function, if it is one's
    for match in re.finditer(r"[{};]", code):
        at, what = match.start(), match[0]
        if what == "{":
            opened = None
            if not any(opened_by) and (signature := _signature(code[start:at])):
                opened = (signature, start + len(code[start:at]) - len(code[start:at].lstrip()))
            opened_by.append(opened)
        elif what == "}" and opened_by and (closed := opened_by.pop()):
            (name, parameters, kernel), begin = closed
            first, last = code.count("\n", 0, begin) + 1, code.count("\n", 0, at) + 1
            yield Function(name, first, last - first + 1, parameters, kernel)
        if what != ";" or not _inside_parentheses(code[start:at]):
            start = at + 1


def python_functions(text: str) -> Iterator[Function]:
    """The functions of a Python file; keyword-only parameters do not count, nor does the docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            prose = (first.end_lineno or first.lineno) - first.lineno + 1 if is_text else 0
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - prose
            yield Function(node.name, node.lineno, lines, len(node.args.posonlyargs + node.args.args), False)


def functions(path: Path) -> list[Function]:
    """The functions of a source file."""
    text = path.read_text("utf-8")
    return list(python_functions(text) if path.suffix == ".py" else cpp_functions(text))


def _blanked(text: str) -> str:
    """The code alone, of the same length and lines."""
    token = (
        r'//[^\n]*|/\*.*?\*/|R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*'
    )
    return re.sub(token, lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S | re.M)


def _inside_parentheses(text: str) -> bool:
    return text.count("(") > text.count(")")


def _signature(head: str) -> tuple[str, int, bool] | None:
    """Name, number of parameters and whether it is a kernel, if `head` is what stands before a function's body."""
    head = head.strip()
    depth = 0
    for i, char in enumerate(head):
        if char == "(" and depth == 0:
            named = HEAD.search(head[: i + 1])
            end = _closing(head, i)
            if named and end and not NOT_A_NAME.match(named[1]):
                if CONTROL.match(named[1]) or "=" in head[:i] or "[" in head[:i].rpartition("]]")[2]:
                    return None
                if not re.match(AFTER, head[end + 1 :], re.S):
                    return None
                return named[1], _count(head[i + 1 : end]), "__global__" in head[:i]
        depth += (char == "(") - (char == ")")
    return None


def _closing(text: str, opened: int) -> int | None:
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return None


def _count(parameters: str) -> int:
    """How many there are: commas outside brackets, plus one."""
    if parameters.strip() in ("", "void"):
        return 0
    depth = count = 0
    for char in parameters.replace("->", "  "):
        depth += (char in "(<[{") - (char in ")>]}")
        count += char == "," and depth == 0
    return count + 1
