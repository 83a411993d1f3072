"""Operations that run commands in sandboxes: to their end, or with streams that clients attach to."""

from __future__ import annotations

import base64
import signal
from collections.abc import AsyncIterator
from typing import Any

from msgspec import UNSET
from starlette.responses import Response

from ballonet.base.errors import CommandTimeoutError
from ballonet.serve import requests as take
from ballonet.serve import results
from ballonet.serve.operations import BYTES, EVENT_STREAM, Call, Operation, Streamed, answer, nothing
from ballonet.serve.problems import problem_of, refused
from ballonet.serve.running_commands import Piece, RunningCommand
from ballonet.serve.server_events import event, kept_alive
from ballonet.serve.tokens import Scope

_AT = "/v1/sandboxes/{name}/execs"
#: The largest output of a command that is returned as a whole (bytes).
MAX_COLLECTED_BYTES = 16 << 20


async def _run(call: Call) -> Response:
    """Run a command to its end."""
    body = call.body
    stdin = _input(body)
    with call.services.commands.reserve(call.name):
        box = await call.services.box(call.name)
        try:
            process = await box.exec_stream(
                body.argv,
                env=body.env,
                cwd=body.cwd,
                user=body.user,
                stdin=stdin is not None,
                timeout=body.timeout_s,
            )
            async with process:
                stdout, stderr = await process.communicate(stdin or b"", limit=MAX_COLLECTED_BYTES)
                status = await process.wait()
        except CommandTimeoutError as error:
            return answer(_result(None, error.stdout, error.stderr))
    return answer(_result(status.returncode, stdout, stderr))


def _input(body: Any) -> bytes | None:
    if body.stdin is None:
        return None
    if body.stdin_encoding == "base64":
        try:
            return base64.b64decode(body.stdin, validate=True)
        except ValueError as error:
            raise refused("invalid-request", f"stdin is not base64: {error}") from None
    return bytes(body.stdin.encode())


def _result(returncode: int | None, stdout: bytes, stderr: bytes) -> results.ExecResult:
    try:
        encoding, texts = "utf-8", [stdout.decode(), stderr.decode()]
    except UnicodeDecodeError:
        encoding, texts = "base64", [base64.b64encode(each).decode() for each in (stdout, stderr)]
    return results.ExecResult(returncode, returncode is None, encoding, *texts)


async def _start(call: Call) -> Response:
    body = call.body
    with call.services.commands.reserve(call.name) as place:
        box = await call.services.box(call.name)
        process = await box.exec_stream(
            body.argv,
            env=body.env,
            cwd=body.cwd,
            user=body.user,
            stdin=body.stdin or body.tty,
            tty=body.tty,
            rows=body.rows,
            cols=body.cols,
            timeout=body.timeout_s,
        )
        command = RunningCommand(
            call.name, tuple(body.argv), process, tty=body.tty, unattended_s=body.unattended_s
        )
        call.services.commands.add(command, place)
    return answer(command.describe(), 201, {"Location": f"/v1/sandboxes/{call.name}/execs/{command.id}"})


def _command(call: Call) -> RunningCommand:
    return call.services.commands.get(call.name, call.path("exec"))


async def _list(call: Call) -> Response:
    await call.services.box(call.name)
    return answer([command.describe() for command in call.services.commands.of(call.name)])


async def _inspect(call: Call) -> Response:
    return answer(_command(call).describe())


async def _output(call: Call) -> Streamed:
    command = _command(call)
    after: int | None = None if call.query.after is UNSET else call.query.after
    last = call.request.headers.get("last-event-id")
    if after is None and last:
        if not (last.isascii() and last.isdecimal() and len(last) < 19):
            raise refused("invalid-request", f"the Last-Event-ID {last[:40]!r} is not a number")
        after = int(last)
    pieces = command.output(after)
    first = await anext(pieces, None)  # an error before the stream begins
    return Streamed(kept_alive(_events(command, first, pieces)), EVENT_STREAM)


async def _events(
    command: RunningCommand, first: Piece | None, pieces: AsyncIterator[Piece]
) -> AsyncIterator[bytes]:
    if first is not None:
        yield _piece_event(first)
        async for piece in pieces:
            yield _piece_event(piece)
    if command.error is not None:
        yield event("error", problem_of(command.error))
    else:
        yield event("exit", {"returncode": command.returncode, "timed_out": command.timed_out})


def _piece_event(piece: Piece) -> bytes:
    try:
        content = {"text": piece.content.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(piece.content).decode()}
    return event(piece.stream, content, str(piece.number))


async def _stdin(call: Call) -> Response:
    command = _command(call)
    async for piece in call.upload():
        await command.process.write_stdin(piece)
    if call.query.end:
        await command.process.close_stdin()
    return nothing()


async def _signal(call: Call) -> Response:
    await _command(call).process.send_signal(signal_number(call.body.signal))
    return nothing()


def signal_number(given: int | str) -> int:
    """:raises RequestRefusedError: there is no such signal."""
    if isinstance(given, int):
        number = given
    else:
        name = given.upper().removeprefix("SIG")
        number = getattr(signal, f"SIG{name}", 0) if name.isalnum() else 0
    if not isinstance(number, signal.Signals) and not 1 <= number <= signal.NSIG - 1:
        raise refused(
            "invalid-request",
            f"there is no signal {str(given)[:40]!r}",
            hint="give a name such as TERM, or a number from 1 to 64",
        )
    return int(number)


async def _resize(call: Call) -> Response:
    command = _command(call)
    if not command.tty:
        raise refused("invalid-request", "the command has no terminal", hint="start it with 'tty': true")
    await command.process.resize(call.body.rows, call.body.cols)
    return nothing()


async def _wait(call: Call) -> Response:
    import asyncio

    command = _command(call)
    waiting = asyncio.create_task(command.wait())
    stopping = asyncio.create_task(call.services.stopping.wait())
    await asyncio.wait({waiting, stopping}, timeout=call.query.timeout_s, return_when="FIRST_COMPLETED")
    for task in (waiting, stopping):
        task.cancel()
    return answer(command.describe())


async def _remove(call: Call) -> Response:
    await call.services.commands.remove(_command(call))
    return nothing()


_ERRORS = {404: "there is no such sandbox, or no such command in it"}
_STARTING = {
    404: "there is no such sandbox",
    409: "the sandbox is not running",
    422: "the command could not be started",
    429: "the sandbox runs too many commands",
    503: "the sandbox is paused, and the host has no room to resume it",
}

OPERATIONS = [
    Operation(
        "POST",
        "/v1/sandboxes/{name}/exec",
        _run,
        Scope.USE,
        "Run a command to its end",
        "A paused sandbox is resumed first. With timed_out, the command was killed at its timeout, and the output "
        "is what it had written until then. An output of more than 16 MiB is an error.",
        body=take.ExecBody,
        result=results.ExecResult,
        errors=_STARTING,
    ),
    Operation(
        "POST",
        _AT,
        _start,
        Scope.USE,
        "Start a command",
        "Its output is read with /output or /attach, also later and again. A command that no client reads for "
        "unattended_s is killed. Commands do not survive the end of the server.",
        body=take.StartExecBody,
        result=results.Exec,
        status=201,
        errors=_STARTING | {504: "its timeout was over before it had started"},
    ),
    Operation(
        "GET",
        _AT,
        _list,
        Scope.READ,
        "List the commands that were started in a sandbox",
        result=list[results.Exec],
        errors={404: "there is no such sandbox"},
    ),
    Operation(
        "GET",
        f"{_AT}/{{exec}}",
        _inspect,
        Scope.READ,
        "Inspect a command",
        result=results.Exec,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/{{exec}}/output",
        _output,
        Scope.USE,
        "Read the output of a command",
        "Server-sent events: 'stdout' and 'stderr' with 'text', or 'base64' where it is not UTF-8; at the end 'exit' "
        "with 'returncode' and 'timed_out', or 'error' with a problem. If the client is slow, the command waits.",
        query=take.OutputQuery,
        result=EVENT_STREAM,
        errors=_ERRORS | {410: "the output after that piece is not kept any more"},
        headers={"Last-Event-ID": "continue after the event with this ID"},
    ),
    Operation(
        "POST",
        f"{_AT}/{{exec}}/stdin",
        _stdin,
        Scope.USE,
        "Write to the standard input of a command",
        "The body is passed on as it arrives. If the command does not read, the client waits.",
        query=take.StdinQuery,
        body=BYTES,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "POST",
        f"{_AT}/{{exec}}/signal",
        _signal,
        Scope.USE,
        "Send a signal to a command",
        body=take.SignalBody,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "POST",
        f"{_AT}/{{exec}}/resize",
        _resize,
        Scope.USE,
        "Set the size of a command's terminal",
        body=take.ResizeBody,
        status=204,
        errors=_ERRORS,
    ),
    Operation(
        "GET",
        f"{_AT}/{{exec}}/wait",
        _wait,
        Scope.READ,
        "Wait until a command has ended",
        "Answers after timeout_s at the latest. The output must be read meanwhile if there is much of it.",
        query=take.WaitQuery,
        result=results.Exec,
        errors=_ERRORS,
    ),
    Operation(
        "DELETE",
        f"{_AT}/{{exec}}",
        _remove,
        Scope.USE,
        "Kill a command, with everything that it started, and forget it",
        status=204,
        errors=_ERRORS,
    ),
]
