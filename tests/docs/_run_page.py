"""Runs the code of a page of the documentation, in its order, in the current folder.

python _run_page.py PAGE.md

Python blocks share one namespace; blocks with a title are written to that file; sh blocks run in bash, in which
$BQQ_PREFIX is where bqq is installed. Blocks of text are no code. Prints how many blocks of each kind ran.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


def main(page: Path, skip: str) -> None:
    counts: collections.Counter[str] = collections.Counter()
    namespace: dict[str, object] = {"__name__": "__page__"}
    for kind, title, code in BLOCK.findall(page.read_text("utf-8")):
        if kind == "text" or (skip and skip in code):
            continue
        if title:
            Path(title).write_text(code)
        elif kind == "python":
            exec(compile(code, f"{page.name}, block {counts['python'] + 1}", "exec"), namespace)
        elif kind == "sh":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
        else:
            sys.exit(f"{page.name}: a block of {kind} that nothing runs")
        counts[kind] += 1
    print(dict(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
