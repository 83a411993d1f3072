"""The HTTP API of many hosts. What concerns one sandbox is passed on to the API of its host; the rest is done here.

A sandbox is created, copied, saved and removed through the cluster, which knows its name and its place. Images, volumes
and other things of a host are under ``/v1/hosts/HOST``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Connection

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, ConfigError, UnknownSandboxError
from ballonet.metrics.columns import host_row, row
from ballonet.sdk.creation import Balloon
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.access import Access
from ballonet.serve.app import OPERATIONS, Endpoints
from ballonet.serve.creation import check_host_access, create_sandbox, created_headers, key_spent
from ballonet.serve.host_requests import HostRequests
from ballonet.serve.hosts import Hosts
from ballonet.serve.http_exchange import target_of
from ballonet.serve.idempotency import Entry
from ballonet.serve.many_events import ManyEvents
from ballonet.serve.openapi import document
from ballonet.serve.operations import (
    EVENT_STREAM,
    Call,
    Operation,
    Streamed,
    answer,
    nothing,
    response_to,
    send_made,
)
from ballonet.serve.problems import refused
from ballonet.serve.server_events import kept_alive
from ballonet.serve.services import Services
from ballonet.serve.shared_call import SharedCall
from ballonet.serve.tokens import Scope

_SANDBOX = "/v1/sandboxes/{name}"
_SNAPSHOT = "/v1/snapshots/{name}"
_HOST = "/v1/hosts/{host}"
#: What each host has for itself. Restoring a snapshot makes a sandbox, which the cluster does.
_OF_A_HOST = ("/v1/memory", "/metrics", "/v1/autopilot", "/v1/images", "/v1/volumes", "/v1/snapshots")
_SILENT = {502: "a host does not answer"}
_NO_HOST = {404: "there is no such host"}
#: How far the clock of a host may be off when it is compared (seconds).
_CLOCKS_S = 60.0

Handler = Callable[[Call], Awaitable[Response | Streamed]]


class ManyHosts:
    """:param hosts: how they are reached."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._requests = HostRequests(hosts)
        self._memory = SharedCall(hosts.collect)
        self._operations = list(self._all())

    def endpoints(self) -> Endpoints:
        """What the server serves."""
        return Endpoints(self._operations, self._pass_socket, self._pass_port, "serve-cluster")

    def _all(self) -> list[Operation]:
        own: dict[tuple[str, str], Handler] = {
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/v1/events"): self._events,
            ("GET", "/v1/memory"): self._samples,
            ("GET", "/v1/autopilot"): self._autopilot,
            ("GET", "/v1/sandboxes"): self._everywhere,
            ("GET", "/v1/images"): self._everywhere,
            ("GET", "/v1/volumes"): self._everywhere,
            ("GET", "/v1/snapshots"): self._everywhere,
            ("POST", "/v1/sandboxes"): self._create,
            ("DELETE", _SANDBOX): self._remove,
            ("POST", f"{_SANDBOX}/rename"): self._rename,
            ("POST", f"{_SANDBOX}/fork"): self._fork,
            ("POST", f"{_SANDBOX}/snapshots"): self._save,
            ("GET", _SNAPSHOT): self._snapshot,
            ("DELETE", _SNAPSHOT): self._remove_snapshot,
            ("POST", f"{_SNAPSHOT}/restore"): self._restore,
        }
        found = [
            Operation(
                "GET",
                "/v1/hosts",
                self._list_hosts,
                Scope.READ,
                "List the hosts",
                "Each with its sandboxes, and what it offers to new ones; null if it has not said.",
                result=list[results.Host],
            )
        ]
        for each in OPERATIONS:
            if (handler := own.get((each.method, each.path))) is not None:
                body = take.ClusterCreateBody if each.body is take.CreateBody else each.body
                found.append(each._replace(handler=handler, body=body, errors={**_SILENT, **each.errors}))
            elif each.path.startswith(_SANDBOX):
                found.append(
                    each._replace(handler=self._to_sandbox, raw=True, errors={**_SILENT, **each.errors})
                )
            elif each.path in ("/v1/health", "/v1/version"):
                found.append(each)
            if each.path.startswith(_OF_A_HOST) and not each.path.endswith("/restore"):
                path = _HOST + each.path.removeprefix("/v1")
                errors = {**_NO_HOST, **_SILENT, **each.errors}
                found.append(each._replace(path=path, handler=self._to_host, raw=True, errors=errors))
        return found

    # What is passed on.

    async def _to_sandbox(self, call: Call) -> Streamed:
        host = await self._hosts.find(call.name)
        target = target_of(call.request.scope)
        return await self._requests.pass_on(call.services, call.access, host, call.request, target)

    async def _to_host(self, call: Call) -> Streamed:
        host = call.path("host")
        if host not in await self._hosts.names():
            raise refused("not-found", f"there is no host {host[:80]!r}", hint="GET /v1/hosts lists them")
        target = target_of(call.request.scope)
        # "", "v1", "hosts", HOST, and the rest
        rest = target.split(b"/", 4)[4]
        target = b"/metrics" if call.operation.path == f"{_HOST}/metrics" else b"/v1/" + rest
        return await self._requests.pass_on(call.services, call.access, host, call.request, target)

    async def _pass_port(self, services: Services, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._pass_socket(services, scope, receive, send)
            return
        access: Access = scope["state"]["access"]

        async def make() -> Streamed:
            access.check(Scope.USE)
            host = await self._hosts.find(scope["path_params"]["name"])
            request = Request(scope, receive)
            return await self._requests.pass_on(services, access, host, request, target_of(scope))

        await send_made(make(), services.stopping, scope, receive, send)

    async def _pass_socket(self, services: Services, scope: Connection, receive: Receive, send: Send) -> None:
        access: Access = scope["state"]["access"]
        try:
            access.check(Scope.USE)
            host = await self._hosts.find(scope["path_params"]["name"])
            await self._requests.pass_socket(services, access, host, scope, receive, send)
        except BallonetError as error:
            await response_to(error)(scope, receive, send)

    # What all hosts are asked.

    async def _list_hosts(self, _: Call) -> Response:
        found = await self._hosts.status()
        return answer(
            [
                results.Host(
                    name=name,
                    answers=one["silent"] is None,
                    problem=one["silent"],
                    sandboxes=dict(one["sandboxes"]),
                    offer=one["offer"],
                )
                for name, one in sorted(found.items())
            ]
        )

    async def _everywhere(self, call: Call) -> Response:
        """Ask all hosts for a list; each entry says whose it is. Hosts that do not answer are named in a header."""
        target = target_of(call.request.scope).decode("latin-1")
        found, missing = await self._ask_all(target, call.access)
        rows = [{**entry, "host": host} for host, entries in found.items() for entry in entries]
        headers = {"Ballonet-Missing": ", ".join(missing)} if missing else {}
        return answer(rows, headers=headers)

    async def _ask_all(self, target: str, access: Access) -> tuple[dict[str, Any], list[str]]:
        """The answers by host, and the hosts that gave none."""
        known = await self._hosts.names()
        names = sorted(name for name, silent in known.items() if silent is None)
        asked = (self._requests.ask(host, target, access) for host in names)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found = dict(zip(names, answers, strict=True))
        for problem in answers:
            if isinstance(problem, BaseException) and not isinstance(problem, BallonetError):
                raise problem
        problems = [problem for problem in answers if isinstance(problem, BallonetError)]
        if problems and len(problems) == len(names):
            raise problems[0]
        told = {host: value for host, value in found.items() if not isinstance(value, BaseException)}
        return told, sorted(known.keys() - told.keys())

    async def _autopilot(self, call: Call) -> Response:
        """All autopilots as one. What each last decided is with its host."""
        found, _ = await self._ask_all("/v1/autopilot", call.access)
        paused = [one["paused_since"] for one in found.values() if one["paused_since"] is not None]
        policies = {one["policy"] for one in found.values() if one["policy"] is not None}
        running = bool(found) and all(one["running"] for one in found.values())
        return answer(
            results.Autopilot(running, ", ".join(sorted(policies)) or None, min(paused, default=None), None)
        )

    async def _samples(self, _: Call) -> Response:
        snapshot = await self._memory.result()
        rows = []
        for sample in snapshot.sandboxes:
            host, name = sample.name.split("/")
            rows.append({**row(replace(sample, name=name)), "host": host})
        return answer({"host": host_row(snapshot.host), "sandboxes": rows})

    async def _events(self, call: Call) -> Streamed:
        given = call.query.after
        after = given if given is not UNSET else call.request.headers.get("last-event-id", "")
        events = ManyEvents(self._hosts, self._requests, call.access, after)
        if not call.query.follow:
            return Streamed(events.logged(), EVENT_STREAM)
        position = await events.begin()
        headers = {} if after else {"Last-Event-ID": position}
        return Streamed(kept_alive(events.follow()), EVENT_STREAM, headers)

    async def _openapi(self, _: Call) -> Response:
        return answer(document(self._operations))

    # What the cluster does.

    async def _create(self, call: Call) -> Response:
        name, replayed = await create_sandbox(call, self)
        return answer(await self._details(call, name), 201, created_headers(name, replayed))

    async def create(self, call: Call, name: str, body: Mapping[str, Any]) -> None:
        """See :class:`ballonet.serve.creation.Maker`."""
        settings = dict(body)
        placement = settings.pop("placement")
        if not isinstance(settings["balloon"], bool):
            settings["balloon"] = Balloon(**settings["balloon"])
        for word, usual in (("start", True), ("admission", True)):
            if settings.pop(word) is not usual:
                raise ConfigError(f"{word} cannot be {not usual} on a cluster", hint=f"leave out {word!r}")
        await self._hosts.create(name, settings, placement)

    async def was_created(self, call: Call, entry: Entry, *, start: bool) -> bool:
        """See :class:`ballonet.serve.creation.Maker`."""
        try:
            found = await self._details(call, entry.name)
        except UnknownSandboxError:
            if entry.done:
                raise key_spent(entry) from None
            return False
        created = datetime.fromisoformat(found["created_at"]).timestamp()
        return created > entry.at - _CLOCKS_S  # otherwise another one, which had the name before

    async def _details(self, call: Call, name: str) -> dict[str, Any]:
        host = await self._hosts.find(name)
        found: dict[str, Any] = await self._requests.ask(host, f"/v1/sandboxes/{quote(name)}", call.access)
        return {**found, "host": host}

    async def _remove(self, call: Call) -> Response:
        await self._hosts.remove(call.name, force=call.query.force)
        return nothing()

    async def _rename(self, call: Call) -> Response:
        raise ConfigError(f"sandbox {call.name!r} cannot be renamed: the cluster knows it by its name")

    async def _fork(self, call: Call) -> Response:
        if call.body.ports or not call.body.admission:
            raise ConfigError("copies on a cluster have no ports, and the host decides whether it has room")
        await self._hosts.fork(call.name, call.body.names)
        return answer([await self._details(call, name) for name in call.body.names], 201)

    async def _save(self, call: Call) -> Response:
        name = await self._hosts.save(call.name, call.body.name)
        return answer(await self._described(call, name), 201, {"Location": f"/v1/snapshots/{name}"})

    async def _snapshot(self, call: Call) -> Response:
        return answer(await self._described(call, call.name))

    async def _described(self, call: Call, snapshot: str) -> dict[str, Any]:
        host = await self._hosts.find_snapshot(snapshot)
        found: dict[str, Any] = await self._requests.ask(
            host, f"/v1/snapshots/{quote(snapshot)}", call.access
        )
        return {**found, "host": host}

    async def _remove_snapshot(self, call: Call) -> Response:
        await self._hosts.remove_snapshot(call.name)
        return nothing()

    async def _restore(self, call: Call) -> Response:
        body = call.body
        check_host_access(call.access, {"ports": body.ports})
        for word in ("weight", "reserve", "target"):
            if getattr(body, word) is not None:
                raise ConfigError(f"{word} cannot be set for a sandbox that is restored on a cluster")
        if not body.admission:
            raise ConfigError("admission cannot be False on a cluster", hint="leave out 'admission'")
        await self._hosts.restore(call.name, body.name, body.ports)
        made = [await self._details(call, body.name)]
        return answer(made, 201, {"Location": f"/v1/sandboxes/{body.name}"})
