"""The host's side against a guest that a test plays: whatever it does, calls end and nothing grows."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ballonet.base.errors import GuestBootError, GuestChannelError, GuestCommandError, GuestError
from ballonet.guest.agent_client import AgentClient, ExitStatus, GuestProcess, GuestReport, TrimFlags
from ballonet.guest.frames import HEADER, MAX_PROCESSES, MAX_TO_HOST_BYTES, WINDOW_BYTES, Frame, FrameType
from ballonet.guest.messages import decode_number, encode_error, encode_number
from tests.unit.agent_program import DEADLINE_S, READY, PlayedGuest

pytestmark = pytest.mark.long

EXITED = (0).to_bytes(8, "little")


def started(stream: int) -> Frame:
    return Frame(FrameType.STARTED, stream, encode_number(100 + stream))


async def start(guest: PlayedGuest, client: AgentClient, **options: Any) -> tuple[GuestProcess, int]:
    """Start a process; returns it and its stream."""
    starting = asyncio.create_task(client.exec(["x"], **options))
    stream = (await guest.receive(FrameType.EXEC)).stream
    guest.send(started(stream))
    return await starting, stream


def output(size: int, stream: int = 1) -> Frame:
    return Frame(FrameType.STDOUT, stream, bytes(size))


full_window = [output(MAX_TO_HOST_BYTES)] * (WINDOW_BYTES // MAX_TO_HOST_BYTES)


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        ([b"\xff" * 20], "unknown type"),
        ([HEADER.pack(MAX_TO_HOST_BYTES + 1, FrameType.STDOUT, 0, 1)], "exceeds the limit of 65536"),
        ([READY], "READY"),
        ([started(1)], "unexpected STARTED frame"),
        ([started(77)], "stream 77"),
        ([Frame(FrameType.STDOUT, 1)], "unexpected STDOUT frame of 0 bytes"),
        ([*full_window, output(1)], "exceeds the credit of stream 1"),
        (
            [Frame(FrameType.STDIN_CREDIT, 1, encode_number(1))],
            "grants 1 bytes of standard input that were not sent",
        ),
        ([Frame(FrameType.ERROR, 1, encode_error(2, "late"))], "unexpected ERROR frame"),
        ([Frame(FrameType.EXIT, 1, b"")], "EXIT frame of 0 bytes"),
        ([Frame(FrameType.PONG, 0), Frame(FrameType.PONG, 0)], "PONG frame without a request"),
        ([Frame(FrameType.STATS, 0)], "STATS frame without a request"),
        ([Frame(FrameType.PRESSURE, 0)], "PRESSURE frame without a request"),
        ([Frame(FrameType.EXEC, 1)], "unknown type 0x01"),
    ],
)
async def test_a_guest_that_breaks_the_protocol_ends_the_channel_for_everyone(
    frames: list[Frame | bytes], what: str
) -> None:
    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        process, _ = await start(guest, client, stdin=True)
        calls: list[Coroutine[Any, Any, object]] = [
            process.wait(),
            process.stderr.read(),
            client.ping(b"never answered"),
            client.trim(),
            client.exec(["y"]),
        ]
        waiting = [asyncio.create_task(call) for call in calls]
        await guest.receive(FrameType.TRIM)
        for frame in frames:
            guest.send_bytes(frame if isinstance(frame, bytes) else frame.encode())
        assert what in (await client.wait_lost()).message
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, GuestChannelError), result
        for call in (client.ping(), client.stats(), client.exec(["z"]), process.wait()):
            with pytest.raises(GuestChannelError):
                await call


async def test_output_after_the_end_ends_the_channel() -> None:
    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        process, stream = await start(guest, client)
        guest.send(Frame(FrameType.EXIT, stream, EXITED), output(1, stream))
        assert "which does not exist" in (await client.wait_lost()).message
        assert (await process.wait()).returncode == 0


async def test_frames_before_ready_end_the_channel() -> None:
    async with PlayedGuest.with_socket() as (guest, theirs):
        client = AgentClient(theirs)
        guest.send(started(1))
        with pytest.raises(GuestChannelError, match="not READY"):
            await client.wait_ready(DEADLINE_S)


async def test_a_guest_that_never_speaks_is_a_boot_error() -> None:
    async with PlayedGuest.with_socket() as (_, theirs):
        client = AgentClient(theirs)
        with pytest.raises(GuestBootError, match=r"0\.01 s"):
            await client.wait_ready(0.01)
        await client.close()
        with pytest.raises(GuestChannelError):
            await client.wait_ready(DEADLINE_S)


async def test_output_before_the_channel_broke_is_still_read() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client)
        guest.send(Frame(FrameType.STDOUT, stream, b"last words"))
        guest.hang_up()
        assert await process.stdout.read() == b"last words"
        with pytest.raises(GuestChannelError):
            await process.stdout.read()


async def test_a_cancelled_exec_kills_its_process_and_late_frames_are_legal() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        starting = asyncio.create_task(client.exec(["x"]))
        stream = (await guest.receive(FrameType.EXEC)).stream
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        killed = await guest.receive(FrameType.SIGNAL)
        assert (killed.stream, decode_number(killed)) == (stream, signal.SIGKILL)
        # The guest may have sent all of this before it heard of the signal.
        guest.send(started(stream), *[Frame(f.kind, stream, f.payload) for f in full_window])
        credit = await guest.receive(FrameType.CREDIT)
        assert credit.stream == stream
        guest.send(Frame(FrameType.EXIT, stream, EXITED))
        process, other = await start(guest, client)
        assert other != stream
        assert process.pid == 100 + other


async def test_a_dropped_process_is_killed() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client)
        reader = process.stdout
        del process
        gc.collect()
        guest.send(output(1, stream))
        assert await reader.read() == b"\0"  # whoever reads its output still holds it
        del reader
        gc.collect()
        assert (await guest.receive(FrameType.SIGNAL)).stream == stream


async def test_credit_is_granted_for_what_was_read_and_no_more() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client)
        guest.send(*(Frame(f.kind, stream, f.payload) for f in full_window))
        reader = process.stdout
        taken = 0
        while taken < WINDOW_BYTES:
            taken += len(await reader.read(10_000))
        granted = 0
        while granted < WINDOW_BYTES * 3 // 4:
            granted += decode_number(await guest.receive(FrameType.CREDIT))
        assert granted <= WINDOW_BYTES
        guest.send(*[Frame(f.kind, stream, f.payload) for f in full_window[:3]])
        assert await reader.read(1)
        assert process.held_bytes == 3 * MAX_TO_HOST_BYTES - 1


async def test_tiny_frames_take_no_more_than_their_bytes() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client)
        guest.send_bytes(Frame(FrameType.STDOUT, stream, b"x").encode() * 50_000)
        guest.send(Frame(FrameType.EXIT, stream, EXITED))
        assert await process.wait() == ExitStatus(False, 0)
        assert await process.stdout.read_all(50_000) == b"x" * 50_000


async def test_input_waits_for_the_guest_to_grant_more() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client, stdin=True)
        writing = asyncio.create_task(process.write_stdin(bytes(WINDOW_BYTES + 10)))
        size = 0
        while size < WINDOW_BYTES:
            size += len((await guest.receive(FrameType.STDIN)).payload)
        assert size == WINDOW_BYTES
        assert not writing.done()
        guest.send(Frame(FrameType.STDIN_CREDIT, stream, encode_number(10)))
        assert len((await guest.receive(FrameType.STDIN)).payload) == 10
        await writing
        await process.close_stdin()
        await process.close_stdin()
        assert (await guest.receive(FrameType.STDIN_EOF)).stream == stream
        with pytest.raises(GuestChannelError, match="not open"):
            await process.write_stdin(b"x")


async def test_input_that_waits_ends_with_the_process() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        process, stream = await start(guest, client, stdin=True)
        writing = asyncio.create_task(process.write_stdin(bytes(WINDOW_BYTES * 2)))
        await guest.receive(FrameType.STDIN)
        guest.send(Frame(FrameType.EXIT, stream, EXITED))
        async with asyncio.timeout(DEADLINE_S):
            await writing
        assert (await process.wait()).returncode == 0


async def test_a_start_failure_carries_the_guests_errno() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        starting = asyncio.create_task(client.exec(["x"]))
        stream = (await guest.receive(FrameType.EXEC)).stream
        guest.send(Frame(FrameType.ERROR, stream, encode_error(errno.ENOENT, "cannot run it")))
        with pytest.raises(GuestCommandError, match="cannot run it") as caught:
            await starting
        assert caught.value.errno == errno.ENOENT


async def test_processes_that_never_end_fill_no_more_than_their_places() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        held = [await start(guest, client) for _ in range(MAX_PROCESSES)]
        with pytest.raises(GuestCommandError) as caught:
            await client.exec(["x"])
        assert caught.value.errno == errno.EAGAIN
        guest.send(Frame(FrameType.EXIT, held[0][1], EXITED))
        await held[0][0].wait()
        assert await start(guest, client)


async def test_a_request_without_answer_times_out_and_its_late_answer_is_harmless() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        with pytest.raises(GuestError, match=r"STATS_REQ within 0\.01 s"):
            await client.stats(timeout_s=0.01)
        guest.send(Frame(FrameType.STATS, 0, b"mem_total_kib 1\n"))
        asking = asyncio.create_task(client.stats())
        await guest.receive(FrameType.STATS_REQ)
        await guest.receive(FrameType.STATS_REQ)
        guest.send(Frame(FrameType.STATS, 0, b"mem_total_kib 2\n"))
        assert (await asking).mem_total_kib == 2


async def test_a_second_trim_is_refused_since_it_would_end_the_guest() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        with pytest.raises(GuestError):
            await client.trim(flags=TrimFlags.COMPACT, timeout_s=0.01)
        with pytest.raises(GuestError, match=r"too many unanswered TRIM requests to the guest \(1\)"):
            await client.trim()
        guest.send(Frame(FrameType.TRIM_DONE, 0, encode_number(0)))
        asking = asyncio.create_task(client.stats())
        await guest.receive(FrameType.STATS_REQ)
        guest.send(Frame(FrameType.STATS, 0))
        await asking
        trimming = asyncio.create_task(client.trim())
        await guest.receive(FrameType.TRIM)
        guest.send(Frame(FrameType.TRIM_DONE, 0, encode_number(errno.EAGAIN) + b"uptime_ms 5\n"))
        assert await trimming == (GuestReport(uptime_ms=5), errno.EAGAIN)


async def test_a_step_of_the_setup_that_failed_is_named_with_a_hint() -> None:
    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        setting_up = asyncio.create_task(client.set_up([["root", "erofs", "a", "b"]], timeout_s=DEADLINE_S))
        await guest.receive(FrameType.SETUP)
        guest.send(
            Frame(FrameType.SETUP_DONE, 0, encode_error(errno.ENOTDIR, "root erofs /dev: Not a directory"))
        )
        with pytest.raises(GuestError) as failure:
            await setting_up
        assert failure.value.message == "the setup of the guest failed: root erofs /dev: Not a directory"
        assert failure.value.hint == "check the image, the disk or the volume that this step mounts"


async def test_a_setup_without_an_optional_step_succeeds_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        setting_up = asyncio.create_task(client.set_up([["file", "/etc/hosts", ""]], timeout_s=DEADLINE_S))
        await guest.receive(FrameType.SETUP)
        guest.send(Frame(FrameType.SETUP_DONE, 0, encode_error(0, "file /etc/hosts: Is a directory")))
        await setting_up
    assert "the guest runs without a part of its setup: file /etc/hosts: Is a directory" in caplog.text


async def test_a_ping_answered_with_other_bytes_ends_the_channel() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        asking = asyncio.create_task(client.ping(b"marco"))
        await guest.receive(FrameType.PING)
        guest.send(Frame(FrameType.PONG, 0, b"polo"))
        with pytest.raises(GuestChannelError, match="other bytes"):
            await asking
        assert await client.wait_lost()


async def watching(guest: PlayedGuest, client: AgentClient, callback: Callable[[GuestReport], None]) -> None:
    asking = asyncio.create_task(client.watch_pressure(100_000, 1_000_000, callback))
    await guest.receive(FrameType.WATCH_PRESSURE)
    guest.send(Frame(FrameType.WATCHING, 0, encode_number(0)))
    await asking


async def test_pressure_reaches_the_callback_and_its_failure_harms_nobody() -> None:
    reports: asyncio.Queue[GuestReport] = asyncio.Queue()

    def callback(report: GuestReport) -> None:
        reports.put_nowait(report)
        raise RuntimeError("a bug in a callback")

    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        await watching(guest, client, callback)
        for available in (10, 20):
            guest.send(Frame(FrameType.PRESSURE, 0, b"mem_available_kib %d\n" % available))
            assert (await reports.get()).mem_available_kib == available


async def test_a_flood_of_pressure_reports_ends_the_channel() -> None:
    count = 0

    def callback(_: GuestReport) -> None:
        nonlocal count
        count += 1

    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        await watching(guest, client, callback)
        guest.send(*[Frame(FrameType.PRESSURE, 0)] * 10_000)
        assert "floods" in (await client.wait_lost()).message
    assert count < 1000


async def test_a_guest_without_pressure_triggers_is_an_error_and_the_channel_lives() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        asking = asyncio.create_task(client.watch_pressure(100_000, 1_000_000, print))
        await guest.receive(FrameType.WATCH_PRESSURE)
        guest.send(Frame(FrameType.WATCHING, 0, encode_number(errno.EOPNOTSUPP)))
        with pytest.raises(GuestError, match="cannot watch"):
            await asking
        assert await start(guest, client)


async def test_a_guest_that_does_not_read_cannot_make_the_host_grow() -> None:
    async with PlayedGuest.with_client() as (guest, client), asyncio.timeout(DEADLINE_S):
        process, _ = await start(guest, client, tty=True)
        with pytest.raises(GuestChannelError, match="does not read"):
            while True:
                await process.resize(24, 80)
