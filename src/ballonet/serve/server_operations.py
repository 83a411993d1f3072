"""Operations on the server itself: its version, its description and its events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import UNSET
from starlette.responses import Response

from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.events import Event
from ballonet.serve.operations import EVENT_STREAM, OPENAPI_FILE, Call, Media, Operation, Streamed, answer
from ballonet.serve.server_events import kept_alive
from ballonet.serve.tokens import Scope
from ballonet.version import __version__


async def _health(_: Call) -> Response:
    return answer(results.Health("ok"))


async def _version(_: Call) -> Response:
    return answer(results.Version(__version__, "v1"))


async def _openapi(call: Call) -> Response:
    return Response(await call.services.blocking(OPENAPI_FILE.read_bytes), media_type="application/json")


async def _events(call: Call) -> Streamed:
    events = call.services.events
    after = call.query.after if call.query.after is not UNSET else call.request.headers.get("last-event-id")
    if not call.query.follow:
        return Streamed(_encoded(events.logged(after)), EVENT_STREAM)
    # So that a client can come back before it has got an event.
    position = {} if after else {"Last-Event-ID": str(await events.newest())}
    return Streamed(kept_alive(_encoded(events.follow(after))), EVENT_STREAM, position)


async def _encoded(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for each in events:
        yield each.encoded


OPERATIONS = [
    Operation("GET", "/v1/health", _health, None, "Ask whether the server answers", result=results.Health),
    Operation("GET", "/v1/version", _version, Scope.READ, "Read the versions", result=results.Version),
    Operation(
        "GET",
        "/openapi.json",
        _openapi,
        None,
        "Read this document",
        result=Media("application/json"),
    ),
    Operation(
        "GET",
        "/v1/events",
        _events,
        Scope.READ,
        "Follow the events of all sandboxes",
        "Server-sent events, each with the name of its sandbox: those of 'ballonet events', such as 'created', "
        "'stopped' and 'removed', with ids; 'state' of a sandbox, and 'balloon' for a move, without. 'reset' means "
        "that events were missed: read the list of sandboxes again. Without an ID, the stream begins now, and the "
        "header Last-Event-ID of the response says where that is.",
        query=take.EventsQuery,
        result=EVENT_STREAM,
        headers={"Last-Event-ID": "continue after the event with this ID"},
    ),
]
