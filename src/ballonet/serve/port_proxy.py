"""Passes requests on to a published port of a sandbox: ``/v1/sandboxes/NAME/ports/PORT/…``, HTTP and WebSocket.

The program in the guest is not trusted. It gets neither tokens nor cookies, and its pages cannot act as pages of this
server: browsers give them an origin of their own.
"""

from __future__ import annotations

import asyncio

import h11
from starlette.requests import Request
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket

from ballonet.base.errors import NotRunningError
from ballonet.lifecycle.liveness import living
from ballonet.serve.access import SCOPE_HEADER, Access
from ballonet.serve.http_exchange import HOP_BY_HOP, Exchange, passed_request, target_of
from ballonet.serve.operations import Media, Streamed, send_made
from ballonet.serve.problems import refused
from ballonet.serve.services import Services, find_record
from ballonet.serve.socket_relay import connect, offered_protocols, relay
from ballonet.serve.terminal import PROTOCOL
from ballonet.serve.tokens import Scope
from ballonet.vmm.attach import Port

#: How long a connection to the port, and the head of its response, may take (seconds).
_CONNECT_S, _ANSWER_S = 10.0, 300.0
#: What the guest does not get: the client's secrets, and what is about this server.
_NOT_TO_GUEST = HOP_BY_HOP | {
    SCOPE_HEADER,
    b"authorization",
    b"cookie",
    b"host",
    b"origin",
    b"proxy-authorization",
    b"expect",
}
#: What the guest cannot set, because it would hold for all of this server.
_NOT_FROM_GUEST = HOP_BY_HOP | {
    b"set-cookie",
    b"clear-site-data",
    b"service-worker-allowed",
    b"strict-transport-security",
    b"alt-svc",
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"date",
}
_CONFINED = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"


async def pass_on(services: Services, scope: Connection, receive: Receive, send: Send) -> None:
    """Serve a request or a WebSocket for a port."""
    access: Access = scope["state"]["access"]
    parameters = scope["path_params"]

    async def make() -> Streamed | None:
        access.check(Scope.USE)
        port = await services.blocking(_published, parameters["name"], parameters["port"])
        if scope["type"] == "websocket":
            await _pass_socket(services, port, WebSocket(scope, receive, send))
            return None
        return await _pass_request(services, port, Request(scope, receive))

    await send_made(make(), services.stopping, scope, receive, send)


def _published(name: str, text: str) -> Port:
    """The published port of a running sandbox that leads to the guest's port.

    :raises RequestRefusedError: there is none.
    """
    note = living(find_record(name))
    if note is None or not note.ready:
        raise NotRunningError(f"sandbox {name!r} is not running", hint="start it first")
    ports = [Port.parse(port) for port in note.ports]
    for port in ports:
        if port.protocol == "tcp" and text == str(port.guest):
            return port
    known = ", ".join(str(port.guest) for port in ports if port.protocol == "tcp")
    raise refused(
        "unknown-port",
        f"port {text[:20]!r} of sandbox {name!r} is not published; published are: {known or 'none'}",
        hint="publish it when the sandbox is created, for example with 'ports': ['0:8080']",
    )


def _address(port: Port) -> str:
    return "127.0.0.1" if port.address == "0.0.0.0" else port.address  # noqa: S104  # compared only


def guest_target(scope: Connection) -> bytes:
    """The path and the query for the guest, as the client has encoded them."""
    path, mark, query = target_of(scope).partition(b"?")
    # "", "v1", "sandboxes", NAME, "ports", PORT, and the rest
    return b"/" + b"/".join(path.split(b"/")[6:]) + mark + query


async def _pass_request(services: Services, port: Port, request: Request) -> Streamed:
    headers, body = passed_request(request, _NOT_TO_GUEST, services.max_upload_bytes)
    prefix = f"/v1/sandboxes/{request.path_params['name']}/ports/{port.guest}"
    headers += [
        (b"host", f"localhost:{port.guest}".encode()),
        (b"x-forwarded-prefix", prefix.encode()),
        (b"x-forwarded-proto", request.scope["scheme"].encode()),
        (b"connection", b"close"),
    ]
    try:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(_address(port), port.host)
    except (OSError, TimeoutError) as error:
        raise refused("bad-gateway", f"port {port.guest} cannot be reached: {error}") from error
    exchange = Exchange(reader, writer, "the program in the sandbox")
    try:
        head = h11.Request(method=request.method, target=guest_target(request.scope), headers=headers)
        answer = await exchange.begin(head, body, _ANSWER_S)
    except BaseException:
        await exchange.close()
        raise
    response = exchange.streamed(answer, _NOT_FROM_GUEST)
    policy = response.headers.get("content-security-policy")
    confined = {"content-security-policy": _CONFINED if policy is None else f"{policy}, {_CONFINED}"}
    media = response.media if response.media.type else Media("application/octet-stream")
    return response._replace(media=media, headers={**response.headers, **confined})


async def _pass_socket(services: Services, port: Port, socket: WebSocket) -> None:
    uri = f"ws://localhost:{port.guest}{guest_target(socket.scope).decode('latin-1')}"
    offered = offered_protocols(socket)
    wanted = [each for each in offered if each != PROTOCOL]
    address = {"host": _address(port), "port": port.host}
    guest = await connect(uri, f"port {port.guest}", wanted, **address)
    async with guest:
        await socket.accept(guest.subprotocol or (PROTOCOL if PROTOCOL in offered else None))
        await relay(socket, guest, services.stopping)
