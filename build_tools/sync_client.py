"""Writes ``ballonet/control/sync_client.py``: the calls of the async ``Client`` without ``async`` and ``await``.

The connection, which differs more, is written by hand in ``control/client_blocking.py``.
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

from build_tools.python_source import PLAIN, Imports, Source, header

MODULE_DOC = (
    '"""Client of a control socket without asyncio; :mod:`ballonet.control.client` has the one with it."""'
)
CLASS = '''class SyncClient(BlockingConnection):
    """A client without asyncio: ``with SyncClient(path) as client: …``. Use it from one thread at a time.

    :raises ControlError: the socket cannot be connected to; see :class:`ballonet.control.client.Client` for the calls.
    """
'''


def _without_async(text: str) -> str:
    """Source code without ``async`` and ``await``, and with the types of :data:`PLAIN`."""
    lines = text.splitlines(keepends=True)
    names = [
        token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.NAME
    ]
    for token in reversed(names):
        row, column, end = token.start[0] - 1, token.start[1], token.end[1]
        if token.string in ("async", "await"):
            lines[row] = lines[row][:column] + lines[row][end + 1 :]
        elif token.string in PLAIN:
            lines[row] = lines[row][:column] + PLAIN[token.string] + lines[row][end:]
    return "".join(lines)


def render_client(src: Path) -> str:
    """The source code of ``control/sync_client.py``."""
    source = Source.of(src, "ballonet.control.client")
    imports = Imports()
    imports.add("ballonet.control.client_blocking", "BlockingConnection")
    methods = []
    for node in source.find_class("Client").body:
        if not isinstance(node, ast.AsyncFunctionDef):
            continue
        for used in ast.walk(node):
            if isinstance(used, ast.Name) and used.id in source.imports:
                module, name, typing = source.imports[used.id]
                imports.add(module, PLAIN.get(name, name), typing=typing)
        lines = source.text.splitlines()[node.lineno - 1 : node.end_lineno]
        methods.append(_without_async("\n".join(lines) + "\n"))
    future = "from __future__ import annotations"
    top = [header([source.module]), MODULE_DOC, "", future, "", *imports.lines()]
    return "\n".join([*top, "\n", CLASS, *methods])
