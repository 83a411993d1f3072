"""The events of all sandboxes as one stream: created, removed, changes of state, and moves of the balloon.

They are derived from the registry, which is read once a second, and from the control sockets, which report each move.
Events are kept for a while, so that a client that was disconnected continues where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Self

from ballonet.base.dataclass import asdict
from ballonet.base.errors import BallonetError
from ballonet.base.timestamps import iso_time
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.serve.server_events import event

log = logging.getLogger(__name__)

#: How many events are kept.
KEPT = 4096
#: How often the registry is read (seconds).
_LOOK_S = 1.0
#: How long it is read after the last client has left (seconds).
_LINGER_S = 60.0
#: The fields of a balloon whose change is an event.
_BALLOON_FIELDS = ("limit_mib", "requested_mib", "target_mib", "actual_mib", "state", "driver", "detail")


class Event(NamedTuple):
    """One event. ``id`` is what a client sends to continue after it."""

    id: str
    kind: str
    data: dict[str, Any]
    #: As it is sent: the same for all clients.
    encoded: bytes

    @classmethod
    def of(cls, id: str, kind: str, **data: Any) -> Self:
        data = {"at": iso_time(time.time()), **data}
        return cls(id, kind, data, event(kind, data, id))


class _Seen(NamedTuple):
    """What an event of a sandbox's state depends on."""

    created_at: float
    run_id: str | None
    state: str


class EventSource:
    """:param blocking: makes a call in a thread."""

    def __init__(self, blocking: Callable[..., Awaitable[Any]]) -> None:
        self._blocking = blocking
        self._kept: deque[tuple[int, Event]] = deque(maxlen=KEPT)
        self._epoch = ""
        self._next = 1
        self._news = asyncio.Event()
        self._look_now = asyncio.Event()
        self._readers = 0
        self._left_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._first_look = asyncio.Event()
        self._seen: dict[str, _Seen] = {}
        self._balloons: dict[str, tuple[str | None, asyncio.Task[None]]] = {}

    async def follow(self, after: str | None = None) -> AsyncIterator[Event]:
        """Events from now on, or those after the event ``after``. If some of those are not known any more, the first
        event is ``reset``: the client reads the state of all sandboxes anew.

        A client that is too slow gets ``reset``, too. Nothing is kept for it.
        """
        self._readers += 1
        try:
            if self._watching is None or self._watching.done():
                self._begin()
            await self._first_look.wait()
            position, lost = self._position(after)
            while True:
                if lost:
                    yield Event.of(f"{self._epoch}-{position - 1}", "reset", reason=lost)
                    lost = ""
                if self._kept and self._kept[0][0] > position:
                    position, lost = self._next, "the client was too slow: events were dropped"
                    continue
                if position >= self._next:
                    news = self._news
                    await news.wait()
                    continue
                number, found = self._kept[position - self._kept[0][0]]
                position = number + 1
                yield found
        finally:
            self._readers -= 1
            self._left_at = time.monotonic()

    def look(self) -> None:
        """Read the registry now: something may have changed."""
        self._look_now.set()

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def _position(self, after: str | None) -> tuple[int, str]:
        if not after:
            return self._next, ""
        epoch, _, number = after.rpartition("-")
        known = epoch == self._epoch and number.isascii() and number.isdecimal() and len(number) < 19
        if not known or int(number) >= self._next:
            return self._next, "the event is not known: the server was restarted, or nobody was listening"
        first = self._kept[0][0] if self._kept else self._next
        if int(number) + 1 < first:
            return self._next, "the event is too old: events since then were dropped"
        return int(number) + 1, ""

    def _begin(self) -> None:
        # Events were missed meanwhile: ids of before are not valid.
        self._epoch = secrets.token_hex(4)
        self._kept.clear()
        self._seen = {}
        self._first_look = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())

    def _publish(self, kind: str, data: dict[str, Any]) -> None:
        self._kept.append((self._next, Event.of(f"{self._epoch}-{self._next}", kind, **data)))
        self._next += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _watch(self) -> None:
        try:
            while self._readers or time.monotonic() - self._left_at < _LINGER_S:
                self._look_now.clear()
                try:
                    self._compare(await self._blocking(_list))
                except (BallonetError, OSError) as error:
                    log.warning("the sandboxes cannot be listed: %s", error)  # the next look may succeed
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._look_now.wait(), _LOOK_S)
        finally:
            for _, task in self._balloons.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._balloons.values()), return_exceptions=True)
            self._balloons.clear()

    def _compare(self, found: list[tuple[Record, str | None]]) -> None:
        first = not self._first_look.is_set()
        now = {
            record.name: _Seen(record.created_at, record.run_id, record.state.value) for record, _ in found
        }
        for name, seen in self._seen.items():
            if name not in now or now[name].created_at != seen.created_at:
                self._publish("removed", {"name": name})
        for record, socket in found:
            before, seen = self._seen.get(record.name), now[record.name]
            if not first:
                if before is None or before.created_at != seen.created_at:
                    self._publish("created", {"name": record.name, "image": record.image})
                    before = None
                if before != seen:
                    self._publish("state", _state_of(record))
            self._watch_balloon(record, socket)
        for name in self._balloons.keys() - now.keys():
            self._balloons.pop(name)[1].cancel()
        self._seen = now
        self._first_look.set()

    def _watch_balloon(self, record: Record, socket: str | None) -> None:
        run_id, task = self._balloons.get(record.name, (None, None))
        if task is not None and (task.done() or run_id != record.run_id or socket is None):
            task.cancel()
            del self._balloons[record.name]
            task = None
        if task is None and socket is not None:
            work = asyncio.create_task(self._follow_balloon(record.name, socket))
            self._balloons[record.name] = record.run_id, work

    async def _follow_balloon(self, name: str, socket: str) -> None:
        from ballonet.control.client import Client

        before: dict[str, Any] | None = None
        try:
            async with await Client.connect(socket) as client:
                async for snapshot in client.watch():
                    fields = asdict(snapshot)
                    now = {field: fields[field] for field in _BALLOON_FIELDS}
                    if before is not None and now != before:
                        self._publish("balloon", {"name": name, **now})
                    before = now
        except BallonetError:
            pass  # it has ended, or is about to
        if before is not None:
            self.look()


def _list() -> list[tuple[Record, str | None]]:
    """The sandboxes, each with its control socket if it runs."""
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    notes = [living(record) if record.state.lives else None for record in records]
    return [
        (record, None if note is None or not note.ready else note.control_socket)
        for record, note in zip(records, notes, strict=True)
    ]


def _state_of(record: Record) -> dict[str, Any]:
    return {
        "name": record.name,
        "state": record.state.value,
        "end_reason": record.end_reason,
        "end_detail": record.end_detail,
        "exit_code": record.exit_code,
    }
