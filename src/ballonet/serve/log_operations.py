"""The operation that reads the output of a sandbox's own command, as it was logged."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

from msgspec import UNSET

from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.lifecycle.log_reader import LogReader
from ballonet.lifecycle.log_selection import LogSelection
from ballonet.lifecycle.registry import Registry
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
        selection = await services.blocking(LogSelection, reader, tail=tail, since_s=since, until_s=None)
        while True:
            over = not follow or not await services.blocking(_goes_on, selection, name)
            entries = selection.read()
            while found := await services.blocking(_some, entries):
                for entry in found:
                    if entry is not None:
                        yield event(entry.stream, _shown(entry))
            if over:
                yield event("end", {})
                return
            await asyncio.sleep(_LOOK_S)


def _some(entries: Iterator[Entry | None]) -> list[Entry | None]:
    return list(islice(entries, _MOST))


def _goes_on(selection: LogSelection, name: str) -> bool:
    with Registry.open() as registry:
        return selection.goes_on(registry, name)


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
