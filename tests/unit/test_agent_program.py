"""The real agent on this host, driven over a socket pair."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ballonet.base.errors import GuestBootError, GuestChannelError, GuestCommandError, GuestError
from ballonet.guest.agent_client import AgentClient, ExitStatus
from ballonet.guest.frames import (
    FROM_HOST,
    HEADER,
    MAX_EXEC_BYTES,
    MAX_PROCESSES,
    MAX_TO_GUEST_BYTES,
    MAX_TO_HOST_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)
from ballonet.guest.messages import (
    Exec,
    TrimFlags,
    encode_number,
    encode_resize,
    encode_restored,
    encode_trim,
    encode_watch,
)
from tests.unit.agent_program import (
    DEADLINE_S,
    END_VIOLATION,
    agent_client,
    ended,
    sanitized_agent,
    started_agent,
)

pytestmark = pytest.mark.long

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


async def run(client: AgentClient, *argv: str, stdin: bytes | None = None) -> tuple[bytes, bytes, ExitStatus]:
    async with asyncio.timeout(DEADLINE_S), await client.exec(argv, stdin=stdin is not None) as process:
        out, err = await process.communicate(stdin or b"")
        return out, err, await process.wait()


async def test_ready_tells_of_the_kernel() -> None:
    async with agent_client() as (client, _):
        ready = await client.wait_ready(DEADLINE_S)
        assert ready.kernel_release == os.uname().release
        assert ready.boot_ms > 0
        assert ready.failed_modules == ()


async def test_outputs_are_separate_and_in_order() -> None:
    async with agent_client() as (client, _):
        script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done"
        out, err, status = await run(client, "sh", "-c", script)
        assert out == b"out 1\nout 2\nout 3\n"
        assert err == b"err 1\nerr 2\nerr 3\n"
        assert status == ExitStatus(False, 0)


async def test_exit_codes_come_as_they_are() -> None:
    async with agent_client() as (client, _):
        for code in (0, 1, 3, 127, 255):
            assert (await run(client, "sh", "-c", f"exit {code}"))[2].returncode == code


async def test_death_by_signal_is_told_apart_from_exit() -> None:
    async with agent_client() as (client, _):
        status = (await run(client, "sh", "-c", "kill -TERM $$"))[2]
        assert status == ExitStatus(True, signal.SIGTERM)
        assert status.returncode == 128 + signal.SIGTERM


async def test_megabytes_through_cat_come_back_whole() -> None:
    data = bytes(range(256)) * (5 << 12)
    async with agent_client() as (client, _):
        out, err, status = await run(client, "cat", stdin=data)
        assert out == data
        assert (err, status.returncode) == (b"", 0)


async def test_a_command_that_does_not_read_its_input_does_not_block_the_writer() -> None:
    async with agent_client() as (client, _):
        assert (await run(client, "true", stdin=bytes(3 << 20)))[2].returncode == 0
        assert (await run(client, "sh", "-c", "exec <&-; echo on", stdin=bytes(3 << 20)))[0] == b"on\n"


async def test_without_standard_input_the_command_reads_nothing() -> None:
    async with agent_client() as (client, _):
        assert (await run(client, "cat"))[0] == b""


WRITER = """
import random, sys
source = random.Random(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    sys.stdout.buffer.write(source.randbytes(1 << 20))
"""


async def test_100_mb_arrive_whole_at_a_slow_reader_with_bounded_memory() -> None:
    seed, pieces = 7, 100
    expected = random.Random(seed)
    pending = b""
    total = 0
    async with agent_client() as (client, agent):
        argv = [sys.executable, "-c", WRITER, str(seed), str(pieces)]
        async with await client.exec(argv) as process:
            async for chunk in process.stdout:
                await asyncio.sleep(0)  # lets the channel bring in all it may, ahead of us
                assert process.held_bytes <= WINDOW_BYTES
                while len(pending) < len(chunk):
                    pending += expected.randbytes(1 << 20)
                assert pending.startswith(chunk)
                pending = pending[len(chunk) :]
                total += len(chunk)
            assert (await process.wait()).returncode == 0
        assert total == pieces << 20
        status = Path(f"/proc/{agent.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak is not None
        assert int(peak[1]) < 8 << 10


async def test_a_stream_that_nobody_reads_stops_alone() -> None:
    async with agent_client() as (client, _), await client.exec(["yes"]) as flood:
        assert (await run(client, "echo", "still here"))[0] == b"still here\n"
        async with asyncio.timeout(DEADLINE_S):
            while flood.held_bytes < WINDOW_BYTES:
                await client.ping()
        await flood.send_signal(signal.SIGTERM)
        # What it wrote before is still to be had, and only then does it end.
        size = 0
        async for chunk in flood.stdout:
            size += len(chunk)
        assert size >= WINDOW_BYTES
        assert await flood.wait() == ExitStatus(True, signal.SIGTERM)


async def test_environment_and_directory_are_what_was_asked(tmp_path: Path) -> None:
    env = {"A": "1 2", "B": "ß"}
    async with agent_client() as (client, _):
        process = await client.exec(["sh", "-c", "pwd; env"], env=env, cwd=str(tmp_path))
        out = (await process.communicate())[0].decode().splitlines()
    assert out[0] == str(tmp_path)
    assert {"A=1 2", "B=ß"} <= set(out)
    assert f"HOME={pwd.getpwuid(os.geteuid()).pw_dir}" in out


async def test_the_command_is_looked_up_in_the_path_it_gets(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755)):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "tool"
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(mode)
    async with agent_client() as (client, _):
        path = f"/nowhere:{tmp_path}/first:{tmp_path}/second"
        async with await client.exec(["tool"], env={"PATH": path}) as process:
            assert (await process.communicate())[0] == b"second\n"
        with pytest.raises(GuestCommandError) as caught:
            await client.exec(["tool"], env={"PATH": f"{tmp_path}/first"})
        assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("argv", "cwd", "number"),
    [
        (["no-such-command"], None, errno.ENOENT),
        (["/no/such/command"], None, errno.ENOENT),
        ([""], None, errno.ENOENT),
        (["/tmp"], None, errno.EACCES),
        (["true"], "/no/such/directory", errno.ENOENT),
        (["true"], "/etc/passwd", errno.ENOTDIR),
    ],
)
async def test_a_command_that_cannot_start_says_why(argv: list[str], cwd: str | None, number: int) -> None:
    async with agent_client() as (client, _):
        with pytest.raises(GuestCommandError) as caught:
            await client.exec(argv, cwd=cwd)
        assert caught.value.errno == number
        assert os.strerror(number) in caught.value.message
        await client.ping(b"still alive")


@needs_root
async def test_another_user_loses_the_groups_of_root() -> None:
    async with agent_client() as (client, _):
        async with await client.exec(["id"], user="12345:23456") as process:
            out = (await process.communicate())[0]
        assert out.split() == [b"uid=12345", b"gid=23456", b"groups=23456"]


async def test_background_children_that_hold_the_pipes_do_not_delay_the_end() -> None:
    async with agent_client() as (client, _):
        out, _, status = await run(client, "sh", "-c", "sleep 1000 & echo $!; exit 4")
        assert status.returncode == 4
        os.kill(int(out), signal.SIGKILL)


async def test_output_in_the_pipe_at_the_end_is_not_lost() -> None:
    async with agent_client() as (client, _):
        for _ in range(20):
            out, err, _ = await run(
                client, "sh", "-c", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"
            )
            assert (len(out), len(err)) == (60000, 60000)


async def test_signals_reach_the_whole_group() -> None:
    async with (
        agent_client() as (client, _),
        await client.exec(["sh", "-c", "sleep 1000 & echo $!; wait"]) as process,
    ):
        child = int(await process.stdout.read())
        await process.send_signal(signal.SIGTERM)
        assert (await process.wait()).returncode == 128 + signal.SIGTERM
        await ended(child)


async def test_kill_reaches_other_groups_of_the_session() -> None:
    script = "set -m; sleep 1000 & echo $!; wait"
    async with agent_client() as (client, _), await client.exec(["bash", "-c", script]) as process:
        child = int(await process.stdout.read())
        assert os.getpgid(child) != process.pid
        await process.send_signal(signal.SIGKILL)
        assert await process.wait() == ExitStatus(True, signal.SIGKILL)
        await ended(child)


async def test_a_terminal_has_its_size_and_one_output() -> None:
    async with agent_client() as (client, _):
        script = "tty; stty size; echo err >&2; read line; stty size; exit 5"
        async with await client.exec(["sh", "-c", script], tty=True, rows=11, cols=22, stdin=True) as process:
            out = b""
            while b"err" not in out:
                out += await process.stdout.read()
            await process.resize(33, 44)
            await process.write_stdin(b"go\n")
            rest, err = await process.communicate()
            assert (await process.wait()).returncode == 5
    assert re.fullmatch(rb"/dev/pts/\d+\r\n11 22\r\nerr\r\ngo\r\n33 44\r\n", out + rest)
    assert err == b""


async def test_end_of_input_ends_a_reader_on_a_terminal() -> None:
    async with agent_client() as (client, _), await client.exec(["cat"], tty=True, stdin=True) as process:
        out, _ = await process.communicate(b"line\n")
        assert out == b"line\r\nline\r\n"
        assert (await process.wait()).returncode == 0


async def test_a_program_that_closes_its_terminal_before_it_ends_is_not_hung_up_on() -> None:
    script = "import os, sys, time; os.closerange(0, 3); time.sleep(float(sys.argv[1])); os._exit(7)"
    async with agent_client() as (client, _):
        for delay in ("0", "0.01"):
            process = await client.exec([sys.executable, "-c", script, delay], tty=True, stdin=True)
            await process.close_stdin()
            assert (await process.wait()).returncode == 7


async def test_interrupt_typed_at_a_terminal_reaches_the_command() -> None:
    async with agent_client() as (client, _):
        process = await client.exec(["cat"], tty=True, stdin=True)
        await process.write_stdin(b"up\n")
        out = b""
        while out != b"up\r\nup\r\n":
            out += await process.stdout.read()
        await process.write_stdin(b"\x03")
        assert await process.wait() == ExitStatus(True, signal.SIGINT)


async def test_50_commands_at_once_get_their_own_output() -> None:
    async with agent_client() as (client, _):
        runs = [run(client, "sh", "-c", f"cat; echo {n}", stdin=b"in %d " % n) for n in range(50)]
        assert [out for out, _, _ in await asyncio.gather(*runs)] == [
            b"in %d %d\n" % (n, n) for n in range(50)
        ]


async def test_one_process_too_many_is_refused_and_the_others_live() -> None:
    async with agent_client() as (client, _):
        processes = [await client.exec(["sleep", "1000"]) for _ in range(MAX_PROCESSES - 100)]
        processes += [await client.exec(["cat"], tty=True) for _ in range(100)]
        with pytest.raises(GuestCommandError) as caught:
            await client.exec(["true"])
        assert caught.value.errno == errno.EAGAIN
        processes.pop().abandon()
        await client.ping()


async def test_orphans_are_reaped() -> None:
    async with agent_client() as (client, agent):
        out, _, _ = await run(client, "sh", "-c", "(sleep 1000 >/dev/null 2>&1 & echo $!)")
        orphan = int(out)
        parent = re.search(r"PPid:\s+(\d+)", Path(f"/proc/{orphan}/status").read_text())
        assert parent is not None
        assert int(parent[1]) == agent.pid
        os.kill(orphan, signal.SIGKILL)
        await ended(orphan)
        # The agent handles a frame only after it has reaped what had died before.
        await client.ping()
        await client.ping()
        assert not Path(f"/proc/{orphan}").exists()


async def test_an_abandoned_command_is_killed_and_its_stream_is_forgotten_safely() -> None:
    async with agent_client() as (client, _):
        process = await client.exec(["sh", "-c", "echo $$; exec yes"])
        pid = process.pid
        del process
        await ended(pid)
        assert (await run(client, "echo", "fine"))[0] == b"fine\n"


async def test_leaving_the_block_kills_the_command() -> None:
    async with agent_client() as (client, _):
        async with await client.exec(["sleep", "1000"]) as process:
            pid = process.pid
        await ended(pid)


async def test_everything_ends_with_the_channel() -> None:
    async with agent_client() as (client, agent):
        process = await client.exec(["sleep", "1000"])
        await client.close()
        await ended(process.pid)
        with pytest.raises(GuestChannelError):
            await process.wait()
        assert await asyncio.to_thread(agent.wait, DEADLINE_S) == 0


async def test_shutdown_ends_the_agent_and_the_channel_says_so() -> None:
    async with agent_client() as (client, agent):
        process = await client.exec(["sleep", "1000"])
        await client.shutdown()
        with pytest.raises(GuestChannelError, match="closed the channel"):
            await process.wait()
        assert await asyncio.to_thread(agent.wait, DEADLINE_S) == 0


async def test_statistics_agree_with_the_kernel() -> None:
    async with agent_client() as (client, _):
        report = await client.stats()
    meminfo = Path("/proc/meminfo").read_text()
    total = re.search(r"MemTotal:\s+(\d+) kB", meminfo)
    assert total is not None
    assert report.mem_total_kib == int(total[1])
    assert report.mem_available_kib is not None
    assert report.mem_available_kib <= report.mem_total_kib
    assert report.uptime_ms is not None


async def test_the_agent_does_not_squeeze_a_machine_that_is_not_its_own() -> None:
    async with agent_client() as (client, _):
        report, number = await client.trim(1 << 20)
        assert number == errno.EPERM
        assert report.mem_total_kib is not None


async def test_pings_come_back_in_order_with_output_under_way() -> None:
    async with agent_client() as (client, _), await client.exec(["yes"]):
        await asyncio.gather(*(client.ping(b"%d" % n) for n in range(200)))


async def test_a_host_that_never_speaks_sees_ready_and_no_more() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        client = AgentClient(ours)
        with pytest.raises(GuestBootError):
            await client.wait_ready(0.01)
        await client.close()


def exec_frame(stream: int, *argv: str, stdin: bool = False, tty: bool = False) -> Frame:
    return Frame(FrameType.EXEC, stream, Exec(argv, {"PATH": "/usr/bin:/bin"}, stdin=stdin, tty=tty).encode())


SLEEP = exec_frame(1, "sleep", "1000", stdin=True)


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff" * 64],
        [HEADER.pack(MAX_TO_GUEST_BYTES + 1, FrameType.EXEC, 0, 1)],
        [HEADER.pack(0, 0x7F, 0, 0)],
        [HEADER.pack(0, FrameType.READY, 0, 0)],
        [HEADER.pack(0, FrameType.PING, 1, 0)],
        [Frame(FrameType.PING, 0, bytes(1025))],
        [Frame(FrameType.PING, 1)],
        [Frame(FrameType.EXEC, 0, SLEEP.payload)],
        [Frame(FrameType.EXEC, 1, b"")],
        [Frame(FrameType.EXEC, 1, SLEEP.payload[:-1])],
        [Frame(FrameType.EXEC, 1, SLEEP.payload + b"x\0")],
        [Frame(FrameType.EXEC, 1, b"\xff\xff" + SLEEP.payload[2:])],
        [Frame(FrameType.EXEC_PART, 0, b"x")],
        [Frame(FrameType.EXEC_PART, 1)],
        [Frame(FrameType.EXEC_PART, 1, SLEEP.payload), SLEEP],
        [SLEEP, Frame(FrameType.EXEC_PART, 1, b"x")],
        [Frame(FrameType.EXEC_PART, 1, bytes(MAX_TO_GUEST_BYTES))]
        * (MAX_EXEC_BYTES // MAX_TO_GUEST_BYTES + 1),
        [SLEEP, SLEEP],
        [SLEEP, Frame(FrameType.STDIN, 1)],
        [SLEEP, *[Frame(FrameType.STDIN, 1, bytes(WINDOW_BYTES // 2))] * 3],
        [SLEEP, Frame(FrameType.STDIN_EOF, 1), Frame(FrameType.STDIN, 1, b"x")],
        [SLEEP, Frame(FrameType.STDIN_EOF, 1), Frame(FrameType.STDIN_EOF, 1)],
        [exec_frame(1, "sleep", "1000"), Frame(FrameType.STDIN, 1, b"x")],
        [SLEEP, Frame(FrameType.SIGNAL, 1, encode_number(0))],
        [SLEEP, Frame(FrameType.SIGNAL, 1, encode_number(65))],
        [SLEEP, Frame(FrameType.RESIZE, 1, encode_resize(1, 1))],
        [SLEEP, Frame(FrameType.CREDIT, 1, encode_number(1))],
        [Frame(FrameType.STATS_REQ, 0, b"x")],
        [Frame(FrameType.WATCH_PRESSURE, 0, b"x")],
        [Frame(FrameType.TRIM, 0, b"\0" * 8 + b"\xff\0\0\0")],
        [Frame(FrameType.SHUTDOWN, 0, b"x")],
        # Only PID 1 can have been restored.
        [Frame(FrameType.RESTORED, 0, encode_restored(0, bytes(64)))],
        [Frame(FrameType.RESTORED, 0, bytes(39))],
        [Frame(FrameType.RESTORED, 1, encode_restored(0, bytes(64)))],
    ],
)
def test_a_host_that_breaks_the_protocol_ends_the_agent_cleanly(frames: list[Frame | bytes]) -> None:
    with started_agent(stderr=subprocess.PIPE) as (channel, agent):
        channel.sendall(b"".join(frame.encode() if isinstance(frame, Frame) else frame for frame in frames))
        assert agent.wait(DEADLINE_S) == END_VIOLATION
        assert agent.stderr is not None
        assert b"broke the protocol" in agent.stderr.read()


def test_a_channel_that_ends_within_a_frame_is_a_violation() -> None:
    with started_agent(stderr=subprocess.DEVNULL) as (channel, agent):
        channel.sendall(SLEEP.encode()[:-1])
        channel.close()
        assert agent.wait(DEADLINE_S) == END_VIOLATION


def test_frames_for_streams_that_do_not_exist_are_ignored() -> None:
    late = [FrameType.STDIN, FrameType.SIGNAL, FrameType.CREDIT, FrameType.RESIZE]
    with started_agent() as (channel, agent):
        for kind in late:
            channel.sendall(Frame(kind, 9, encode_number(1)).encode())
        channel.sendall(Frame(FrameType.STDIN_EOF, 9).encode() + Frame(FrameType.PING, 0, b"hello").encode())
        decoder = FrameDecoder()
        frames: list[Frame] = []
        while len(frames) < 2:
            frames += decoder.feed(channel.recv(4096))
        assert frames[1] == Frame(FrameType.PONG, 0, b"hello")
        channel.close()
        assert agent.wait(DEADLINE_S) == 0


def test_a_host_that_asks_and_never_reads_is_made_to_wait_and_costs_nothing() -> None:
    ping = Frame(FrameType.PING, 0, bytes(1024)).encode()
    with started_agent() as (channel, agent):
        channel.setblocking(False)
        sent = 0
        try:
            for _ in range(100_000):
                sent += channel.send(ping)
        except BlockingIOError:
            pass
        assert sent < 50 << 20
        channel.close()
        assert agent.wait(DEADLINE_S) in (0, END_VIOLATION)  # the last ping may be cut short


def _random_frame(source: random.Random) -> bytes:
    stream = source.choice([0, 1, 1, 2, 3])
    shape = {"stdin": source.random() < 0.7, "tty": source.random() < 0.3}
    number = source.choice([0, 1, 9, 15, 1000, WINDOW_BYTES])
    choices = [
        exec_frame(stream, source.choice(["true", "cat", "yes", "nothing-of-that-name"]), **shape).encode(),
        Frame(FrameType.STDIN, stream, source.randbytes(source.choice([0, 1, 5000]))).encode(),
        Frame(FrameType.STDIN_EOF, stream).encode(),
        Frame(
            FrameType.EXEC_PART, source.choice([stream, 4]), source.randbytes(source.choice([0, 1, 200_000]))
        ).encode(),
        Frame(FrameType.SIGNAL, stream, encode_number(source.choice([1, 9, 15, 99]))).encode(),
        Frame(FrameType.RESIZE, stream, encode_resize(source.randrange(65536), 5)).encode(),
        Frame(FrameType.CREDIT, stream, encode_number(number)).encode(),
        Frame(FrameType.PING, 0, source.randbytes(source.choice([0, 10, 1024]))).encode(),
        Frame(FrameType.STATS_REQ, 0).encode(),
        Frame(FrameType.WATCH_PRESSURE, 0, encode_watch(number, 1_000_000)).encode(),
        Frame(FrameType.TRIM, 0, encode_trim(number, TrimFlags.DROP_CACHES)).encode(),
        # Not EXEC: nobody knows what random words would run.
        Frame(
            source.choice(sorted(FROM_HOST - {FrameType.EXEC, FrameType.EXEC_PART})),
            stream,
            source.randbytes(source.randrange(20)),
        ).encode(),
        source.randbytes(source.randrange(30)),
    ]
    weights = [6, 8, 2, 0.5, 3, 2, 6, 6, 3, 1, 1, 0.3, 0.1]
    return source.choices(choices, weights)[0]


def test_random_frames_disturb_no_memory() -> None:
    """Many short lives: the agent ends at the first frame that makes no sense, as it should."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    ends = []
    for _ in range(60):
        with started_agent(sanitized_agent(), stderr=subprocess.PIPE) as (channel, agent):
            with suppress(OSError):  # it has ended already
                for _ in range(source.randrange(1, 60)):
                    channel.sendall(_random_frame(source))
                    with suppress(BlockingIOError):
                        while source.random() < 0.8 and channel.recv(MAX_TO_HOST_BYTES, socket.MSG_DONTWAIT):
                            pass
            channel.close()
            ends.append(agent.wait(DEADLINE_S))
            assert agent.stderr is not None
            said = agent.stderr.read().decode(errors="replace")
            assert "Sanitizer" not in said, said
            assert "runtime error" not in said, said
    assert set(ends) <= {0, END_VIOLATION}
    assert END_VIOLATION in ends


@needs_root
async def test_supplementary_groups_are_the_processs_own() -> None:
    async with agent_client() as (client, _):
        await client.wait_ready(DEADLINE_S)
        async with await client.exec(["id", "-G"], user="12345:23456,7,8") as process:
            out, _ = await process.communicate(b"")
            await process.wait()
        assert out.split() == [b"23456", b"7", b"8"]


async def test_only_pid_1_sets_a_machine_up() -> None:
    async with agent_client() as (client, _):
        await client.wait_ready(DEADLINE_S)
        with pytest.raises(GuestError, match="not PID 1"):
            await client.set_up([["hostname", "other"]], timeout_s=DEADLINE_S)
        assert os.uname().nodename != "other"
