"""A WebSocket on a running command: output, input, size of the terminal and signals. It can be closed and opened again.

A binary message is one byte for the stream (0 standard input, 1 standard output, 2 standard error), then the bytes. A
text message is a JSON object. From the client: ``{"resize": {"rows": 24, "cols": 80}}``, ``{"signal": "INT"}``,
``{"end": true}`` (closes standard input). From the server, once at the end: ``{"exit": {"returncode": 0, "timed_out":
false}}`` or ``{"error": PROBLEM}``. The query parameter ``after`` continues after that many output messages.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
from starlette.types import Receive, Send
from starlette.types import Scope as Connection
from starlette.websockets import WebSocket, WebSocketDisconnect

from ballonet.base.errors import BallonetError, GuestChannelError
from ballonet.serve.access import TOKEN_PROTOCOL, Access
from ballonet.serve.exec_operations import signal_number
from ballonet.serve.operations import encode, response_to
from ballonet.serve.problems import Problem, problem_of, refused
from ballonet.serve.requests import Body, ResizeBody
from ballonet.serve.running_commands import RunningCommand
from ballonet.serve.services import Services
from ballonet.serve.tokens import Scope

#: The subprotocol that the server selects.
PROTOCOL = "ballonet.v1"
_STDIN, _STDOUT, _STDERR = 0, 1, 2
#: The code with which the server closes (RFC 6455, section 7.4.1).
_DONE, _GOING_AWAY, _INVALID = 1000, 1001, 1003


class _Message(Body):
    """A text message of the client."""

    resize: ResizeBody | None = None
    signal: int | str | None = None
    end: bool = False


async def attach(services: Services, scope: Connection, receive: Receive, send: Send) -> None:
    """Serve a WebSocket on a command."""
    socket = WebSocket(scope, receive, send)
    access: Access = scope["state"]["access"]
    try:
        access.check(Scope.USE)
        command = services.commands.get(socket.path_params["name"], socket.path_params["exec"])
        after = _after(socket)
        command.check_available(after)
    except BallonetError as error:
        await socket.send_denial_response(response_to(error))
        return
    offered = socket.scope.get("subprotocols", [])
    # A browser requires one of the subprotocols that it has offered.
    chosen = PROTOCOL if PROTOCOL in offered else None
    if chosen is None and any(each.startswith(TOKEN_PROTOCOL) for each in offered):
        await socket.send_denial_response(
            response_to(refused("invalid-request", f"offer the subprotocol {PROTOCOL}, too"))
        )
        return
    await socket.accept(chosen)
    output = asyncio.ensure_future(_send_output(socket, command, after))
    input = asyncio.ensure_future(_take_input(socket, command))
    stopping = asyncio.ensure_future(services.stopping.wait())
    tasks = (output, input, stopping)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if output.done():
            output.result()
            await socket.close(_DONE)
        elif input.done():
            if (problem := input.result()) is not None:
                await socket.send_text(encode({"error": problem}).decode())
                await socket.close(_INVALID)
        else:
            await socket.close(_GOING_AWAY)
    except (WebSocketDisconnect, RuntimeError, OSError):
        pass  # the client is gone; the command goes on
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _after(socket: WebSocket) -> int | None:
    text = socket.query_params.get("after")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise refused("invalid-request", f"the parameter after {text[:40]!r} is not a number")
    return int(text)


async def _send_output(socket: WebSocket, command: RunningCommand, after: int | None) -> None:
    try:
        async for piece in command.output(after):
            stream = _STDOUT if piece.stream == "stdout" else _STDERR
            await socket.send_bytes(bytes([stream]) + piece.content)
    except BallonetError as error:  # another client was faster, and this one missed output
        await socket.send_text(encode({"error": problem_of(error)}).decode())
        return
    if command.error is not None:
        last: dict[str, Any] = {"error": problem_of(command.error)}
    else:
        last = {"exit": {"returncode": command.returncode, "timed_out": command.timed_out}}
    await socket.send_text(encode(last).decode())


async def _take_input(socket: WebSocket, command: RunningCommand) -> Problem | None:
    """Serve the client's messages until it closes; returns why a message is invalid."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        try:
            if (data := message.get("bytes")) is not None:
                if not data or data[0] != _STDIN:
                    raise refused("invalid-request", "a binary message of a client begins with a zero byte")
                with suppress(
                    GuestChannelError
                ):  # it has ended, or has closed its input: the exit status follows
                    await command.process.write_stdin(data[1:])
            else:
                await _carry_out(message.get("text") or "", command)
        except BallonetError as error:
            return problem_of(error)


async def _carry_out(text: str, command: RunningCommand) -> None:
    try:
        message = msgspec.json.decode(text, type=_Message)
    except msgspec.DecodeError as error:
        raise refused("invalid-request", f"the message is invalid: {error}") from None
    process = command.process
    if message.resize is not None and command.tty:
        with suppress(GuestChannelError):
            await process.resize(message.resize.rows, message.resize.cols)
    if message.signal is not None:
        with suppress(GuestChannelError):
            await process.send_signal(signal_number(message.signal))
    if message.end:
        with suppress(GuestChannelError):
            await process.close_stdin()
