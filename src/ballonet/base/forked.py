"""What a child made by ``fork`` must not have of us: the connections that its parent has open.

A line counts as hung up only when every copy of its descriptor is closed. With a copy in a forked child, an owned
sandbox would outlive its program, and a command its client. So the copies go in the child, at once: each descriptor is
made to lead nowhere (``/dev/null``) and keeps its number, so that objects which still hold it can neither disturb the
parent's connection nor close another file of the child's. Programs that the child starts never get them: they are
closed on exec.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_transports: weakref.WeakSet[Any] = weakref.WeakSet()
#: Objects of the parent's that were dropped in this child: their destructors would talk to the parent's event loop.
_kept: list[object] = []


def keep_from_children(connection: socket.socket | Any) -> None:
    """Take a connection (a socket, or a transport of asyncio) away from the children that this process forks."""
    if isinstance(connection, socket.socket):
        _sockets.add(connection)
    else:
        _transports.add(connection)


def never_destroy(*things: object) -> None:
    """Hold on to the parent's objects in a forked child, so that no destructor runs."""
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
