"""A guest that is about to be saved: the agent falls silent, nothing is lost, and its streams continue elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import GuestError, GuestPausedError, StillRunningError
from ballonet.guest.agent_client import AgentClient, GuestProcess
from ballonet.guest.channel_stream import StreamAccount
from ballonet.guest.frames import Frame, FrameType
from ballonet.host.identity import boot_id
from ballonet.machine.disk import DISK_FILE
from ballonet.machine.paused_file import (
    PAUSED_FILE,
    RESUMING_NOTE,
    begin_resume,
    discard_paused,
    paused_bytes,
)
from ballonet.machine.saved_sandbox import SavedSandbox, disk_facts
from ballonet.vmm.guest_ram import create_guest_ram
from ballonet.vmm.saved_state import PendingState, write_state
from tests.unit.agent_program import DEADLINE_S, END_VIOLATION, PlayedGuest, ended, started_agent
from tests.unit.test_agent_relay import connected, relay_of_real_agent


def silent(channel: socket.socket) -> bool:
    try:
        channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    return False


async def test_a_suspended_agent_is_silent_and_loses_nothing() -> None:
    with started_agent() as (ours, _):
        client = AgentClient(ours.dup())
        await client.wait_ready(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S), await client.exec(["seq", "200000"]) as process:
            collected = asyncio.create_task(process.stdout.read_all(4 << 20))
            for _ in range(20):
                await client.suspend(timeout_s=DEADLINE_S)
                before = process.held_bytes
                asked = asyncio.create_task(client.ping(b"waits"))
                await asyncio.sleep(0.01)
                assert silent(ours)
                assert process.held_bytes <= before
                assert not asked.done()
                client.resume()
                await asked
            lines = (await collected).split()
        assert lines == [str(number).encode() for number in range(1, 200_001)]
        await client.close()


async def taken_over(ours: socket.socket, client: AgentClient, *accounts: StreamAccount) -> tuple[Any, ...]:
    """Another client on the same channel, as after a restore, and the processes that it continues."""
    ready = client._channel.ready
    await client.close()
    other = AgentClient(ours.dup())
    other._channel.ready = ready
    other._channel._ready_or_lost.set()
    while other._channel._writer is None:
        await asyncio.sleep(0)
    processes = [other.adopt(account) for account in accounts]
    other.resume(restored=True)
    return (other, *processes)


@pytest.mark.parametrize("read", [0, 100_000, 262_144])
async def test_a_stream_continues_in_another_channel(read: int) -> None:
    """The agent has sent a whole window, of which nothing, a part or everything was consumed."""
    with started_agent() as (ours, _):
        client = AgentClient(ours.dup())
        await client.wait_ready(DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            process = await client.exec(["seq", "200000"])
            while process.held_bytes < 262_144:
                await asyncio.sleep(0.01)
            seen = await process.stdout.read(read) if read else b""
            await client.suspend(timeout_s=DEADLINE_S)
            account = process.account()
            rest = process.held_bytes
            seen += await process.stdout.read(rest) if rest else b""
            other, same = await taken_over(ours, client, account)
            assert isinstance(same, GuestProcess)
            seen += await same.stdout.read_all(4 << 20)
            assert (await same.wait()).returncode == 0
            assert same.pid == process.pid
        assert seen.split() == [str(number).encode() for number in range(1, 200_001)]
        await other.close()


async def test_processes_of_streams_that_the_host_does_not_have_are_ended() -> None:
    with started_agent() as (ours, _):
        client = AgentClient(ours.dup())
        await client.wait_ready(DEADLINE_S)
        stays, goes = [await client.exec(["sh", "-c", "sleep 1000; echo woken"]) for _ in range(2)]
        await client.suspend(timeout_s=DEADLINE_S)
        other, same = await taken_over(ours, client, stays.account())
        await ended(goes.pid)
        await same.kill()
        assert (await same.wait()).signalled
        async with await other.exec(["true"]) as again:
            assert (await again.wait()).returncode == 0
        await other.close()


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(FrameType.RESUME, 0)],
        [Frame(FrameType.SUSPEND, 0), Frame(FrameType.PING, 0)],
        [Frame(FrameType.SUSPEND, 0), Frame(FrameType.SIGNAL, 1, bytes(4))],
        [Frame(FrameType.SUSPEND, 0), Frame(FrameType.SUSPEND, 0)],
        [Frame(FrameType.SUSPEND, 0, b"x")],
        [Frame(FrameType.SUSPEND, 0), Frame(FrameType.RESUME, 0, b"xyz")],
    ],
)
async def test_frames_that_are_not_allowed_then_end_the_agent(frames: list[Frame]) -> None:
    with started_agent(stderr=subprocess.DEVNULL) as (ours, process):
        for frame in frames:
            ours.send(frame.encode())
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == END_VIOLATION


async def test_a_guest_that_does_not_fall_silent_is_an_error_and_goes_on() -> None:
    async with PlayedGuest.with_client() as (guest, client):
        with pytest.raises(GuestError, match="did not fall silent"):
            await client.suspend(timeout_s=0.05)
        client.resume()
        await guest.receive(FrameType.SUSPEND)
        guest.send(Frame(FrameType.SUSPENDED, 0))
        await guest.receive(FrameType.RESUME)
        asked = asyncio.create_task(client.ping())
        await guest.receive(FrameType.PING)
        guest.send(Frame(FrameType.PONG, 0))
        await asked


async def test_clients_of_a_sandbox_that_is_paused_learn_it_and_the_one_that_asked_gets_its_reply() -> None:
    async with relay_of_real_agent() as (relay, path), connected(path) as one, connected(path) as asking:
        why = GuestPausedError("sandbox 'box' was paused", hint="wake it")

        async def carry_out(do: str, arguments: dict[str, Any]) -> dict[str, Any]:
            if do != "pause":
                raise StillRunningError(f"cannot {do} {arguments}", hint="later")
            relay.dismiss(why)
            return {"bytes": 7}

        with pytest.raises(GuestError, match="takes no requests"):
            await asking.manage("pause")
        relay.manager = carry_out
        with pytest.raises(StillRunningError, match=r"cannot fly \{'far': True\}") as refused:
            await asking.manage("fly", far=True)
        assert refused.value.hint == "later"
        process = await one.exec(["sleep", "1000"])
        assert await asking.manage("pause", force=True) == {"bytes": 7}
        with pytest.raises(GuestPausedError, match="'box' was paused") as paused:
            await process.wait()
        assert paused.value.hint == "wake it"
        await ended(process.pid)
        late = await AgentClient.connect(path)
        with pytest.raises(GuestPausedError):
            await late.wait_ready(DEADLINE_S)
            await late.ping()
        await late.close()
        relay.paused = None
        async with connected(path) as after:
            await after.ping()


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"no": 1}', b'{"do": 1}'])
async def test_a_request_that_is_malformed_ends_its_client_only(payload: bytes) -> None:
    async with relay_of_real_agent() as (_, path), connected(path) as good:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(Frame(FrameType.MANAGE, 0, payload).encode())
        async with asyncio.timeout(DEADLINE_S):
            await reader.read()  # READY, and the end
        writer.close()
        await good.ping()


def notes(**changes: Any) -> SavedSandbox:
    return SavedSandbox(
        **{
            "name": "box",
            "flags": ("--name", "box"),
            "saved_at": 1.5,
            "ports": ("127.0.0.1:8080:80/tcp",),
            "command": StreamAccount(1, 70, 5000),
            "target_mib": 300,
            **changes,
        }
    )


def save(directory: Path, noted: SavedSandbox) -> None:
    pending = PendingState.claim(directory / PAUSED_FILE)
    assert pending is not None
    ram = create_guest_ram(1)
    write_state(pending.file, "k" * 64, ram, b"devices", notes=noted.encode())
    os.close(ram)
    pending.commit()


def test_a_state_is_usable_until_a_guest_that_runs_has_changed_the_disk(tmp_path: Path) -> None:
    assert paused_bytes(tmp_path) is None
    disk = tmp_path / DISK_FILE
    disk.write_bytes(b"as it was saved")
    save(tmp_path, notes(disk=disk_facts(tmp_path)))
    size = (tmp_path / PAUSED_FILE).stat().st_size
    assert paused_bytes(tmp_path) == size
    begin_resume(tmp_path)
    assert paused_bytes(tmp_path) == size, "it was killed before its guest wrote anything"
    (tmp_path / RESUMING_NOTE).write_text("an earlier boot")
    assert paused_bytes(tmp_path) is None, "the host has crashed: the time does not prove it"
    (tmp_path / RESUMING_NOTE).write_text(boot_id())
    assert paused_bytes(tmp_path) == size
    facts = disk.stat()
    os.utime(disk, ns=(facts.st_atime_ns, facts.st_mtime_ns + 4_000_000))
    assert paused_bytes(tmp_path) is None, "it was written to"
    discard_paused(tmp_path)
    discard_paused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DISK_FILE]


def test_notes_survive_the_file_and_others_are_refused(tmp_path: Path) -> None:
    from ballonet.machine.saved_sandbox import read_saved
    from ballonet.vmm.saved_state import SavedStateError

    for noted in (notes(disk=(5, 6)), notes(command=None, earlier={"oom_kills": 3})):
        save(tmp_path, noted)
        assert read_saved(tmp_path / PAUSED_FILE) == noted
    for content in (b"", b"{}", b"[]", json.dumps({"command": None, "disk": None}).encode()):
        ram = create_guest_ram(1)
        with (tmp_path / "other").open("w+b") as file:
            write_state(file.fileno(), "k", ram, b"", notes=content)
        os.close(ram)
        with pytest.raises(SavedStateError, match="not that of a sandbox"):
            read_saved(tmp_path / "other")
