"""Operations on the autopilot: whether it runs, and why it did what it did."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from ballonet.pilot import lock, state
from ballonet.pilot.journal import read_decisions
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.operations import Call, Operation, answer
from ballonet.serve.services import find_record
from ballonet.serve.tokens import Scope


async def _status(call: Call) -> Response:
    return answer(await call.services.blocking(_read_status))


def _read_status() -> results.Autopilot:
    owner = lock.find_owner()
    return results.Autopilot(
        running=owner is not None,
        policy=None if owner is None else owner.policy,
        paused_since=state.paused_since(),
        last=state.read_status(),
    )


async def _decisions(call: Call) -> Response:
    name, count = call.name, call.query.last

    def read() -> list[dict[str, Any]]:
        find_record(name)
        return read_decisions(lock.pilot_dir(), name, count)

    return answer(await call.services.blocking(read))


OPERATIONS = [
    Operation(
        "GET",
        "/v1/autopilot",
        _status,
        Scope.READ,
        "Read the status of the autopilot",
        "'last' is what it last saw and decided; null if it has never run.",
        result=results.Autopilot,
    ),
    Operation(
        "GET",
        "/v1/sandboxes/{name}/decisions",
        _decisions,
        Scope.READ,
        "Read the last decisions of the autopilot about a sandbox",
        "As in 'ballonet pilot explain --json': each with its reason and its inputs; the newest comes last.",
        query=take.DecisionsQuery,
        result=list[dict[str, Any]],
        errors={404: "there is no such sandbox"},
    ),
]
