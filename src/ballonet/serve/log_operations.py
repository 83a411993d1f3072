"""The operation that reads the output of a sandbox's own command, as it was logged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from msgspec import UNSET

from ballonet.base.errors import ConfigError, UnknownSandboxError
from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.log_reader import LogReader, Position
from ballonet.lifecycle.record import State
from ballonet.machine.output_log import Entry
from ballonet.serve import requests as take
from ballonet.serve.operations import EVENT_STREAM, Call, Operation, Streamed
from ballonet.serve.server_events import event, kept_alive
from ballonet.serve.services import Services, find_record
from ballonet.serve.tokens import Scope

#: How often a log that is followed is looked at (seconds).
_LOOK_S = 0.3
#: How many entries are read at a time.
_MOST = 256


async def _logs(call: Call) -> Streamed:
    record = await call.services.blocking(find_record, call.name)
    if record.command is None:
        raise ConfigError(f"sandbox {call.name!r} has no command, so it has no output")
    tail = None if call.query.tail is UNSET else call.query.tail
    since = None if call.query.since is UNSET else call.query.since
    entries = _entries(call.services, call.name, tail, since, follow=call.query.follow)
    return Streamed(kept_alive(entries), EVENT_STREAM)


async def _entries(
    services: Services, name: str, tail: int | None, since: float | None, *, follow: bool
) -> AsyncIterator[bytes]:
    with contextlib.ExitStack() as opened:
        reader = opened.enter_context(await services.blocking(LogReader, state_dir_of(name)))
        end: Position = (0, 0)
        starts: dict[str, Position] = {}
        if tail is not None:
            end = await services.blocking(reader.end)
            starts = await services.blocking(reader.last_lines, tail, since=since, until=None)
            reader.skip_to(min(starts.values(), default=end))
        while True:
            over = not follow or not await services.blocking(_goes_on, name)
            entries = reader.read()
            while found := await services.blocking(_some, entries):
                for position, entry in found:
                    wanted = position >= starts.get(entry.stream, end)
                    if wanted and (since is None or entry.at >= since):
                        yield event(entry.stream, _shown(entry))
            if over:
                yield event("end", {})
                return
            await asyncio.sleep(_LOOK_S)


def _some(entries: Iterator[tuple[Position, Entry]]) -> list[tuple[Position, Entry]]:
    return list(islice(entries, _MOST))


def _goes_on(name: str) -> bool:
    """Whether its command may write more."""
    try:
        state = find_record(name).state
    except UnknownSandboxError:
        return False
    return state.lives or state is State.PAUSED


def _shown(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"at": entry.time, "whole": entry.whole}
    try:
        return found | {"text": entry.content.decode()}
    except UnicodeDecodeError:
        return found | {"base64": base64.b64encode(entry.content).decode()}


OPERATIONS = [
    Operation(
        "GET",
        "/v1/sandboxes/{name}/logs",
        _logs,
        Scope.USE,
        "Read the output of a sandbox's own command",
        "Server-sent events: 'stdout' and 'stderr', each with the time and a line, or a part of a line if 'whole' is "
        "false; at the end 'end'. With follow, the stream ends with the sandbox.",
        query=take.LogsQuery,
        result=EVENT_STREAM,
        errors={404: "there is no such sandbox"},
    )
]
