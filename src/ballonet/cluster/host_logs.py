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
from ballonet.lifecycle.log_reader import LogReader, Position
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.machine.output_log import Entry

#: How often a log that is followed is looked at (seconds), and how many entries are read at a time.
_LOOK_S = 0.3
_MOST = 256


class LogEntries(Stream):
    """The entries of a log, a list with each read; an empty one is the end."""

    def __init__(
        self, session: str, name: str, reader: LogReader, since_s: float | None, until_s: float | None
    ) -> None:
        super().__init__(session)
        self._name = name
        self._reader = reader
        self._since_s, self._until_s = since_s, until_s
        self._follow = False
        self._closed = False
        self._over = False
        self._starts: dict[str, Position] = {}
        self._end: Position = (0, 0)
        self._entries: Iterator[tuple[Position, Entry]] | None = None
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
            found = cls(session, name, LogReader(state_dir_of(name)), _at(since_s), _at(until_s))
            found._follow = follow
            if tail is not None:
                found._end = found._reader.end()
                found._starts = found._reader.last_lines(tail, since=found._since_s, until=found._until_s)
                found._reader.skip_to(min(found._starts.values(), default=found._end))
            return found

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
                    self._ending = not self._follow or self._past_until() or not _goes_on(self._name)
                    self._entries = self._reader.read()
                some, size = [], 0
                for position, entry in islice(self._entries, _MOST):
                    if position >= self._starts.get(entry.stream, self._end) and self._in_time(entry):
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

    def _in_time(self, entry: Entry) -> bool:
        late_enough = self._since_s is None or entry.at >= self._since_s
        return late_enough and (self._until_s is None or entry.at <= self._until_s)

    def _past_until(self) -> bool:
        return self._until_s is not None and time.time() > self._until_s

    async def close(self) -> None:
        def closed() -> None:
            with self._lock:
                self._closed = True
                self._reader.__exit__()

        await asyncio.to_thread(closed)


def _at(moment_s: float | None) -> float | None:
    return time.time() + moment_s if moment_s is not None and moment_s <= 0 else moment_s


def _goes_on(name: str) -> bool:
    """Whether its command may write more."""
    with Registry.open() as registry:
        record = registry.find(name)
        now = None if record is None else lifecycle.refresh(registry, record)
    return now is not None and (now.state.lives or now.state is State.PAUSED)
