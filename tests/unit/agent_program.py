"""The real agent, compiled once and run on this host over a socket pair; and a guest played by hand."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ballonet.guest.agent_client import AgentClient
from ballonet.guest.frames import (
    FROM_HOST,
    MAX_TO_GUEST_BYTES,
    PROTOCOL_VERSION,
    Frame,
    FrameDecoder,
    FrameType,
)
from ballonet.guest.messages import Features, Ready, encode_ready

SOURCES = Path(__file__).parents[2] / "src" / "ballonet" / "guest" / "agent"
#: Generous: it only ends tests that would hang.
DEADLINE_S = 60.0
END_VIOLATION = 3
READY = Frame(FrameType.READY, 0, encode_ready(Ready(PROTOCOL_VERSION, "6.1.0", 900, Features.PRESSURE, ())))


@functools.cache
def _directory() -> Path:
    directory = tempfile.mkdtemp(prefix="ballonet-agent-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@functools.cache
def built_agent() -> Path:
    """The agent as it is shipped: static, by musl if there is one."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    return _compile("agent", [compiler, "-static", "-Os"])


@functools.cache
def sanitized_agent() -> Path:
    """The agent with every check that the compiler offers."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    return _compile("agent-sanitized", ["gcc", "-O1", "-g", "-fsanitize=address,undefined"])


def _compile(name: str, command: list[str]) -> Path:
    output = _directory() / name
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, *flags, "-o", output, *sorted(SOURCES.glob("*.c"))], check=True)
    return output


@contextmanager
def started_agent(
    program: Path | None = None, stderr: int | None = None
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """Run the agent; yields the host's end of its channel."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            argv = [str(program or built_agent()), "--fd", str(theirs.fileno())]
            process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=stderr)
        # A guest's first process raises its limit by itself. That of a login is often 1024.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
        with process:
            try:
                yield ours, process
            finally:
                ours.close()
                try:
                    process.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


@asynccontextmanager
async def agent_client() -> AsyncIterator[tuple[AgentClient, subprocess.Popen[bytes]]]:
    """A client of a running agent that is ready."""
    with started_agent() as (ours, process):
        client = AgentClient(ours.dup())
        ours.close()
        await client.wait_ready(DEADLINE_S)
        try:
            yield client, process
        finally:
            await client.close()


class PlayedGuest:
    """The guest's end of a channel, with a test deciding what it sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(FROM_HOST, MAX_TO_GUEST_BYTES)
        self._frames: list[Frame] = []

    @classmethod
    @asynccontextmanager
    async def with_socket(cls) -> AsyncIterator[tuple[PlayedGuest, socket.socket]]:
        """A played guest, and the host's end for whoever is tested to own."""
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            yield cls(reader, writer), theirs
        finally:
            writer.transport.abort()

    @classmethod
    @asynccontextmanager
    async def with_client(cls) -> AsyncIterator[tuple[PlayedGuest, AgentClient]]:
        """A played guest and a client that is ready."""
        async with cls.with_socket() as (guest, theirs):
            client = AgentClient(theirs)
            guest.send(READY)
            await client.wait_ready(DEADLINE_S)
            try:
                yield guest, client
            finally:
                await client.close()

    def send(self, *frames: Frame) -> None:
        """Send frames, sensible or not."""
        for frame in frames:
            self._writer.write(frame.encode())

    def send_bytes(self, data: bytes) -> None:
        """Send what may be no frame at all."""
        self._writer.write(data)

    def hang_up(self) -> None:
        """Close the guest's end, after what was sent."""
        self._writer.close()

    async def receive(self, kind: FrameType) -> Frame:
        """The next frame of this kind; others before it are dropped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while self._frames:
                    frame = self._frames.pop(0)
                    if frame.kind == kind:
                        return frame
                data = await self._reader.read(1 << 16)
                assert data, f"the channel closed while waiting for {kind.name}"
                self._frames += self._decoder.feed(data)


async def ended(pid: int) -> None:
    """Wait until process ``pid`` of this host has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
