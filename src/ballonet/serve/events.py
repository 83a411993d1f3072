"""The events of all sandboxes as one stream: what the registry's log of events has, and the moves of the balloons.

The log outlives the server, so that a client continues after any event that is kept, by its id. The moves come from the
control sockets as they happen, and are not stored: a client that comes back gets the state of each balloon instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Self

from ballonet.base.dataclass import asdict
from ballonet.base.errors import BallonetError
from ballonet.base.timestamps import iso_time
from ballonet.lifecycle import events as log_of_events
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.serve.server_events import event

log = logging.getLogger(__name__)

#: How many of the latest events are in memory. Older ones are read from the log.
KEPT = 4096
#: How many events of the log are read at once.
_PAGE = 256
#: How long the log is read after the last client has left (seconds).
_LINGER_S = 60.0
#: The fields of a balloon whose change is an event.
_BALLOON_FIELDS = ("limit_mib", "requested_mib", "target_mib", "actual_mib", "state", "driver", "detail")
#: The states that sandboxes have after these events.
_STATES = {
    "started": "running",
    "resumed": "running",
    "paused": "paused",
    "stopped": "stopped",
    "failed": "failed",
}


class Event(NamedTuple):
    """One event."""

    #: Its id in the log; ``None``: it is not in the log.
    id: int | None
    kind: str
    data: dict[str, Any]
    #: As it is sent: the same for all clients.
    encoded: bytes

    @classmethod
    def of(cls, id: int | None, kind: str, data: dict[str, Any]) -> Self:
        return cls(id, kind, data, event(kind, data, None if id is None else str(id)))

    @classmethod
    def balloon(cls, name: str, state: dict[str, Any]) -> Self:
        return cls.of(None, "balloon", {"at": iso_time(time.time()), "name": name, **state})

    @classmethod
    def reset(cls, id: int, reason: str) -> Self:
        return cls.of(id, "reset", {"at": iso_time(time.time()), "reason": reason})


def event_of(logged: log_of_events.Event) -> Event:
    """What is sent for an event of the log: before one that changes the state of a sandbox, 'state'. That has no id, so
    that a client that has the id has both."""
    data = asdict(logged) | {"at": iso_time(logged.at), "name": logged.sandbox}
    found = Event.of(logged.id, logged.event, data)
    if (state := _STATES.get(logged.event)) is None:
        return found
    end = {"end_reason": logged.reason, "end_detail": logged.detail, "exit_code": logged.exit_code}
    before = event("state", {"at": data["at"], "name": logged.sandbox, "state": state, **end})
    return found._replace(encoded=before + found.encoded)


class EventSource:
    """:param blocking: makes a call in a thread."""

    def __init__(self, blocking: Callable[..., Awaitable[Any]]) -> None:
        self._blocking = blocking
        #: With numbers of their own, which clients do not see.
        self._kept: deque[tuple[int, Event]] = deque(maxlen=KEPT)
        self._next = 1
        #: The id of the last event of the log that was read.
        self._last = 0
        self._news = asyncio.Event()
        self._look_now = asyncio.Event()
        self._readers = 0
        self._left_at = 0.0
        self._beginning = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._balloons: dict[str, tuple[str | None, asyncio.Task[None]]] = {}
        self._balloon_states: dict[str, Event] = {}

    async def newest(self) -> int:
        """The id of the last event; those that follow it can be followed."""
        self._left_at = time.monotonic()
        async with self._beginning:
            if self._watching is None or self._watching.done():
                reader, self._last = await self._blocking(_open)
                self._watching = asyncio.create_task(self._watch(reader))
        return self._last

    async def follow(self, after: str | None = None) -> AsyncIterator[Event]:
        """Events from now on, or those after the one with the id ``after``. If some of those are not known any more,
        the first event is ``reset``: the client reads the state of all sandboxes anew.

        A client that is too slow for the events in memory gets them from the log. Nothing is kept for it.
        """
        self._readers += 1
        try:
            last = await self.newest()
            position, behind = self._next, bool(after)
            if after:
                last = _id_in(after)
            while True:
                if self._kept and position < self._kept[0][0]:
                    behind = True  # it was too slow
                if behind:
                    position, behind = self._next, False
                    if lost := await self._blocking(_why_lost, last):
                        last = self._last
                        yield Event.reset(last, lost)
                    for found in list(self._balloon_states.values()):
                        yield found
                    async for found in self._logged(last):
                        last = found.id or last
                        yield found
                    continue
                if position >= self._next:
                    await self._news.wait()
                    continue
                found = self._kept[position - self._kept[0][0]][1]
                position += 1
                if found.id is None:
                    yield found
                elif found.id > last:
                    last = found.id
                    yield found
        finally:
            self._readers -= 1
            self._left_at = time.monotonic()

    async def logged(self, after: str | None) -> AsyncIterator[Event]:
        """The events that are in the log now, after the one with the id ``after``."""
        first = _id_in(after) if after else 0
        if lost := await self._blocking(_why_lost, first):
            first = await self.newest()
            yield Event.reset(first, lost)
        async for found in self._logged(first):
            yield found

    def look(self) -> None:
        """Look at the sandboxes now: something may have changed."""
        self._look_now.set()

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _logged(self, last: int) -> AsyncIterator[Event]:
        while page := await self._blocking(_page_after, last):
            for logged in page:
                yield event_of(logged)
            last = page[-1].id

    def _publish(self, found: Event) -> None:
        self._kept.append((self._next, found))
        self._next += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _watch(self, reader: log_of_events.EventReader) -> None:
        try:
            while self._readers or time.monotonic() - self._left_at < _LINGER_S:
                if self._look_now.is_set():
                    self._look_now.clear()
                    reader.look_again()
                try:
                    found, sockets = await self._blocking(_read, reader)
                except (BallonetError, OSError) as error:
                    log.warning("the events cannot be read: %s", error)  # the next attempt may succeed
                else:
                    for logged in found:
                        self._last = logged.id
                        self._publish(event_of(logged))
                    if any(logged.event in _STATES for logged in found):
                        self._look_now.set()  # a balloon may be there now
                    if sockets is not None:
                        self._watch_balloons(sockets)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look_now.wait(), log_of_events.POLL_S)
        finally:
            for _, task in self._balloons.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._balloons.values()), return_exceptions=True)
            self._balloons.clear()

    def _watch_balloons(self, sockets: dict[str, tuple[str | None, str]]) -> None:
        for name, (run_id, task) in list(self._balloons.items()):
            if task.done() or sockets.get(name, ("",))[0] != run_id:
                task.cancel()
                del self._balloons[name]
        for name, (run_id, socket) in sockets.items():
            if name not in self._balloons:
                self._balloons[name] = run_id, asyncio.create_task(self._follow_balloon(name, socket))

    async def _follow_balloon(self, name: str, socket: str) -> None:
        from ballonet.control.client import Client

        before: dict[str, Any] | None = None
        try:
            async with await Client.connect(socket) as client:
                async for snapshot in client.watch():
                    fields = asdict(snapshot)
                    now = {field: fields[field] for field in _BALLOON_FIELDS}
                    if now == before:
                        continue
                    self._balloon_states[name] = Event.balloon(name, now)
                    if before is not None:
                        self._publish(self._balloon_states[name])
                    before = now
        except BallonetError:
            pass  # it has ended, or is about to
        finally:
            self._balloon_states.pop(name, None)
        if before is not None:
            self.look()


def _open() -> tuple[log_of_events.EventReader, int]:
    """A reader of the log from its end on, and the id of the last event."""
    with Registry.open() as registry:
        log_of_events.look(registry)
        newest = log_of_events.newest_id(registry)
    return log_of_events.EventReader(newest), newest


def _read(
    reader: log_of_events.EventReader,
) -> tuple[list[log_of_events.Event], dict[str, tuple[str | None, str]] | None]:
    """The events since the last call. If the sandboxes were looked at: the run and the control socket of each that
    runs, by name."""
    before = reader.sandboxes
    found = reader.read()
    if reader.sandboxes is before:
        return found, None
    sockets = ((record, _socket_of(record)) for record in reader.sandboxes)
    return found, {record.name: (record.run_id, socket) for record, socket in sockets if socket is not None}


def _socket_of(record: Record) -> str | None:
    note = living(record) if record.state.lives else None
    return note.control_socket if note is not None and note.ready else None


def _id_in(text: str) -> int:
    """The id in a request; -1: it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1


def _page_after(id: int) -> list[log_of_events.Event]:
    with Registry.open() as registry:
        return log_of_events.events_after(registry, id, _PAGE)


def _why_lost(id: int) -> str:
    """Why the events after that one are not all known; empty: they are."""
    with Registry.open() as registry:
        if not 0 <= id <= log_of_events.newest_id(registry):
            return "there is no such event: the registry may be another one"
        dropped = log_of_events.dropped_up_to(registry)
    return f"the event is too old: events up to {dropped} are not all kept" if 0 < id < dropped else ""
