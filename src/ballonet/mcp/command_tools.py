"""Tools that run commands: to their end, in the background, or as servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from mcp_types import ContentBlock
from msgspec import Meta, Struct

from ballonet.base.errors import BallonetError, ConfigError, GuestError
from ballonet.mcp.output import PART_BYTES, Part
from ballonet.mcp.sandbox_tools import SandboxName, addresses
from ballonet.mcp.session import AgentCommand, AgentSession
from ballonet.mcp.tools import ToolDefinition, ToolError, as_json, text
from ballonet.sdk.sandbox import Sandbox

#: How long a result is waited for at most, and by default: many clients give up a call after a minute (seconds).
MAX_WAIT_S, WAIT_S = 300, 50
MAX_TIMEOUT_S, TIMEOUT_S = 24 * 3600, 600
#: How often a server that starts is checked (seconds).
_LISTENING_CHECK_S = 0.25
_NET_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")

Command = Annotated[
    str, Meta(description="Shell command, run by /bin/sh -c.", min_length=1, max_length=100_000)
]
Directory = Annotated[
    Annotated[str, Meta(max_length=4096)] | None,
    Meta(description="Working directory. By default that of the image."),
]
Environment = Annotated[dict[str, str], Meta(description="Environment variables, in addition.")]
Wait = Annotated[
    float,
    Meta(
        description="Seconds to wait for its end. If it still runs then, the result has its command_id.",
        ge=0,
        le=MAX_WAIT_S,
    ),
]
CommandId = Annotated[str, Meta(description="The command_id of an earlier result.", max_length=100)]


class RunCommand(Struct, forbid_unknown_fields=True):
    """Run a shell command in a sandbox, and return its exit status and output. At most 32 KiB of output are in one
    result: with 'more', read on with read_output. With wait_s 0 it runs in the background. Standard input is empty."""

    command: Command
    sandbox: SandboxName = None
    cwd: Directory = None
    env: Environment = {}
    timeout_s: Annotated[
        float,
        Meta(
            description="Seconds after which the command is killed, with everything that it started.",
            gt=0,
            le=MAX_TIMEOUT_S,
        ),
    ] = TIMEOUT_S
    wait_s: Wait = WAIT_S


async def _run(session: AgentSession, given: RunCommand) -> Sequence[ContentBlock]:
    box = await session.find(given.sandbox)
    command = await session.start(
        box, given.command, cwd=given.cwd, env=given.env or None, timeout_s=given.timeout_s
    )
    try:
        return await _result(session, command, given.wait_s)
    except asyncio.CancelledError:  # the client does not know its ID
        await session.end(command)
        raise


class ReadOutput(Struct, forbid_unknown_fields=True):
    """Read on in the output of a command that runs, or had more output than one result holds. All output is returned
    once, in order. A command started with run_command waits when 256 KiB of its output are unread."""

    command_id: CommandId
    wait_s: Wait = WAIT_S


async def _read(session: AgentSession, given: ReadOutput) -> Sequence[ContentBlock]:
    return await _result(session, session.command(given.command_id), given.wait_s)


class StopCommand(Struct, forbid_unknown_fields=True):
    """Kill a command that runs, with everything that it started, and return its last output."""

    command_id: CommandId


async def _stop(session: AgentSession, given: StopCommand) -> Sequence[ContentBlock]:
    command = session.command(given.command_id)
    part = await command.reader.read(0)
    was_running = not command.command.ended
    await session.end(command)
    return [as_json({"stopped": was_running}), *shown(part.stdout, part.stderr)]


async def _result(session: AgentSession, command: AgentCommand, wait_s: float) -> list[ContentBlock]:
    """The next part of a command's output, and how it ended if it did."""
    part = await command.reader.read(wait_s)
    running = command.command
    facts: dict[str, Any] = {}
    if running.ended and not part.more:
        await session.end(command)
        if running.error is not None:
            raise ToolError(running.error, shown(part.stdout, part.stderr))
        facts["exit_status"] = running.returncode
        facts["timed_out"] = running.timed_out
    else:
        facts["running"] = not running.ended
        facts["more"] = True
        facts["command_id"] = running.id
    if part.lost:
        facts["older_output_dropped"] = True
    return [as_json(facts), *shown(part.stdout, part.stderr)]


def shown(stdout: str, stderr: str) -> list[ContentBlock]:
    """Output as content, which no output can be taken for the rest of a result."""
    pairs = (("stdout", stdout), ("stderr", stderr))
    return [text(f"{name}:\n{content}") for name, content in pairs if content]


class StartServer(Struct, forbid_unknown_fields=True):
    """Start a server in a sandbox, wait until it listens on its port, and return the address at which it can be reached
    from outside the sandbox. The sandbox must have been created with that port in 'ports'. The server has to listen on
    all addresses (0.0.0.0), not only on 127.0.0.1. It runs until stop_command or the sandbox's end."""

    command: Command
    port: Annotated[int, Meta(description="TCP port on which it listens in the sandbox.", ge=1, le=65535)]
    sandbox: SandboxName = None
    cwd: Directory = None
    env: Environment = {}
    wait_s: Annotated[float, Meta(description="Seconds to wait until it listens.", ge=0, le=MAX_WAIT_S)] = (
        WAIT_S
    )


async def _serve(session: AgentSession, given: StartServer) -> Sequence[ContentBlock]:
    box = await session.find(given.sandbox)
    if not any(port.guest == given.port and port.protocol == "tcp" for port in box.ports):
        known = ", ".join(str(port.guest) for port in box.ports) or "none"
        raise ConfigError(
            f"port {given.port} of sandbox {box.name!r} is not published; published are: {known}",
            hint=f"create a sandbox with 'ports': [{given.port}]",
        )
    if await listens_in(box, given.port):
        raise ConfigError(
            f"a program in sandbox {box.name!r} listens on port {given.port} already",
            hint="stop it first, or use another port",
        )
    server = await session.start(box, given.command, cwd=given.cwd, env=given.env or None, drained=True)
    try:
        part = await _started(box, server, given)
    except BaseException:
        await session.end(server)
        raise
    facts = {"command_id": server.command.id, "port": given.port, **addresses(session, box, given.port)}
    return [as_json(facts), *shown(part.stdout, part.stderr)]


async def _started(box: Sandbox, server: AgentCommand, given: StartServer) -> Part:
    """Wait until the server listens; returns what it has said.

    :raises ToolError: it ended, or does not listen in time.
    """
    give_up_at = time.monotonic() + given.wait_s
    while not await listens_in(box, given.port):
        command = server.command
        if command.ended:
            status = "unknown" if command.returncode is None else command.returncode
            problem: BallonetError = GuestError(f"the server ended with exit status {status}")
        elif time.monotonic() >= give_up_at:
            problem = GuestError(
                f"the server does not listen on port {given.port} after {given.wait_s:g} s, and was killed",
                hint="give it more time with wait_s, or check its port",
            )
        else:
            await asyncio.sleep(_LISTENING_CHECK_S)
            continue
        part = await server.reader.read(0, PART_BYTES)
        raise ToolError(problem, shown(part.stdout, part.stderr))
    return await server.reader.read(0, PART_BYTES)


async def listens_in(box: Sandbox, port: int) -> bool:
    """Whether a program in the guest listens on a TCP port."""
    from ballonet.machine.health import listens

    for path in _NET_TABLES:
        try:
            table = await box.fs.read(path, limit=1 << 20)
        except GuestError:
            continue  # without IPv6
        if listens(table.decode(errors="replace"), port):
            return True
    return False


TOOLS = [
    ToolDefinition("run_command", "Run a command", RunCommand, _run, destructive=True),
    ToolDefinition("read_output", "Read on in a command's output", ReadOutput, _read),
    ToolDefinition("stop_command", "Stop a command", StopCommand, _stop, destructive=True),
    ToolDefinition("start_server", "Start a server", StartServer, _serve),
]
