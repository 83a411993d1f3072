"""Requests to the HTTP APIs of other hosts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket

from ballonet.base.errors import BallonetError, HostError, error_class
from ballonet.serve.access import SCOPE_HEADER, Access
from ballonet.serve.hosts import Hosts, Line
from ballonet.serve.http_exchange import HOP_BY_HOP, Exchange, Headers, passed_request, target_of
from ballonet.serve.operations import Streamed, response_to
from ballonet.serve.problems import OWN, Problem, refused
from ballonet.serve.services import Services
from ballonet.serve.socket_relay import connect, denial_of, offered_protocols, relay
from ballonet.serve.tokens import Scope

#: What a host does not get: what is about this server and its clients.
_NOT_TO_HOST = HOP_BY_HOP | {
    SCOPE_HEADER,
    b"authorization",
    b"cookie",
    b"expect",
    b"host",
    b"idempotency-key",
    b"origin",
    b"proxy-authorization",
    b"sec-websocket-protocol",
}
_NOT_FROM_HOST = HOP_BY_HOP | {b"date"}
#: The largest answer that is read whole (bytes).
_MAX_ANSWER = 64 << 20
#: How long a host may take to begin an answer to a question of this server (seconds): one that was cut off is found
#: later.
_ANSWER_S = 15.0


class HostRequests:
    """:param hosts: how they are reached."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    async def pass_on(
        self, services: Services, access: Access, host: str, request: Request, target: bytes
    ) -> Streamed:
        """Send a client's request to a host; its response.

        :param target: the path and the query there.
        :raises ClientDisconnect: the client is gone; the host is no longer asked.
        """
        headers, body = passed_request(request, _NOT_TO_HOST, services.max_upload_bytes)
        async with self._exchange(host) as exchange:

            async def gone() -> None:
                await exchange.sent.wait()  # until then, what arrives is the body
                while (await request.receive())["type"] != "http.disconnect":
                    pass

            head = _head(request.method, target, access, headers)
            beginning = asyncio.ensure_future(exchange.begin(head, body, None))
            others: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(work) for work in (gone(), services.stopping.wait())
            ]
            try:
                await asyncio.wait({beginning, *others}, return_when=asyncio.FIRST_COMPLETED)
                if beginning.done():
                    response = exchange.streamed(beginning.result(), _NOT_FROM_HOST)
                    return response._replace(headers={**response.headers, "Ballonet-Host": host})
                if services.stopping.is_set():
                    raise refused("stopping", "the server was stopped before the host had answered")
                raise ClientDisconnect
            finally:
                for task in (beginning, *others):
                    task.cancel()
                await asyncio.gather(beginning, *others, return_exceptions=True)

    async def ask(self, host: str, target: str, access: Access) -> Any:
        """Read a JSON document of a host.

        :param target: the path and the query there.
        :raises BallonetError: the host does not answer, or its answer is an error.
        """
        found = bytearray()
        async for piece in (await self.open(host, target, access)).pieces:
            found += piece
            if len(found) > _MAX_ANSWER:
                raise refused("bad-gateway", f"the answer of host {host} has more than {_MAX_ANSWER} bytes")
        return msgspec.json.decode(found)

    async def open(self, host: str, target: str, access: Access) -> Streamed:
        """As :meth:`ask`; the response, whose body comes piece by piece."""
        async with self._exchange(host) as exchange:
            answer = await exchange.begin(_head("GET", target.encode(), access, []), None, _ANSWER_S)
            if answer.status_code >= 400:
                raise _error_in(b"".join([piece async for piece in exchange.body()]), host)
            return exchange.streamed(answer, _NOT_FROM_HOST)

    async def pass_socket(
        self,
        services: Services,
        access: Access,
        host: str,
        scope: Connection,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a client's WebSocket with one of a host."""
        socket = WebSocket(scope, receive, send)
        line = await self._connection(host)
        target = target_of(scope).decode("latin-1")
        added = {SCOPE_HEADER.decode(): str(access.scope)}
        try:
            far = await connect(
                f"ws://localhost{target}",
                f"host {host}",
                offered_protocols(socket),
                sock=line.socket,
                additional_headers=added,
            )
        except BallonetError as error:
            line.socket.close()
            error = error if line.problem is None else _silent(line.problem)
            await socket.send_denial_response(denial_of(error) or response_to(error))
            return
        async with far:
            await socket.accept(far.subprotocol)
            await relay(socket, far, services.stopping)

    async def _connection(self, host: str) -> Line:
        try:
            return await self._hosts.connect(host)
        except HostError as error:
            raise _silent(error) from error

    @asynccontextmanager
    async def _exchange(self, host: str) -> AsyncIterator[Exchange]:
        """An exchange that is closed unless its head was read: the body is the caller's then."""
        line = await self._connection(host)
        exchange = Exchange(*await asyncio.open_connection(sock=line.socket), f"host {host}")
        try:
            yield exchange
        except BaseException as error:
            await exchange.close()
            if isinstance(error, BallonetError) and line.problem is not None:
                raise _silent(line.problem) from error
            raise


def _silent(error: BallonetError) -> BallonetError:
    return refused("host-silent", error.message, hint=error.hint)


def _head(method: str, target: bytes, access: Access, headers: Headers) -> h11.Request:
    added = [
        (b"host", b"localhost"),
        (SCOPE_HEADER, str(access.scope or Scope.READ).encode()),
        (b"connection", b"close"),
    ]
    return h11.Request(method=method, target=target, headers=[*headers, *added])


def _error_in(answer: bytes, host: str) -> BallonetError:
    """The error that a host's answer tells."""
    try:
        problem = msgspec.json.decode(answer, type=Problem)
    except msgspec.DecodeError:
        return refused("bad-gateway", f"host {host} gave an answer that is no problem document")
    if problem.code in OWN:
        return refused(problem.code, f"host {host}: {problem.detail}", hint=problem.hint)
    return error_class(problem.code)(f"host {host}: {problem.detail}", hint=problem.hint)
