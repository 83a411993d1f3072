"""Passes the messages of a WebSocket on to another server's, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from ballonet.serve.access import TOKEN_PROTOCOL
from ballonet.serve.problems import refused

_CONNECT_S = 10.0
_MAX_MESSAGE = 1 << 20
_DONE, _GOING_AWAY = 1000, 1001
#: Codes that no endpoint may send (RFC 6455, section 7.4.1).
_NOT_SENT = frozenset((1004, 1005, 1006, 1015))


def offered_protocols(socket: WebSocket) -> list[str]:
    """The subprotocols that the client offers, without its token."""
    offered = (str(each) for each in socket.scope.get("subprotocols", ()))
    return [each for each in offered if not each.startswith(TOKEN_PROTOCOL)]


async def connect(uri: str, server: str, protocols: Sequence[str], **how: Any) -> ClientConnection:
    """Open a WebSocket to another server.

    :param server: who that is, for the message.
    :param how: as for :func:`websockets.asyncio.client.connect`: where it is.
    :raises RequestRefusedError: it does not accept it. Its own response is the cause, if it has sent one.
    """
    wanted: Any = list(protocols) or None
    try:
        return await open_websocket(
            uri,
            subprotocols=wanted,
            compression=None,
            max_size=_MAX_MESSAGE,
            max_queue=4,
            open_timeout=_CONNECT_S,
            proxy=None,
            **how,
        )
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise refused("bad-gateway", f"{server} does not accept the WebSocket: {error}") from error


def denial_of(error: BaseException) -> Response | None:
    """The response with which the other server refused the WebSocket; ``None``: it sent none."""
    cause = error.__cause__
    if not isinstance(cause, InvalidStatus):
        return None
    found = cause.response
    return Response(bytes(found.body or b""), found.status_code, media_type=found.headers.get("content-type"))


async def relay(socket: WebSocket, far: ClientConnection, stopping: asyncio.Event) -> None:
    """Pass messages on until one side closes, or until ``stopping``. The client's side is closed then."""

    async def to_far() -> None:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            data = message.get("bytes")
            await far.send(message["text"] if data is None else data)

    async def to_client() -> None:
        async for message in far:
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))

    tasks = [asyncio.ensure_future(work) for work in (to_far(), to_client(), stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        code = far.close_code
        if stopping.is_set():
            code = _GOING_AWAY
        elif code is None or code in _NOT_SENT:
            code = _DONE
        with suppress(RuntimeError, WebSocketDisconnect, ConnectionClosed):
            await socket.close(code)
