"""The output of a sandbox's own command, as a host's agent reads it for a program elsewhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import islice

from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.cluster.stream_kinds import PIECE_BYTES, Stream
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.log_reader import LogReader
from ballonet.lifecycle.log_selection import LogSelection
from ballonet.lifecycle.registry import Registry
from ballonet.machine.output_log import Entry

#: How often a log that is followed is looked at (seconds), and how many entries are read at a time.
_LOOK_S = 0.3
_MOST = 256


class LogEntries(Stream):
    """The entries of a log, a list with each read; an empty one is the end."""

    def __init__(
        self, session: str, name: str, reader: LogReader, selection: LogSelection, *, follow: bool
    ) -> None:
        super().__init__(session)
        self._name = name
        self._reader = reader
        self._selection = selection
        self._follow = follow
        self._closed = False
        self._over = False
        self._entries: Iterator[Entry | None] | None = None
        self._lock = threading.Lock()

    @classmethod
    async def open(
        cls,
        session: str,
        name: str,
        follow: bool,
        tail: int | None,
        since_s: float | None,
        until_s: float | None,
    ) -> LogEntries:
        """
        :param tail: how many lines from the end; ``None``: all.
        :param since_s: unix seconds, or 0 and less: relative to now, on this host's clock, which wrote the log.
        :raises BallonetError: there is no such sandbox, or it has no command.
        """

        def opened() -> LogEntries:
            with Registry.open() as registry:
                record = lifecycle.find(registry, name)
            if record.command is None:
                raise ConfigError(
                    f"sandbox {name!r} has no command, so it has no output",
                    hint=f"'ballonet logs --machine {name}' on its host shows the log of the sandbox process",
                )
            reader = LogReader(state_dir_of(name))
            selection = LogSelection(reader, tail=tail, since_s=_at(since_s), until_s=_at(until_s))
            return cls(session, name, reader, selection, follow=follow)

        return await asyncio.to_thread(opened)

    async def read(self, output: str) -> list[Entry]:
        while True:
            found = await asyncio.to_thread(self._next)
            if found or self._over or self._closed:
                return found
            await asyncio.sleep(_LOOK_S)

    def _next(self) -> list[Entry]:
        """The next entries that are wanted; none: there are none now."""
        with self._lock:
            while not self._closed:
                if self._entries is None:
                    # Asked before the log is read, so that the last words are not missed.
                    self._ending = not self._follow or not self._goes_on()
                    self._entries = self._selection.read()
                some, size = [], 0
                for entry in islice(self._entries, _MOST):
                    if entry is not None:
                        some.append(entry)
                        size += len(entry.content)
                        if size >= PIECE_BYTES:
                            break
                    else:
                        size += 1
                if some:
                    return some
                if not size:
                    self._entries = None
                    self._over = self._ending
                    return []
        return []

    def _goes_on(self) -> bool:
        with Registry.open() as registry:
            return self._selection.goes_on(registry, self._name)

    async def close(self) -> None:
        def closed() -> None:
            with self._lock:
                self._closed = True
                self._reader.__exit__()

        await asyncio.to_thread(closed)


def _at(moment_s: float | None) -> float | None:
    return time.time() + moment_s if moment_s is not None and moment_s <= 0 else moment_s
