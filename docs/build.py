"""Builds the documentation, and fails on any warning or dead link.

    python docs/build.py SITE

Pages of its own lie in docs/pages; format, design, contribution guide, changes and the pages of engines are those of
the repository, the reference of C and C++ is taken from the headers, tables from bench/results, pictures are drawn.
"""

from __future__ import annotations

import html.parser
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT), str(DOCS)]

COPIED = {  # file of the repository -> page
    "cpp/FORMAT.md": "format.md",
    "cpp/DESIGN.md": "inside.md",
    "cuda/DESIGN.md": "gpu.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "tests/cuda/README.md": "emulation.md",
    "integrations/conan/README.md": "conan.md",
    "integrations/faiss/README.md": "faiss.md",
    "integrations/hnswlib/README.md": "hnswlib.md",
    "integrations/ncnn/README.md": "ncnn.md",
    "integrations/jax/README.md": "jax.md",
    "integrations/onnxruntime/README.md": "onnxruntime.md",
    "integrations/openvino/README.md": "openvino.md",
}


def relinked(text: str, source: str, pages: Path) -> str:
    """Relative links to files of the repository, as pages of the site; what is no page is copied beside them."""

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"\w+:", target):
            return match[0]
        path = (ROOT / source).parent.joinpath(target).resolve()
        name = path.relative_to(ROOT).as_posix()
        if name in COPIED:
            return f"{match[1]}({COPIED[name]}{'#' + anchor if anchor else ''})"
        if name == "README.md":
            return f"{match[1]}(index.md)"
        if path.is_dir():
            return match[1].strip("[]")
        copy = pages / "files" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        return f"{match[1]}(files/{name})"

    return re.sub(r"(\[[^\]\n]*\])\(([^)\s]+)\)", link, text)


def c_reference(header: str) -> str:
    """A header of the C interface as a page: its sections, comments and declarations."""
    text = (ROOT / "cpp/include/bqq" / header).read_text()
    head, _, rest = text.partition("#ifndef BQQ_BQQ_")
    out = [f"# C: bqq/{header}\n", re.sub(r"^// ?", "", head, flags=re.M)]
    body = rest.partition('extern "C" {\n#endif\n')[2].rpartition("#ifdef __cplusplus")[0]
    for piece in re.split(r"^// ---- (.*) ----$", "// ---- constants ----\n" + body, flags=re.M)[1:]:
        out.append(f"## {piece[0].upper() + piece[1:]}\n" if "\n" not in piece else declarations(piece, "c"))
    return "\n".join(out)


def declarations(text: str, language: str) -> str:
    """Comments as text, what they stand before as code."""
    out = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.strip("\n").split("\n")
        count = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
        comment = "\n".join(re.sub(r"^///? ?", "", line) for line in lines[:count])
        code = "\n".join(lines[count:]).replace("BQQ_API ", "")
        name = re.search(r"\b(bqq_\w+)(?=\()", code) or re.search(r"\b(?:struct|enum|class) (\w+)", code)
        if name and language == "c":
            out.append(f"### {name[1]}\n")
        out.append(comment.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_") + "\n")
        if code.strip():
            out.append(f"```{language}\n{code}\n```\n")
    return "\n".join(out)


def cpp_reference() -> str:
    out = ["# C++: bqq/bqq.hpp\n", "Namespace `bqq`, C++17. `bqq/bqq.hpp` includes all of the headers below.\n"]
    for header in sorted((ROOT / "cpp" / "include" / "bqq").glob("*.hpp")):
        if header.name == "bqq.hpp":
            continue
        text = header.read_text()
        before, _, rest = text.partition("namespace bqq {")
        comment = [line for line in before.split("\n") if line.startswith("//")]
        out += [
            f"## bqq/{header.name}\n",
            "\n".join(re.sub(r"^// ?", "", line) for line in comment).replace("<", "&lt;"),
        ]
        body = rest.rpartition("} // namespace bqq")[0].strip("\n")
        out.append(f"\n```cpp\n{body.replace('BQQ_API ', '')}\n```\n")
    return "\n".join(out)


def cli_reference() -> str:
    def usage(*words: str) -> str:
        command = [sys.executable, "-m", "bqq", *words, "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout

    out = ["# Command line\n", f"```text\n{usage()}```\n"]
    for name in ("compress", "info", "demo", "config"):
        out += [f"## bqq {name}\n", f"```text\n{usage(name)}```\n"]
    return "\n".join(out)


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}


def engines_table(file: str) -> str:
    """What bench.engines measured."""
    from bench.machine import read_csv

    machine, rows = read_csv(ROOT / "bench" / "results" / file)
    head = [name for name in rows[0] if name != "commit"]
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *([row[h] for h in head] for row in rows))]
    table = "\n".join(f"| {line} |" for line in lines)
    return f"{table}\n\n{machine}. `python -m bench.engines --csv bench/results/{file}`\n"


def gather(pages: Path) -> None:
    """All pages, as mkdocs reads them."""
    import pictures

    shutil.copytree(DOCS / "pages", pages)
    for source, page in COPIED.items():
        (pages / page).write_text(relinked((ROOT / source).read_text(), source, pages))
    (pages / "api" / "c.md").write_text(c_reference("bqq.h"))
    (pages / "api" / "c_ann.md").write_text(c_reference("bqq_ann.h"))
    (pages / "api" / "cpp.md").write_text(cpp_reference())
    (pages / "api" / "cli.md").write_text(cli_reference())
    performance = (pages / "performance.md").read_text()
    (pages / "performance.md").write_text(relinked(performance, "docs/pages/performance.md", pages))
    engines = (pages / "engines.md").read_text()
    tables = "\n".join(map(engines_table, ("openvino.csv", "openvino_zen4.csv")))
    (pages / "engines.md").write_text(engines.replace("<!-- engines -->", tables))
    pictures.main(pages / "pictures")
    shutil.copy(ROOT / "bench" / "results" / "bqq-demo.png", pages / "pictures" / "demo.png")


class Links(html.parser.HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.to: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.to += [value for key in ("href", "src") if (value := given.get(key))]
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}


def dead_links(site: Path) -> list[str]:
    """Links of the site that lead nowhere, one line each; those to other sites are not followed."""
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        for address in page.to:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = urllib.parse.unquote(parts.fragment)
            known = pages[target].anchors if target in pages else set()
            if not target.exists() or (
                anchor and target.suffix == ".html" and anchor not in known and anchor != "__top"
            ):
                found.append(f"{path.relative_to(site)}: {address}")
    return found


def build(site: Path) -> None:
    site = site.resolve()
    work = site.parent / f"{site.name}-pages"
    for folder in (site, work):
        shutil.rmtree(folder, ignore_errors=True)
    work.mkdir(parents=True)
    gather(work / "pages")
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text().replace("NAMES", str(DOCS / "names.py")))
    config.update(docs_dir="pages", site_dir=str(site))
    (work / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(work / "mkdocs.yml")]
    subprocess.run(command, check=True, env={**environment(), "NO_MKDOCS_2_WARNING": "1"})
    if dead := dead_links(site):
        sys.exit("dead links:\n" + "\n".join(dead))
    shutil.rmtree(work)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build(Path(sys.argv[1]))
