"""Stands between a guest and its name server: passes on what :mod:`ballonet.machine.name_queries` lets through.

The guest's queries arrive on one socket, the name server is at the other end of another one. Both are in the sandbox's
network namespace, where the name server listens on loopback, which a guest does not reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

from ballonet.machine.name_queries import NameLimits, Query

#: The longest packet that is read.
_MAX_BYTES = 4096
#: How many queries may wait for the name server: the oldest is forgotten.
_MOST_WAITING = 256
#: How many packets are handled before others have their turn.
_AT_ONCE = 32

#: Called with the name, the type of the query, and whether it was forwarded.
Asked = Callable[[str, str, bool], None]


class NameGate:
    """Call :meth:`open` when the name server answers, and :meth:`close` at the end; the sockets stay open."""

    def __init__(self, guest: socket.socket, server: socket.socket, limits: NameLimits, asked: Asked) -> None:
        self._guest, self._server = guest, server
        self._limits = limits
        self._asked = asked
        self._waiting: dict[int, tuple[Query, tuple[str, int]]] = {}
        self._number = 0

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._guest, self._read, self._guest, self._query)
        loop.add_reader(self._server, self._read, self._server, self._answer)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._guest)
        loop.remove_reader(self._server)

    def _read(self, source: socket.socket, handle: Callable[[bytes, tuple[str, int]], None]) -> None:
        # An error: no more packets, or the name server has ended.
        with contextlib.suppress(OSError):
            for _ in range(_AT_ONCE):
                handle(*source.recvfrom(_MAX_BYTES))

    def _query(self, packet: bytes, sender: tuple[str, int]) -> None:
        query = Query.read(packet)
        if query is None:
            return
        decision = self._limits.decide(query, time.monotonic())
        if not decision.forwarded:
            self._asked(query.name, query.type_name, False)
            self._send(query.answer(refused=decision.refused), sender)
            return
        self._number = (self._number + 1) & 0xFFFF
        self._waiting.pop(self._number, None)
        if len(self._waiting) >= _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[self._number] = query, sender
        with contextlib.suppress(OSError):
            self._server.send(query.anew(self._number))

    def _answer(self, packet: bytes, _: object) -> None:
        query, sender = self._waiting.get(int.from_bytes(packet[:2]), (None, None))
        answer = None if query is None else query.answered(packet)
        if answer is not None and sender is not None:
            del self._waiting[int.from_bytes(packet[:2])]
            self._send(answer, sender)

    def _send(self, packet: bytes, to: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            self._guest.sendto(packet, to)
