"""Operations on the memory of sandboxes: balloon, figures and history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from msgspec import UNSET
from starlette.responses import Response

from ballonet.base.dataclass import asdict
from ballonet.base.errors import BallonetError
from ballonet.control.backend import BalloonSnapshot, Stats, TrimResult
from ballonet.control.protocol import SetReply
from ballonet.lifecycle.samples import collect, history_path
from ballonet.lifecycle.usage import Usage
from ballonet.metrics.columns import host_row, row
from ballonet.metrics.history import read_history
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.operations import EVENT_STREAM, Call, Media, Operation, Streamed, answer
from ballonet.serve.problems import problem_of
from ballonet.serve.server_events import event, kept_alive
from ballonet.serve.services import find_record
from ballonet.serve.tokens import Scope

_AT = "/v1/sandboxes/{name}"
#: The text format of Prometheus.
_METRICS = Media("text/plain; version=0.0.4; charset=utf-8")


async def _get(call: Call) -> Response:
    return answer(asdict(await (await call.services.box(call.name)).balloon.get()))


async def _set(call: Call) -> Response:
    box = await call.services.box(call.name)
    body = call.body
    options = {name: getattr(body, name) for name in ("strict", "wait", "timeout_s", "force")}
    if body.wait:
        # A connection of its own: others need not wait, and may replace the target.
        from ballonet.base.memory import to_mib
        from ballonet.control.client import Client

        target_mib = to_mib(body.target, "target")
        await box.balloon.get()  # says why, if it has none
        async with await Client.connect(str(box.control_socket)) as client:
            return answer(asdict(await client.set(target_mib, **options)))
    return answer(asdict(await box.balloon.set(body.target, **options)))


async def _limit(call: Call) -> Response:
    return answer(asdict(await (await call.services.box(call.name)).balloon.limit(call.body.limit)))


async def _trim(call: Call) -> Response:
    return answer(asdict(await (await call.services.box(call.name)).balloon.trim()))


async def _stats(call: Call) -> Response:
    return answer(asdict(await (await call.services.box(call.name)).balloon.stats()))


async def _usage(call: Call) -> Response:
    return answer(asdict(await (await call.services.box(call.name)).usage()))


async def _watch(call: Call) -> Streamed:
    box = await call.services.box(call.name)
    await box.balloon.get()  # an error before the stream begins

    async def changes() -> AsyncIterator[bytes]:
        try:
            async for snapshot in box.balloon.watch():
                yield event("balloon", asdict(snapshot))
        except BallonetError as error:
            yield event("end", problem_of(error))

    return Streamed(kept_alive(changes()), EVENT_STREAM)


async def _history(call: Call) -> Response:
    name = call.name
    since = None if call.query.since is UNSET else call.query.since

    def read() -> list[dict[str, Any]]:
        find_record(name)
        return [row(sample) for sample in read_history(history_path(name), since)]

    return answer(await call.services.blocking(read))


async def _samples(call: Call) -> Response:
    snapshot = await call.services.memory.result()
    return answer({"host": host_row(snapshot.host), "sandboxes": [row(each) for each in snapshot.sandboxes]})


async def _metrics(call: Call) -> Response:
    from ballonet.metrics.exposition import Exporter

    if call.services.exporter is None:
        call.services.exporter = Exporter()
    exporter = call.services.exporter
    assert isinstance(exporter, Exporter)
    text = await call.services.blocking(exporter.render, collect)
    return Response(text, media_type=_METRICS.type)


_ERRORS = {
    404: "there is no such sandbox",
    409: "the sandbox is not running, or has no balloon",
    422: "the balloon cannot do this",
}

OPERATIONS = [
    Operation(
        "GET",
        f"{_AT}/balloon",
        _get,
        Scope.READ,
        "Read the state of a balloon",
        result=BalloonSnapshot,
        errors=_ERRORS,
    ),
    Operation(
        "PUT",
        f"{_AT}/balloon",
        _set,
        Scope.USE,
        "Set the target of a balloon",
        "With wait, answers when the guest has reached the target, has stopped, or timeout_s has passed.",
        body=take.TargetBody,
        result=SetReply,
        errors=_ERRORS,
    ),
    Operation(
        "PUT",
        f"{_AT}/balloon/limit",
        _limit,
        Scope.USE,
        "Set an upper limit for the targets of a balloon",
        body=take.LimitBody,
        result=BalloonSnapshot,
        errors=_ERRORS,
    ),
    Operation(
        "POST",
        f"{_AT}/balloon/trim",
        _trim,
        Scope.USE,
        "Reclaim memory that the guest does not need",
        result=TrimResult,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/balloon/watch",
        _watch,
        Scope.READ,
        "Watch a balloon",
        "Server-sent events: 'balloon', with its state, at once and after each change; 'end' with a problem when the "
        "sandbox ends.",
        result=EVENT_STREAM,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/stats",
        _stats,
        Scope.READ,
        "Read the memory statistics of a guest and of its host",
        result=Stats,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/usage",
        _usage,
        Scope.READ,
        "Read what a sandbox uses of the host: processor time, memory and I/O",
        "These are totals since its start. The guest is not asked.",
        result=Usage,
        errors={404: "there is no such sandbox", 409: "the sandbox is not running"},
    ),
    Operation(
        "GET",
        f"{_AT}/history",
        _history,
        Scope.READ,
        "Read the memory of a sandbox over time",
        "Sizes are bytes, times unix seconds; the oldest sample comes first.",
        query=take.HistoryQuery,
        result=list[dict[str, Any]],
        errors={404: "there is no such sandbox"},
    ),
    Operation(
        "GET",
        "/v1/memory",
        _samples,
        Scope.READ,
        "Read the memory of the host and of all sandboxes",
        result=results.HostSamples,
    ),
    Operation(
        "GET", "/metrics", _metrics, Scope.READ, "Export memory metrics for Prometheus", result=_METRICS
    ),
]
