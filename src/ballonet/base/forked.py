"""Closes connections in children that this process forks.

The other end of a connection sees it closed only when every copy of its descriptor is closed. A copy in a forked child
would let an owned sandbox outlive its program, and a command its client. So the child replaces each copy by
``/dev/null`` at once. The descriptor keeps its number: objects that still hold it can neither disturb the parent's
connection nor close another file of the child. Programs that the child executes do not get them: they are closed on
exec.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_transports: weakref.WeakSet[Any] = weakref.WeakSet()
#: Objects of the parent, kept alive in this child: their destructors would use the parent's event loop.
_kept: list[object] = []


def keep_from_children(connection: socket.socket | Any) -> None:
    """Close ``connection`` (a socket or an asyncio transport) in every child that this process forks."""
    if isinstance(connection, socket.socket):
        _sockets.add(connection)
    else:
        _transports.add(connection)


def never_destroy(*things: object) -> None:
    """Keep objects of the parent alive in a forked child, so that no destructor runs."""
    _kept.extend(thing for thing in things if thing is not None)


def _in_child() -> None:
    connections: list[Any] = list(_sockets)
    connections += [
        found for transport in _transports if (found := transport.get_extra_info("socket")) is not None
    ]
    if not connections:
        return
    never_destroy(*_sockets, *_transports)
    _sockets.clear()
    _transports.clear()
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for connection in connections:
            if (fd := connection.fileno()) >= 0:
                os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)


os.register_at_fork(after_in_child=_in_child)
