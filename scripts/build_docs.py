"""Builds the documentation site: ``python -m scripts.build_docs [--serve]``. The result is in ``build/site``.

MkDocs reads pages from one directory, and these lie in several: README.md, docs/, the READMEs of other
directories, and the help of the command line. They are collected in ``build/pages``, with their links adjusted. This
needs no hook or plug-in of MkDocs.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ballonet.cli.commands import COMMANDS, build_parser
from ballonet.cli.overview import GROUPS

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build/pages"

#: Files outside docs/ that are pages of the site.
COLLECTED = {
    "README.md": "index.md",
    "bench/README.md": "benchmarks.md",
    "clients/typescript/README.md": "typescript.md",
    "fuzz/README.md": "fuzzing.md",
    "tests/chaos/README.md": "chaos.md",
    "tests/machines/README.md": "machines.md",
}
#: Directories whose files become one page, with the page's title.
LISTED = {
    "examples": ("examples.md", "Python examples", "*.py"),
    "contrib/prometheus": ("prometheus.md", "Files for Prometheus", "*.yml"),
}
#: Files that pages link to, copied as they are.
COPIED = {"contrib/grafana/ballonet.json": "ballonet.json", "docs/site.css": "site.css"}

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"`[^`]+`")
_FENCE = re.compile(r"^ *(```|~~~)")


def stage(pages: Path) -> None:
    """Collects all pages in ``pages``, which is emptied first.

    :raises ValueError: a page links to a file that is not on the site.
    """
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    sources = {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")} | COLLECTED
    for source, target in sources.items():
        (pages / target).write_text(for_site((ROOT / source).read_text(), source))
    for directory, (target, title, pattern) in LISTED.items():
        (pages / target).write_text(directory_page(ROOT / directory, title, pattern))
    for source, target in COPIED.items():
        shutil.copyfile(ROOT / source, pages / target)
    (pages / "commands.md").write_text(commands_page())


def for_site(text: str, source: str) -> str:
    """A page's text as MkDocs needs it: links to other files of the repository are links within the site."""

    def replaced(match: re.Match[str]) -> str:
        link = match[2]
        if "://" in link or link.startswith(("#", "mailto:")):
            return match[0]
        path, mark, anchor = link.partition("#")
        return f"{match[1]}{on_site(posixpath.join(posixpath.dirname(source), path), source)}{mark}{anchor}{match[3]}"

    lines, fenced = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        if not fenced:
            line = _LINK.sub(replaced, line)
            # In code in a table, GitHub needs "\\|", and MkDocs would show the backslash.
            if line.startswith("|"):
                line = _CODE.sub(lambda code: code[0].replace("\\|", "|"), line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def on_site(path: str, source: str) -> str:
    """Where a file of the repository is on the site, in which all pages lie in one directory."""
    path = posixpath.normpath(path)
    if path in COLLECTED:
        return COLLECTED[path]
    if path in LISTED:
        return LISTED[path][0]
    if path in COPIED:
        return COPIED[path]
    directory, name = posixpath.split(path)
    if directory != "docs":
        raise ValueError(f"{source} links to {path}, which is not on the site: see scripts/build_docs.py")
    return name  # whether it exists is MkDocs' to check


def directory_page(directory: Path, title: str, pattern: str) -> str:
    """One page with all files of a directory in full."""
    lines = [f"# {title}", ""]
    for path in sorted(directory.glob(pattern)):
        language = "python" if path.suffix == ".py" else "yaml"
        lines += [f"## {path.name}", "", f"```{language}", path.read_text().rstrip(), "```", ""]
    return "\n".join(lines)


def commands_page() -> str:
    """The help of all commands, in the order of ``ballonet help``."""
    os.environ["COLUMNS"] = "80"  # argparse wraps to the terminal's width
    lines = [
        "# Commands",
        "",
        "What `ballonet help COMMAND` prints, for every command. What the commands do and how they end is explained in "
        "[Sandboxes](sandboxes.md).",
        "",
    ]
    for title, names in GROUPS:
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"### {name}", ""]
            for words, parser in parsers(build_parser(name).find([name]), [name]):
                if len(words) > 1:
                    lines += [f"#### {' '.join(words)}", ""]
                lines += ["```text", parser.format_help().rstrip(), "```", ""]
    assert {name for _, names in GROUPS for name in names} == set(COMMANDS)
    return "\n".join(lines)


def parsers(
    parser: argparse.ArgumentParser, words: list[str]
) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """A command's parser and those of its sub-commands, each with the words that name it."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from parsers(sub, [*words, name])


def run_mkdocs(command: str, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[bytes]:
    """``mkdocs build`` or ``mkdocs serve``. A warning, such as for a broken link, fails it."""
    # Material for MkDocs advertises its successor on every build otherwise.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    arguments = [sys.executable, "-m", "mkdocs", command, "--strict", "--config-file", str(config)]
    return subprocess.run(arguments, env=environment, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="build_docs", description="Build the documentation site.")
    parser.add_argument("--serve", action="store_true", help="serve it on http://127.0.0.1:8000 until Ctrl-C")
    options = parser.parse_args()
    stage(PAGES)
    return run_mkdocs("serve" if options.serve else "build").returncode


if __name__ == "__main__":
    sys.exit(main())
