"""Which part of a sandbox's log is wanted, and whether more of it may come."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.log_reader import LogReader, Position
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.machine.output_log import Entry


class LogSelection:
    """The wanted entries of a log, to which ``reader`` is moved.

    :param tail: how many of the lines that are there now, from the end; ``None``: all. Later lines are all wanted.
    :param since_s: Unix seconds; only entries from then on.
    :param until_s: likewise, only entries up to then.
    """

    def __init__(
        self, reader: LogReader, *, tail: int | None, since_s: float | None, until_s: float | None
    ) -> None:
        self._reader = reader
        self._since_s, self._until_s = since_s, until_s
        self._end: Position = (0, 0) if tail is None else reader.end()
        self._starts = {} if tail is None else reader.last_lines(tail, since=since_s, until=until_s)
        reader.skip_to(min(self._starts.values(), default=self._end))

    def read(self) -> Iterator[Entry | None]:
        """The entries from the current position to the current end; ``None`` in the place of one that is not wanted."""
        for position, entry in self._reader.read():
            yield (
                entry
                if position >= self._starts.get(entry.stream, self._end) and self._in_time(entry)
                else None
            )

    def goes_on(self, registry: Registry, name: str) -> bool:
        """Whether the command of the sandbox may write more that is wanted. Ask before reading the last entries."""
        if self._until_s is not None and time.time() > self._until_s:
            return False
        record = registry.find(name)
        now = None if record is None else lifecycle.refresh(registry, record)
        return now is not None and (now.state.lives or now.state is State.PAUSED)

    def _in_time(self, entry: Entry) -> bool:
        late_enough = self._since_s is None or entry.at >= self._since_s
        return late_enough and (self._until_s is None or entry.at <= self._until_s)
