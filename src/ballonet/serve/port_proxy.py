"""Passes requests on to a published port of a sandbox: ``/v1/sandboxes/NAME/ports/PORT/…``, HTTP and WebSocket.

The program in the guest is not trusted. It gets neither tokens nor cookies, and its pages cannot act as pages of this
server: browsers give them an origin of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket, WebSocketDisconnect

from ballonet.base.errors import NotRunningError
from ballonet.lifecycle.liveness import living
from ballonet.serve.access import TOKEN_PROTOCOL, Access
from ballonet.serve.operations import Media, Streamed, request_pieces, response_to, send_stream
from ballonet.serve.problems import refused
from ballonet.serve.services import Services, find_record
from ballonet.serve.terminal import PROTOCOL
from ballonet.serve.tokens import Scope
from ballonet.vmm.attach import Port

#: How long a connection to the port, and the head of its response, may take (seconds).
_CONNECT_S, _ANSWER_S = 10.0, 300.0
_READ_BYTES = 64 << 10
_MAX_MESSAGE = 1 << 20
#: They concern one connection only (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
#: What the guest does not get: the client's secrets, and what is about this server.
_NOT_TO_GUEST = _HOP_BY_HOP | {
    b"authorization",
    b"cookie",
    b"host",
    b"origin",
    b"proxy-authorization",
    b"expect",
}
#: What the guest cannot set, because it would hold for all of this server.
_NOT_FROM_GUEST = _HOP_BY_HOP | {
    b"set-cookie",
    b"clear-site-data",
    b"service-worker-allowed",
    b"strict-transport-security",
    b"alt-svc",
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"content-type",
    b"date",
}
_CONFINED = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"

Headers = list[tuple[bytes, bytes]]


async def pass_on(services: Services, scope: Connection, receive: Receive, send: Send) -> None:
    """Serve a request or a WebSocket for a port."""
    access: Access = scope["state"]["access"]
    parameters = scope["path_params"]
    try:
        access.check(Scope.USE)
        port = await services.blocking(_published, parameters["name"], parameters["port"])
        if scope["type"] == "websocket":
            await _pass_socket(services, port, WebSocket(scope, receive, send))
            return
        response = await _pass_request(services, port, Request(scope, receive))
    except ClientDisconnect:
        return
    except Exception as error:
        await response_to(error)(scope, receive, send)
        return
    await send_stream(response, services.stopping, receive, send)


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


def target_of(scope: Connection) -> bytes:
    """The path and the query for the guest, as the client has encoded them."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    # "", "v1", "sandboxes", NAME, "ports", PORT, and the rest
    target = b"/" + b"/".join(raw.partition(b"?")[0].split(b"/")[6:])
    query: bytes = scope.get("query_string", b"")
    return target + (b"?" + query if query else b"")


def passed_headers(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> Headers:
    """The headers that are passed on. What ``Connection`` names is for one connection only, too."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        word.strip().lower() for name, value in pairs if name == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in without and name not in named]


async def _pass_request(services: Services, port: Port, request: Request) -> Streamed:
    headers = passed_headers(request.scope["headers"], _NOT_TO_GUEST)
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    if has_body and "content-length" not in request.headers:
        headers.append((b"transfer-encoding", b"chunked"))
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
    exchange = _Exchange(reader, writer)
    try:
        head = h11.Request(method=request.method, target=target_of(request.scope), headers=headers)
        body = request_pieces(request, services.max_upload_bytes) if has_body else None
        answer = await exchange.begin(head, body)
    except BaseException:
        await exchange.close()
        raise
    passed = passed_headers(answer.headers, _NOT_FROM_GUEST)
    found: dict[str, str] = {}
    for name, value in passed:
        text = value.decode("latin-1")
        key = name.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    policy = found.pop("content-security-policy", None)
    found["content-security-policy"] = _CONFINED if policy is None else f"{policy}, {_CONFINED}"
    kind = next((value for name, value in answer.headers if name.lower() == b"content-type"), b"")
    media = Media(kind.decode("latin-1") or "application/octet-stream")
    return Streamed(exchange.body(), media, found, answer.status_code)


class _Exchange:
    """One request to the guest, and its response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)
        self._sending: asyncio.Task[None] | None = None

    async def begin(self, head: h11.Request, body: AsyncIterator[bytes] | None) -> h11.Response:
        """Send the request, and return the head of the response. The body may still be sent then."""
        try:
            self._writer.write(self._http.send(head) or b"")
            self._sending = asyncio.create_task(self._send(body))
            async with asyncio.timeout(_ANSWER_S):
                while True:
                    event = await self._next()
                    if isinstance(event, h11.Response):
                        return event
                    if not isinstance(event, h11.InformationalResponse):
                        raise refused("bad-gateway", "the program in the sandbox closed the connection")
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            raise refused("bad-gateway", f"the program in the sandbox did not answer: {error}") from error

    async def body(self) -> AsyncIterator[bytes]:
        try:
            while isinstance(event := await self._next(), h11.Data):
                yield bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise refused("bad-gateway", "the program in the sandbox closed the connection")
        finally:
            await self.close()

    async def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._writer.close()

    async def _send(self, body: AsyncIterator[bytes] | None) -> None:
        if body is not None:
            async for piece in body:
                self._writer.write(self._http.send(h11.Data(data=piece)) or b"")
                await self._writer.drain()
        self._writer.write(self._http.send(h11.EndOfMessage()) or b"")
        await self._writer.drain()

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        return event


async def _pass_socket(services: Services, port: Port, socket: WebSocket) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake

    offered = [str(each) for each in socket.scope.get("subprotocols", ())]
    wanted: list[Any] = [each for each in offered if each != PROTOCOL and not each.startswith(TOKEN_PROTOCOL)]
    uri = f"ws://localhost:{port.guest}{target_of(socket.scope).decode('latin-1')}"
    try:
        guest = await connect(
            uri,
            host=_address(port),
            port=port.host,
            subprotocols=wanted or None,
            compression=None,
            max_size=_MAX_MESSAGE,
            max_queue=4,
            open_timeout=_CONNECT_S,
            proxy=None,
        )
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise refused("bad-gateway", f"port {port.guest} does not accept the WebSocket: {error}") from error
    async with guest:
        chosen = guest.subprotocol or (PROTOCOL if PROTOCOL in offered else None)
        await socket.accept(chosen)

        async def to_guest() -> None:
            while (message := await socket.receive())["type"] != "websocket.disconnect":
                data = message.get("bytes")
                await guest.send(message["text"] if data is None else data)

        async def to_client() -> None:
            async for message in guest:
                await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))

        tasks = [asyncio.ensure_future(work) for work in (to_guest(), to_client(), services.stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(RuntimeError, WebSocketDisconnect, ConnectionClosed):
                await socket.close(1001 if services.stopping.is_set() else 1000)
