"""Operations on sandboxes: list, inspect, change, start and end them."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from ballonet.base.dataclass import asdict
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.descriptions import describe, describe_in_detail
from ballonet.lifecycle.filters import Filters, parse_filters
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.creation import HostMaker, check_host_access, create_sandbox, created_headers
from ballonet.serve.operations import Call, Operation, answer, nothing
from ballonet.serve.services import find_record
from ballonet.serve.tokens import Scope

_AT = "/v1/sandboxes/{name}"


async def _list(call: Call) -> Response:
    asked = take.given(call.query, "label")
    words = [f"{key}={value}" for key, value in asked.items()]
    filters = parse_filters([*words, *(f"label={label}" for label in call.query.label)])
    return answer(await call.services.blocking(_rows, filters))


def _rows(filters: Filters) -> list[dict[str, Any]]:
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    return [row for row, _ in describe([record for record in records if filters.match(record)])]


async def _inspect(call: Call) -> Response:
    found = await call.services.blocking(_details, call.name)
    if not call.access.may(Scope.USE):  # variables often have secrets
        found["env"] = dict.fromkeys(found["env"], "***")
    return answer(found)


def _details(name: str) -> dict[str, Any]:
    return describe_in_detail([find_record(name)])[0]


async def _described(call: Call, name: str, status: int = 200, **headers: str) -> Response:
    call.services.events.look()
    return answer(await call.services.blocking(_details, name), status, headers)


async def _create(call: Call) -> Response:
    name, replayed = await create_sandbox(call, HostMaker())
    return await _described(call, name, 201, **created_headers(name, replayed))


async def _remove(call: Call) -> Response:
    await Sandbox.remove(call.name, force=call.query.force)
    call.services.events.look()
    return nothing()


async def _start(call: Call) -> Response:
    await Sandbox.start(call.name, cold=call.body.cold, admission=call.body.admission)
    return await _described(call, call.name)


async def _stop(call: Call) -> Response:
    await (await call.services.box(call.name)).stop(call.body.timeout_s)
    return await _described(call, call.name)


async def _pause(call: Call) -> Response:
    await (await call.services.box(call.name)).pause(force=call.body.force)
    return await _described(call, call.name)


async def _resume(call: Call) -> Response:
    await (await call.services.box(call.name)).resume(admission=call.body.admission)
    return await _described(call, call.name)


async def _touch(call: Call) -> Response:
    await (await call.services.box(call.name)).touch()
    return nothing()


async def _modify(call: Call) -> Response:
    settings = take.given(call.body)
    check_host_access(call.access, settings)
    box = await call.services.box(call.name)
    if call.query.dry_run:
        plan = await call.services.blocking(lambda: box.plan(**settings))
        return answer([asdict(change) for change in plan.changes])
    changes = await box.modify(**settings)
    call.services.events.look()
    return answer([asdict(change) for change in changes])


async def _rename(call: Call) -> Response:
    await (await call.services.box(call.name)).rename(call.body.name)
    return await _described(call, call.body.name)


async def _wait(call: Call) -> Response:
    name = call.name
    await call.services.blocking(find_record, name)

    async def ended() -> Record | None:
        from ballonet.lifecycle.stop import wait_end

        with Registry.open() as registry:
            return await wait_end(registry, name)

    waiting = asyncio.create_task(ended())
    stopping = asyncio.create_task(call.services.stopping.wait())
    try:
        await asyncio.wait(
            {waiting, stopping}, timeout=call.query.timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not waiting.done():
            record = await call.services.blocking(find_record, name)
            return answer(_end(record, ended=False))
        return answer(_end(waiting.result(), ended=True))
    finally:
        for task in (waiting, stopping):
            task.cancel()
        await asyncio.gather(waiting, stopping, return_exceptions=True)


def _end(record: Record | None, *, ended: bool) -> results.End:
    if record is None:
        return results.End(True, "removed", "removed", "the sandbox was removed when it ended", None)
    if not ended:
        return results.End(False, record.state.value, None, None, None)
    return results.End(True, record.state.value, record.end_reason, record.end_detail, record.exit_code)


_NOT_FOUND = {404: "there is no such sandbox"}
_CONFLICT = {409: "the sandbox is in another state, or its name is in use"}

OPERATIONS = [
    Operation(
        "GET",
        "/v1/sandboxes",
        _list,
        Scope.READ,
        "List sandboxes",
        query=take.ListQuery,
        result=list[results.Sandbox],
    ),
    Operation(
        "POST",
        "/v1/sandboxes",
        _create,
        Scope.USE,
        "Create a sandbox",
        "Returns when its guest answers. With an Idempotency-Key, a repetition of the request does not create "
        "another one. Settings that give it files, ports or names of the host need the scope admin.",
        body=take.CreateBody,
        result=results.SandboxDetails,
        status=201,
        errors={
            404: "the image was not found",
            409: "the name is in use, or the key was used for another request",
            422: "the image cannot be used",
            502: "the image could not be fetched",
            503: "the host has no room for it",
        },
        headers={"Idempotency-Key": "identifies the request: a repetition has the same effect once"},
    ),
    Operation(
        "GET",
        _AT,
        _inspect,
        Scope.READ,
        "Inspect a sandbox",
        "A token with the scope read sees the names of environment variables, but not their values.",
        result=results.SandboxDetails,
        errors=_NOT_FOUND,
    ),
    Operation(
        "PATCH",
        _AT,
        _modify,
        Scope.USE,
        "Change settings of a sandbox",
        "Some changes are made at once, others from the next start on.",
        query=take.ModifyQuery,
        body=take.ModifyBody,
        result=list[results.Change],
        errors=_NOT_FOUND | _CONFLICT,
    ),
    Operation(
        "DELETE",
        _AT,
        _remove,
        Scope.USE,
        "Remove a sandbox with its logs and its disk",
        query=take.RemoveQuery,
        status=204,
        errors=_NOT_FOUND | _CONFLICT,
    ),
    Operation(
        "POST",
        f"{_AT}/start",
        _start,
        Scope.USE,
        "Start a sandbox",
        body=take.StartBody,
        result=results.SandboxDetails,
        errors=_NOT_FOUND | _CONFLICT | {503: "the host has no room for it"},
    ),
    Operation(
        "POST",
        f"{_AT}/stop",
        _stop,
        Scope.USE,
        "Stop a sandbox",
        body=take.StopBody,
        result=results.SandboxDetails,
        errors=_NOT_FOUND | _CONFLICT,
    ),
    Operation(
        "POST",
        f"{_AT}/pause",
        _pause,
        Scope.USE,
        "Save a sandbox to disk, so that it takes no memory",
        body=take.PauseBody,
        result=results.SandboxDetails,
        errors=_NOT_FOUND | _CONFLICT | {422: "it cannot be saved"},
    ),
    Operation(
        "POST",
        f"{_AT}/resume",
        _resume,
        Scope.USE,
        "Resume a paused sandbox",
        body=take.ResumeBody,
        result=results.SandboxDetails,
        errors=_NOT_FOUND | _CONFLICT | {503: "the host has no room for it"},
    ),
    Operation(
        "POST",
        f"{_AT}/touch",
        _touch,
        Scope.USE,
        "Restart the idle timeout of a sandbox",
        status=204,
        errors=_NOT_FOUND | _CONFLICT,
    ),
    Operation(
        "POST",
        f"{_AT}/rename",
        _rename,
        Scope.USE,
        "Give a sandbox another name",
        "It must not be running or paused.",
        body=take.NameBody,
        result=results.SandboxDetails,
        errors=_NOT_FOUND | _CONFLICT,
    ),
    Operation(
        "GET",
        f"{_AT}/wait",
        _wait,
        Scope.READ,
        "Wait until a sandbox has ended",
        "Answers after timeout_s at the latest, with ended false if it has not ended.",
        query=take.WaitQuery,
        result=results.End,
        errors=_NOT_FOUND,
    ),
]
