"""The ASGI application: finds the operation of a request, behind the gate that every request passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from ballonet.serve import (
    autopilot_operations,
    balloon_operations,
    exec_operations,
    file_operations,
    log_operations,
    sandbox_operations,
    server_operations,
    snapshot_operations,
    store_operations,
)
from ballonet.serve.extension import Extension
from ballonet.serve.operations import Operation, carry_out, response_to
from ballonet.serve.page_files import send_page
from ballonet.serve.port_proxy import pass_on
from ballonet.serve.problems import refused
from ballonet.serve.services import Services
from ballonet.serve.terminal import attach

#: All operations with a body that is not a WebSocket, as the OpenAPI document lists them.
OPERATIONS: list[Operation] = [
    *server_operations.OPERATIONS,
    *sandbox_operations.OPERATIONS,
    *log_operations.OPERATIONS,
    *exec_operations.OPERATIONS,
    *file_operations.OPERATIONS,
    *balloon_operations.OPERATIONS,
    *autopilot_operations.OPERATIONS,
    *snapshot_operations.OPERATIONS,
    *store_operations.OPERATIONS,
]

_PORTS = "/v1/sandboxes/{name}/ports/{port}"
_ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


#: An ASGI endpoint that uses the services.
Endpoint = Callable[[Services, Connection, Receive, Send], Awaitable[None]]


class Endpoints(NamedTuple):
    """What a server serves."""

    operations: Sequence[Operation] = OPERATIONS
    #: A WebSocket on a running command.
    attach: Endpoint = attach
    #: Requests and WebSockets for a published port.
    port: Endpoint = pass_on
    #: The directory for what outlives the server, in that of the data.
    directory: str = "serve"


#: Those of this host.
HERE = Endpoints()


def application(
    services: Services, extensions: Sequence[Extension] = (), endpoints: Endpoints = HERE
) -> ASGIApp:
    """The application without its gate: ``scope["state"]["access"]`` says who sends a request."""
    routes: list[BaseRoute] = [
        _route(each.path, _endpoint(each, services), [each.method]) for each in endpoints.operations
    ]
    attach_path = "/v1/sandboxes/{name}/execs/{exec}/attach"
    routes.append(WebSocketRoute(attach_path, _WithServices(endpoints.attach, services)))
    for path in ("/", "/page/{file:path}"):
        routes.append(_route(path, _WithServices(send_page, services), ["GET", "HEAD"]))
    for path in (f"{_PORTS}/{{rest:path}}", _PORTS):
        routes.append(_route(path, _WithServices(endpoints.port, services), _ANY))
        routes.append(WebSocketRoute(path, _WithServices(endpoints.port, services)))

    async def route(scope: Connection, receive: Receive, send: Send) -> None:
        allowed: set[str] = set()
        for extension in extensions:
            if scope["type"] == "http" and scope["path"] == extension.path:
                await extension(scope, receive, send)
                return
        for candidate in routes:
            match, found = candidate.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await candidate.handle(scope, receive, send)
                return
            if match is Match.PARTIAL and isinstance(candidate, Route):
                allowed |= candidate.methods or set()
        if allowed:
            names = ", ".join(sorted(allowed))
            error = refused(
                "method-not-allowed",
                f"{scope['method'][:20]} is not supported here",
                hint=f"use {names}",
                Allow=names,
            )
        else:
            error = refused(
                "not-found", f"there is nothing at {scope['path'][:200]!r}", hint="see /openapi.json"
            )
        await response_to(error)(scope, receive, send)

    return route


class _WithServices:
    """An ASGI endpoint; as an object, it is called with the connection itself."""

    def __init__(self, endpoint: Endpoint, services: Services) -> None:
        self._endpoint = endpoint
        self._services = services

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        await self._endpoint(self._services, scope, receive, send)


def _endpoint(operation: Operation, services: Services) -> ASGIApp:
    async def serve(_: Services, scope: Connection, receive: Receive, send: Send) -> None:
        await carry_out(operation, services, scope, receive, send)

    return _WithServices(serve, services)


def _route(path: str, endpoint: ASGIApp, methods: list[str]) -> Route:
    """A route for these methods alone: Starlette adds HEAD to GET."""
    route = Route(path, endpoint, methods=methods)
    route.methods = set(methods)
    return route
