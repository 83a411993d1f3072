"""The relay: local clients share one real agent, and none can harm another."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ballonet.base.errors import GuestChannelError, GuestCommandError
from ballonet.guest.agent_client import AgentClient, ExitStatus
from ballonet.guest.frames import (
    HEADER,
    MAX_EXEC_BYTES,
    MAX_TO_GUEST_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)
from ballonet.guest.messages import Exec, encode_number, encode_resize
from ballonet.guest.relay import AgentRelay
from tests.unit.agent_program import DEADLINE_S, READY, PlayedGuest, ended, started_agent


@asynccontextmanager
async def served(relay: AgentRelay) -> AsyncIterator[Path]:
    """The relay on a Unix socket."""
    await relay.wait_ready(DEADLINE_S)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "agent.sock"
        server = await asyncio.start_unix_server(relay.serve_connection, path)
        try:
            yield path
        finally:
            server.close()
            await relay.close()


@asynccontextmanager
async def relay_of_real_agent() -> AsyncIterator[tuple[AgentRelay, Path]]:
    with started_agent() as (ours, _):
        relay = AgentRelay(ours.dup())
        ours.close()
        async with served(relay) as path:
            yield relay, path


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[AgentClient]:
    client = await AgentClient.connect(path)
    try:
        await client.wait_ready(DEADLINE_S)
        yield client
    finally:
        await client.close()


async def echo(client: AgentClient, data: bytes) -> bytes:
    async with await client.exec(["cat"], stdin=True) as process:
        return (await process.communicate(data))[0]


async def test_two_clients_and_the_process_itself_work_at_once() -> None:
    async with relay_of_real_agent() as (relay, path), connected(path) as one, connected(path) as two:
        inputs = [bytes([n]) * (1 << 20) for n in range(3)]
        clients = [one, two, relay]
        results = await asyncio.gather(
            *(echo(client, data) for client, data in zip(clients, inputs, strict=True))
        )
        assert results == inputs
        assert (await one.wait_ready()) == (await relay.wait_ready())
        await asyncio.gather(*(client.ping(b"x") for client in clients * 20))
        assert (await relay.stats()).mem_total_kib


async def test_start_failures_and_exit_codes_reach_the_client() -> None:
    async with relay_of_real_agent() as (_, path), connected(path) as client:
        with pytest.raises(GuestCommandError) as caught:
            await client.exec(["no-such-command"])
        assert caught.value.errno == 2
        async with await client.exec(
            ["sh", "-c", "read x; stty size; kill -9 $$"], tty=True, stdin=True
        ) as process:
            await process.resize(12, 34)
            await process.write_stdin(b"\n")
            assert b"12 34" in (await process.communicate())[0]
            assert await process.wait() == ExitStatus(True, signal.SIGKILL)


async def test_a_client_that_vanishes_takes_its_process_with_it() -> None:
    async with relay_of_real_agent() as (relay, path), connected(path) as stays:
        leaves = await AgentClient.connect(path)
        await leaves.wait_ready(DEADLINE_S)
        lost = await leaves.exec(["yes"])
        kept = await stays.exec(["sleep", "1000"])
        await leaves.close()
        await ended(lost.pid)
        await stays.ping()
        assert Path(f"/proc/{kept.pid}").exists()
        await relay.ping()


async def test_a_client_that_does_not_read_delays_nobody() -> None:
    async with relay_of_real_agent() as (_, path), connected(path) as other:
        reader, writer = await asyncio.open_unix_connection(path)
        flood = Exec(["yes"], {"PATH": "/usr/bin:/bin"}).encode()
        for stream in range(1, 9):
            writer.write(Frame(FrameType.EXEC, stream, flood).encode())
        await writer.drain()
        await reader.readexactly(HEADER.size)  # it is being served
        assert await echo(other, bytes(2 << 20)) == bytes(2 << 20)
        writer.close()


CAT = Frame(FrameType.EXEC, 5, Exec(["cat"], {"PATH": "/usr/bin:/bin"}, stdin=True).encode())
#: Reads nothing; what its pipe holds is granted again, so that it takes more than a window to go beyond.
IDLE = Frame(FrameType.EXEC, 5, Exec(["sleep", "1000"], {"PATH": "/usr/bin:/bin"}, stdin=True).encode())
SLEEP = Frame(FrameType.EXEC, 5, Exec(["sleep", "1000"], {"PATH": "/usr/bin:/bin"}).encode())


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff" * 20],
        [Frame(FrameType.SHUTDOWN, 0)],
        [Frame(FrameType.STATS_REQ, 0)],
        [Frame(FrameType.TRIM, 0, bytes(12))],
        [Frame(FrameType.EXEC, 0, CAT.payload)],
        [Frame(FrameType.EXEC, 5, b"nonsense")],
        [Frame(FrameType.EXEC, 5, CAT.payload[:-1])],
        [Frame(FrameType.EXEC_PART, 0, b"x")],
        [Frame(FrameType.EXEC_PART, 5)],
        [Frame(FrameType.EXEC_PART, 5, b"x"), CAT],
        [CAT, Frame(FrameType.EXEC_PART, 5, b"x")],
        [Frame(FrameType.EXEC_PART, 6, bytes(MAX_TO_GUEST_BYTES))]
        * (MAX_EXEC_BYTES // MAX_TO_GUEST_BYTES + 1),
        [CAT, CAT],
        [CAT, Frame(FrameType.STDIN, 5)],
        [SLEEP, Frame(FrameType.STDIN, 5, b"x")],
        [CAT, Frame(FrameType.STDIN_EOF, 5), Frame(FrameType.STDIN_EOF, 5)],
        [CAT, Frame(FrameType.SIGNAL, 5, encode_number(0))],
        [CAT, Frame(FrameType.RESIZE, 5, encode_resize(1, 1))],
        [CAT, Frame(FrameType.CREDIT, 5, encode_number(1))],
        [IDLE, *[Frame(FrameType.STDIN, 5, bytes(WINDOW_BYTES // 2))] * 3],
        [Frame(FrameType.PING, 0, bytes(1025))],
        [Frame(FrameType.PING, 3)],
    ],
)
async def test_a_client_that_breaks_the_protocol_is_dropped_alone(
    frames: list[Frame | bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with relay_of_real_agent() as (relay, path), connected(path) as good, asyncio.timeout(DEADLINE_S):
        kept = await good.exec(["cat"], stdin=True)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"".join(frame if isinstance(frame, bytes) else frame.encode() for frame in frames))
        while await reader.read(4096):
            pass
        writer.close()
        assert "a client of the agent relay was disconnected" in caplog.text
        assert (await kept.communicate(b"unharmed"))[0] == b"unharmed"
        await relay.ping()


async def test_long_commands_of_several_clients_at_once_arrive_whole() -> None:
    words = ["w" * 100_000] * 15

    async def count(client: AgentClient, number: int) -> bytes:
        async with await client.exec(["sh", "-c", 'echo "$0 $#"', str(number), *words]) as process:
            return (await process.communicate())[0]

    async with relay_of_real_agent() as (relay, path), connected(path) as one, connected(path) as other:
        async with asyncio.timeout(DEADLINE_S):
            said = await asyncio.gather(
                *(count(client, n) for n in range(3) for client in (one, other, relay))
            )
    assert sorted(said) == sorted([b"%d 15\n" % n for n in range(3)] * 3)


async def test_late_frames_for_a_stream_that_has_ended_are_ignored() -> None:
    async with relay_of_real_agent() as (_, path), asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(
            Frame(FrameType.EXEC, 5, Exec(["true"], {"PATH": "/usr/bin:/bin"}, stdin=True).encode()).encode()
        )
        decoder = FrameDecoder()
        kinds: list[FrameType] = []
        while FrameType.EXIT not in kinds:
            kinds += [frame.kind for frame in decoder.feed(await reader.read(4096))]
        for kind in (FrameType.STDIN, FrameType.SIGNAL, FrameType.CREDIT):
            writer.write(Frame(kind, 5, encode_number(1)).encode())
        writer.write(Frame(FrameType.PING, 0, b"alive").encode())
        frames: list[Frame] = []
        while not frames:
            frames += decoder.feed(await reader.read(4096))
        assert frames == [Frame(FrameType.PONG, 0, b"alive")]
        writer.close()


async def test_the_guests_end_ends_every_client() -> None:
    async with relay_of_real_agent() as (relay, path), connected(path) as busy, connected(path) as idle:
        process = await busy.exec(["sleep", "1000"])
        await relay.shutdown()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(GuestChannelError):
                await process.wait()
            await idle.wait_lost()


async def test_what_the_guest_says_reaches_the_client_under_its_own_number() -> None:
    async with PlayedGuest.with_socket() as (guest, theirs):
        relay = AgentRelay(theirs)
        guest.send(READY)
        async with served(relay) as path, asyncio.timeout(DEADLINE_S):
            for number in (7, 7):  # the same number again, on another connection
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(Frame(FrameType.EXEC, number, CAT.payload).encode())
                stream = (await guest.receive(FrameType.EXEC)).stream
                guest.send(
                    Frame(FrameType.STARTED, stream, encode_number(9)), Frame(FrameType.STDOUT, stream, b"hi")
                )
                decoder = FrameDecoder()
                frames: list[Frame] = []
                while len(frames) < 3:
                    frames += decoder.feed(await reader.read(4096))
                assert frames[0].kind == FrameType.READY
                assert frames[2] == Frame(FrameType.STDOUT, number, b"hi")
                writer.close()
                assert (await guest.receive(FrameType.SIGNAL)).stream == stream
