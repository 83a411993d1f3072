"""Reading and writing Python source code: classes of a module, imports, and calls that are wrapped as ruff does it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from pathlib import Path

#: The longest line of code.
WIDTH = 110

#: Asynchronous types, and the same without asyncio.
PLAIN = {"AsyncIterator": "Iterator", "AsyncIterable": "Iterable", "AsyncGenerator": "Generator"}


def file_of(src: Path, module: str) -> Path:
    path = src / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class Source:
    """A module's source code."""

    def __init__(self, src: Path, module: str) -> None:
        self.module = module
        self._src = src
        self.text = file_of(src, module).read_text()
        self.tree = ast.parse(self.text)
        self._lines = self.text.encode().splitlines(keepends=True)  # ast counts bytes

    @staticmethod
    @cache
    def of(src: Path, module: str) -> Source:
        return Source(src, module)

    def find_class(self, name: str) -> ast.ClassDef:
        return next(node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name)

    def text_of(self, node: ast.expr | ast.stmt) -> str:
        """The text of a node. (That of :func:`ast.get_source_segment` splits the whole source each time.)"""
        assert node.end_lineno is not None
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode()

    def segment(self, node: ast.expr) -> str:
        """The text of an expression, on one line."""
        return re.sub(r"\s*\n\s*", " ", self.text_of(node))

    def comment_above(self, node: ast.stmt) -> str:
        """The ``#:`` comment above an assignment."""
        lines = self.text.splitlines()[: node.lineno - 1]
        found: list[str] = []
        while lines and (line := lines.pop().strip()).startswith("#:"):
            found.insert(0, line.removeprefix("#:").strip())
        return " ".join(found)

    @cached_property
    def imports(self) -> dict[str, tuple[str, str, bool]]:
        """Names that can be imported to use them elsewhere: module, name there, whether only for type checkers."""
        here = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = {
            node.name: (self.module, node.name, False) for node in self.tree.body if isinstance(node, here)
        }
        for node in self.tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found[name] = (self.module, name, False)
        found |= {name: (*place, False) for name, place in _imported(self.tree.body)}
        for node in self.tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                found |= {name: (*place, True) for name, place in _imported(node.body)}
        return found

    def origin(self, name: str) -> tuple[str, str, bool]:
        """Like :attr:`imports`, with the module that defines the name."""
        module, there, typing = self.imports[name]
        if module.startswith("ballonet.") and module != self.module:
            other = Source.of(self._src, module)
            if there in other.imports:
                return (*other.origin(there)[:2], typing)
        return module, there, typing

    def lineage(self, name: str) -> list[tuple[Source, ast.ClassDef]]:
        """A class and its bases among ballonet's, the class first, each with its module."""
        cls = self.find_class(name)
        found = [(self, cls)]
        for base in cls.bases:
            if isinstance(base, ast.Name) and base.id in self.imports:
                module = self.imports[base.id][0]
                if module.startswith("ballonet."):
                    found += Source.of(self._src, module).lineage(base.id)
        # A base that two others share comes after both.
        last = {node.name: at for at, (_, node) in enumerate(found)}
        return [pair for at, pair in enumerate(found) if last[pair[1].name] == at]


def _imported(body: Iterable[ast.stmt]) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module not in (None, "__future__"):
            for alias in node.names:
                yield alias.asname or alias.name, (str(node.module), alias.name)


class Imports:
    """The imports of a generated module."""

    def __init__(self) -> None:
        self._found: dict[bool, dict[str, set[str]]] = {False: {}, True: {}}

    def add(self, module: str, name: str, as_name: str | None = None, *, typing: bool = False) -> None:
        text = name if as_name in (None, name) else f"{name} as {as_name}"
        if typing and text in self._found[False].get(module, ()):
            return
        self._found[typing].setdefault(module, set()).add(text)

    def lines(self) -> list[str]:
        if self._found[True]:
            self.add("typing", "TYPE_CHECKING")
        now = self._found[False]
        standard = [module for module in now if not module.startswith("ballonet")]
        lines = [*self._block(standard, now, ""), ""]
        lines += self._block(set(now) - set(standard), now, "")
        if self._found[True]:
            lines += ["", "if TYPE_CHECKING:", *self._block(self._found[True], self._found[True], "    ")]
        return lines

    @staticmethod
    def _block(modules: Iterable[str], found: dict[str, set[str]], indent: str) -> list[str]:
        lines = []
        for module in sorted(modules):
            # As ruff sorts them: constants, classes, all else. A renamed one has a line of its own.
            names = sorted(found[module], key=_rank)
            groups = [[name] for name in names if " as " in name]
            if plain := [name for name in names if " as " not in name]:
                groups.append(plain)
            for group in sorted(groups, key=lambda group: _rank(group[0])):
                lines += wrapped(f"{indent}from {module} import ", group, "", brackets=("", ""))
        return lines


def _rank(name: str) -> tuple[bool, bool, str]:
    return not name.partition(" ")[0].isupper(), not name[0].isupper(), name


def wrapped(
    head: str, items: list[str], tail: str, *, brackets: tuple[str, str] = ("(", ")"), width: int = WIDTH
) -> list[str]:
    """``head(items)tail`` on one line if it fits; otherwise a line for each item."""
    indent = head[: len(head) - len(head.lstrip())]
    one = f"{head}{brackets[0]}{', '.join(items)}{brackets[1]}{tail}"
    if len(one) <= width:
        return [one]
    return [f"{head}(", *(f"{indent}    {item}," for item in items), f"{indent}){tail}"]


def header(sources: Iterable[str]) -> str:
    paths = sorted({f"{module.replace('.', '/')}.py" for module in sources})
    lines = ["# Generated by build_tools/; do not edit. To renew it: python hatch_build.py", "# Sources:"]
    return "\n".join([*lines, *(f"#   src/{path}" for path in paths)])
