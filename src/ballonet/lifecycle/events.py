"""Events of all sandboxes: what happened to which one, with ids that only grow.

The registry has them in a table. Its triggers add the events of a sandbox's life in the transaction that changes the
sandbox's row (:mod:`ballonet.lifecycle.schema`). Events of its memory are copied from the file that the sandbox's own
process writes. An end is recorded when a program looks at the sandbox; following the events looks every second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ballonet.base.dataclass import dataclass, field
from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir
from ballonet.base.suggest import hint_for
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.filters import Filters, parse_filters
from ballonet.lifecycle.own_events import copy_own_events
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import FILE_NAME, Registry

#: What can happen.
EVENTS = (
    *("created", "started", "resumed", "paused", "stopped", "failed", "removed", "renamed"),
    *("healthy", "unhealthy", "resized", "relief"),
)
#: How often the sandboxes are looked at while events are followed (seconds).
LOOK_S = 1.0
#: How often the registry is checked for changes by other programs (seconds).
POLL_S = 0.1
_COLUMNS = "id, at, event, sandbox, image, labels, run_id, reason, detail, exit_code, old_mib, new_mib"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a sandbox."""

    #: Grows with every event of this user's sandboxes, in the order in which they were recorded.
    id: int
    #: When it happened (unix seconds). An end may be recorded later than that.
    at: float
    #: One of :data:`EVENTS`.
    event: str
    sandbox: str
    image: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None
    #: Of an end: as in ``inspect``.
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    #: Of the memory: the targets before and after.
    old_mib: int | None = None
    new_mib: int | None = None


class EventFilter:
    """Selects events: those of one of the kinds, of sandboxes that the filters select."""

    def __init__(self, words: Iterable[str] = ()) -> None:
        """:raises ConfigError: a filter is not valid."""
        words = list(words)
        self._kinds = [_kind(word) for word in words if word.startswith("event=")]
        self._sandboxes = parse_filters(word for word in words if not word.startswith("event="))
        if self._sandboxes.states:
            raise ConfigError("events have no filter 'state'", hint=f"write event={'|'.join(EVENTS[1:6])}")

    def match(self, event: Event) -> bool:
        """Whether ``event`` is selected."""
        if self._kinds and event.event not in self._kinds:
            return False
        sandboxes: Filters = self._sandboxes
        record = Record(name=event.sandbox, created_at=0.0, flags=(), image=event.image, labels=event.labels)
        return sandboxes.match(record)


def _kind(word: str) -> str:
    kind = word.partition("=")[2]
    if kind not in EVENTS:
        raise ConfigError(
            f"filter {word[:60]!r}: there is no such event",
            hint=hint_for(kind, EVENTS, f"choose one of {', '.join(EVENTS)}"),
        )
    return kind


class EventReader:
    """Reads events in their order. Use :meth:`read` in one thread at a time; it may block for a moment.

    :param since: read what follows the event with this id; ``None``: from the oldest that is kept.
    :raises ConfigError: there is no such event yet.
    """

    def __init__(self, since: int | None = None) -> None:
        self._last = 0 if since is None else since
        #: Events up to this id may be missing, because only the newest are kept.
        self.dropped_up_to: int | None = None
        #: The sandboxes when they were looked at last.
        self.sandboxes: list[Record] = []
        self._looked_at = -float("inf")
        self._seen: tuple[Any, ...] = ()
        if since is None:
            return
        with Registry.open() as registry:
            newest, dropped = newest_id(registry), dropped_up_to(registry)
        if since < 0 or since > newest:
            raise ConfigError(
                f"there is no event {since}: the newest is {newest}",
                hint="the registry may be another one than that of the last time; leave out the id to read all events",
            )
        if since < dropped:
            self.dropped_up_to = dropped

    def read(self) -> list[Event]:
        """The events since the last call. The sandboxes are looked at, too, at most once per :data:`LOOK_S`."""
        due = time.monotonic() - self._looked_at >= LOOK_S
        changed = self._state_of_files()
        if not due and changed == self._seen:
            return []
        with Registry.open() as registry:
            if due:
                self._looked_at = time.monotonic()
                self.sandboxes = look(registry)
            events = events_after(registry, self._last)
        # As before the read: a later change is seen the next time.
        self._seen = changed
        if events:
            self._last = events[-1].id
        return events

    def look_again(self) -> None:
        """Let the next :meth:`read` look at the sandboxes."""
        self._looked_at = -float("inf")

    @staticmethod
    def _state_of_files() -> tuple[Any, ...]:
        """What differs after each commit to the registry."""
        found: list[Any] = []
        for name in (FILE_NAME, f"{FILE_NAME}-wal"):
            try:
                status = (state_dir() / name).stat()
                found += [status.st_ino, status.st_size, status.st_mtime_ns]
            except OSError:
                found.append(None)
        return tuple(found)


def look(registry: Registry) -> list[Record]:
    """Record what has happened to sandboxes without a program's doing: ends, and changes of their memory. Returns all
    sandboxes."""
    records = lifecycle.list_sandboxes(registry)
    for record in records:
        if record.unreadable is None and record.state is not State.CREATED:
            copy_own_events(registry, record)
    return records


def events_after(registry: Registry, id: int, limit: int = -1) -> list[Event]:
    """Events with greater ids in their order, at most ``limit``; -1: all."""
    rows = registry.execute(
        f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608  (constant names)
        [id, limit],
    )
    return [_event(row) for row in rows]


def newest_id(registry: Registry) -> int:
    """The id of the newest event; 0 if there was none."""
    rows = registry.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
    return int(rows[0][0]) if rows else 0


def dropped_up_to(registry: Registry) -> int:
    """Events with ids up to this one may not be kept any more; 0: all are kept."""
    return int(registry.execute("SELECT up_to FROM events_dropped")[0][0])


def _event(row: Sequence[Any]) -> Event:
    names = _COLUMNS.split(", ")
    values = dict(zip(names, row, strict=True))
    try:
        labels = json.loads(values["labels"])
    except ValueError:  # of a damaged row
        labels = {}
    return Event(**{**values, "labels": labels if isinstance(labels, dict) else {}})
