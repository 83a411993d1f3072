"""Operations on snapshots and forks."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ballonet.lifecycle.descriptions import describe_in_detail, describe_snapshot
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.creation import check_host_access
from ballonet.serve.operations import Call, Operation, answer, nothing
from ballonet.serve.services import find_record
from ballonet.serve.tokens import Scope
from ballonet.settings.definitions import SETTINGS
from ballonet.settings.values import read_items

_AT = "/v1/snapshots/{name}"


async def _create(call: Call) -> Response:
    box = await call.services.box(call.name)
    snapshot = await box.snapshot(call.body.name)
    described = await call.services.blocking(describe_snapshot, snapshot)
    return answer(described, 201, {"Location": f"/v1/snapshots/{snapshot.name}"})


async def _list(call: Call) -> Response:
    def listed() -> list[dict[str, Any]]:
        return [describe_snapshot(snapshot) for snapshot in Snapshots.open().list_all()]

    return answer(await call.services.blocking(listed))


async def _inspect(call: Call) -> Response:
    return answer(
        await call.services.blocking(lambda name: describe_snapshot(Snapshots.open().get(name)), call.name)
    )


async def _remove(call: Call) -> Response:
    await call.services.blocking(lambda name: Snapshots.open().remove(name), call.name)
    return nothing()


async def _fork(call: Call) -> Response:
    body = call.body
    check_host_access(call.access, {"ports": body.ports})
    ports = read_items(SETTINGS["ports"], body.ports)
    box = await call.services.box(call.name)
    copies = await box.fork(*body.names, ports=ports, detached=True, admission=body.admission)
    for copy in copies:
        await copy.close()  # they go on
    return await _made(call, body.names)


async def _restore(call: Call) -> Response:
    body = call.body
    check_host_access(call.access, {"ports": body.ports})
    ports = read_items(SETTINGS["ports"], body.ports)
    options = {name: getattr(body, name) for name in ("weight", "reserve", "target", "admission")}
    box = await Sandbox.restore(call.name, body.name, ports=ports, detached=True, **options)
    await box.close()  # the sandbox goes on
    response = await _made(call, [body.name])
    response.headers["Location"] = f"/v1/sandboxes/{body.name}"
    return response


async def _made(call: Call, names: list[str]) -> Response:
    call.services.events.look()

    def details() -> list[dict[str, Any]]:
        return describe_in_detail([find_record(name) for name in names])

    return answer(await call.services.blocking(details), 201)


_ERRORS = {
    404: "there is no such sandbox or snapshot",
    409: "the sandbox is in another state, or a name is in use",
    422: "this cannot be saved or restored here",
}

OPERATIONS = [
    Operation(
        "POST",
        "/v1/sandboxes/{name}/snapshots",
        _create,
        Scope.USE,
        "Save a sandbox, with its memory, processes and disk",
        body=take.SnapshotBody,
        result=results.Snapshot,
        status=201,
        errors=_ERRORS,
    ),
    Operation(
        "POST",
        "/v1/sandboxes/{name}/fork",
        _fork,
        Scope.USE,
        "Make copies of a running sandbox",
        body=take.ForkBody,
        result=list[results.SandboxDetails],
        status=201,
        errors=_ERRORS | {503: "the host has no room for them"},
    ),
    Operation("GET", "/v1/snapshots", _list, Scope.READ, "List snapshots", result=list[results.Snapshot]),
    Operation(
        "GET", _AT, _inspect, Scope.READ, "Inspect a snapshot", result=results.Snapshot, errors=_ERRORS
    ),
    Operation("DELETE", _AT, _remove, Scope.USE, "Remove a snapshot", status=204, errors=_ERRORS),
    Operation(
        "POST",
        f"{_AT}/restore",
        _restore,
        Scope.USE,
        "Make a sandbox that continues from a snapshot",
        body=take.RestoreBody,
        result=list[results.SandboxDetails],
        status=201,
        errors=_ERRORS | {503: "the host has no room for it"},
    ),
]
