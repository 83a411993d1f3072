"""How the real agent starts commands and what becomes of what they leave: users, streams by name, long arguments,
directories, background children, kills. On this host; what only PID 1 does is in tests/vm/test_exec_semantics.py."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import pwd
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ballonet.base.errors import GuestCommandError
from ballonet.guest.agent_client import AgentClient, ExitStatus
from ballonet.guest.frames import MAX_TO_GUEST_BYTES, Frame, FrameDecoder, FrameType
from ballonet.guest.messages import Exec
from tests.unit.agent_program import DEADLINE_S, agent_client, ended, sanitized_agent, started_agent

pytestmark = pytest.mark.long

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


async def run(client: AgentClient, *argv: str, **options: object) -> str:
    """A command's output, both kinds; it must end well."""
    stdin = options.pop("stdin", None)
    async with (
        asyncio.timeout(DEADLINE_S),
        await client.exec(argv, stdin=stdin is not None, **options) as process,  # type: ignore[arg-type]
    ):
        out, err = await process.communicate(stdin if isinstance(stdin, bytes) else b"")
        status = await process.wait()
    assert status.returncode == 0, (status, out, err)
    return (out + err).decode()


async def refused(client: AgentClient, *argv: str, **options: object) -> GuestCommandError:
    with pytest.raises(GuestCommandError) as caught:
        await client.exec(argv, **options)  # type: ignore[arg-type]
    await client.ping(b"still alive")
    return caught.value


@asynccontextmanager
async def message_pipe(directory: Path) -> AsyncIterator[tuple[Path, asyncio.StreamReader]]:
    """A named pipe by which a process that has no other connection to us says something."""
    path = directory / "say"
    os.mkfifo(path)
    path.chmod(0o666)
    # Read and write, so that opening does not wait, and nobody's closing is an end.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield path, reader
        finally:
            transport.close()


# -- streams by name


BY_NAME = "echo out >/dev/stdout; echo err >/dev/stderr; echo two >/dev/fd/2; cat </dev/stdin"


@needs_root
@pytest.mark.parametrize("user", [None, "12345:23456"])
async def test_a_command_opens_its_streams_by_name(user: str | None) -> None:
    async with agent_client() as (client, _):
        assert await run(client, "sh", "-c", BY_NAME, user=user, stdin=b"in\n") == "out\nin\nerr\ntwo\n"
        assert await run(client, "sh", "-c", BY_NAME, user=user) == "out\nerr\ntwo\n"


@needs_root
async def test_a_command_that_changes_its_user_itself_still_opens_its_streams_by_name() -> None:
    script = (
        "import os, sys; os.setgid(23456); os.setuid(12345); os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
    )
    async with agent_client() as (client, _):
        assert (
            await run(client, sys.executable, "-c", script, BY_NAME, stdin=b"in\n") == "out\nin\nerr\ntwo\n"
        )


@needs_root
async def test_a_terminal_belongs_to_the_commands_user() -> None:
    script = 'echo one >/dev/stdout; echo two >"$(tty)"; echo three >/dev/tty; cat /dev/stdin'
    async with (
        agent_client() as (client, _),
        await client.exec(["sh", "-c", script], user="12345:23456", tty=True, stdin=True) as process,
    ):
        out, _ = await process.communicate(b"four\n")
        assert (await process.wait()).returncode == 0
    assert sorted(set(out.split())) == [b"four", b"one", b"three", b"two"]


# -- users


async def test_home_is_the_users_unless_it_is_said() -> None:
    own = pwd.getpwuid(os.geteuid())
    async with agent_client() as (client, _):
        assert await run(client, "sh", "-c", "echo $HOME") == f"{own.pw_dir}\n"
        assert await run(client, "sh", "-c", "echo $HOME", user=own.pw_name) == f"{own.pw_dir}\n"
        assert await run(client, "sh", "-c", "echo $HOME", env={"HOME": "/x"}) == "/x\n"
        assert await run(client, "sh", "-c", "echo $HOME.", env={"HOME": ""}) == ".\n"


async def test_hostname_is_the_machines_unless_it_is_said() -> None:
    async with agent_client() as (client, _):
        assert await run(client, "sh", "-c", "echo $HOSTNAME") == f"{os.uname().nodename}\n"
        assert await run(client, "sh", "-c", "echo $HOSTNAME", env={"HOSTNAME": "x"}) == "x\n"


@needs_root
async def test_users_and_groups_are_looked_up_by_name_and_by_number() -> None:
    entry = pwd.getpwnam("nobody")
    groups = {entry.pw_gid} | {group.gr_gid for group in grp.getgrall() if "nobody" in group.gr_mem}
    tty = grp.getgrnam("tty").gr_gid
    show = 'echo $(id -u) $(id -G) "$HOME"'
    async with agent_client() as (client, _):

        async def shown(user: str) -> str:
            return (await run(client, "sh", "-c", show, user=user)).strip()

        all_groups = " ".join(map(str, [entry.pw_gid, *sorted(groups - {entry.pw_gid})]))
        assert await shown("nobody") == f"{entry.pw_uid} {all_groups} {entry.pw_dir}"
        assert await shown(str(entry.pw_uid)) == f"{entry.pw_uid} {all_groups} {entry.pw_dir}"
        assert await shown("nobody:tty") == f"{entry.pw_uid} {tty} {entry.pw_dir}"
        assert await shown("nobody:7") == f"{entry.pw_uid} 7 {entry.pw_dir}"
        assert await shown("54321") == "54321 0 /"
        assert await shown("54321:65432") == "54321 65432 /"
        assert await shown(":tty") == f"0 {tty} {pwd.getpwuid(0).pw_dir}"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("nobody-here", "unable to find user nobody-here: no matching entry in passwd file of the guest"),
        (
            "root:no-such-group",
            "unable to find group no-such-group: no matching entry in group file of the guest",
        ),
        ("2147483648", "unable to find user 2147483648"),
        ("x" * 5000, "unable to find user xxx"),
    ],
)
async def test_a_user_that_is_not_there_is_told_and_not_taken_for_a_missing_command(
    user: str, said: str
) -> None:
    async with agent_client() as (client, _):
        error = await refused(client, "true", user=user)
    assert said in error.message
    assert not error.missing
    assert error.hint is not None


# -- arguments


async def test_as_many_words_as_linux_takes_arrive_whole() -> None:
    async with agent_client() as (client, _):
        assert await run(client, "sh", "-c", "echo $#", "sh", *map(str, range(100_000))) == "100000\n"
        words = [f"{n:06d}" + "x" * 100_000 for n in range(18)]
        script = 'for word; do echo "${#word} ${word%%x*}"; done'
        expected = "".join(f"100006 {n:06d}\n" for n in range(18))
        assert await run(client, "sh", "-c", script, "sh", *words) == expected
        env = {f"NAME{n}": "two\nlines" for n in range(5000)} | {"EMPTY": ""}
        assert await run(client, "sh", "-c", 'echo "$NAME4999$#[$1$EMPTY]"', "sh", "", "", env=env) == (
            "two\nlines2[]\n"
        )
        longest = "y" * ((128 << 10) - 1)
        assert await run(client, "sh", "-c", "echo ${#1}", "sh", longest) == f"{len(longest)}\n"


@pytest.mark.parametrize("words", [["z" * (128 << 10)], ["z" * 100_000] * 21, [""] * 300_000])
async def test_more_words_than_that_are_refused_as_by_a_shell(words: list[str]) -> None:
    async with agent_client() as (client, _):
        error = await refused(client, "echo", *words)
    assert error.errno == errno.E2BIG
    assert "argument list too long" in error.message
    assert "standard input" in (error.hint or "")


async def test_long_and_short_commands_at_once_get_their_own_words() -> None:
    async with agent_client() as (client, _):
        sizes = [1, 300_000, 2, 900_000, 5, 1_500_000, 3] * 3

        async def one(number: int, size: int) -> None:
            words = [f"{number}-{n}" + "w" * 9000 for n in range(size // 9000)]
            said = await run(client, "sh", "-c", 'echo "$0 $#"', str(number), *words)
            assert said == f"{number} {len(words)}\n"

        await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes)))


async def test_a_long_command_that_is_cancelled_half_way_disturbs_no_other() -> None:
    async with agent_client() as (client, _):
        for _ in range(20):
            task = asyncio.create_task(client.exec(["true", *["w" * 90_000] * 20]))
            await asyncio.sleep(0)
            task.cancel()
            assert await run(client, "echo", "fine") == "fine\n"
        assert await run(client, "sh", "-c", "echo $#", "sh", *["w" * 90_000] * 20) == "20\n"


def test_parts_for_another_stream_replace_those_before() -> None:
    payload = Exec(["echo", "whole"], {"PATH": "/usr/bin:/bin"}).encode()
    with started_agent(sanitized_agent()) as (channel, agent):
        for frame in (
            Frame(FrameType.EXEC_PART, 7, bytes(MAX_TO_GUEST_BYTES)),
            Frame(FrameType.EXEC_PART, 8, payload[:10]),
            Frame(FrameType.PING, 0, b"between"),
            Frame(FrameType.EXEC_PART, 8, payload[10:11]),
            Frame(FrameType.EXEC, 8, payload[11:]),
            Frame(FrameType.EXEC_PART, 9, bytes(100)),
            Frame(FrameType.EXEC, 10, payload),
        ):
            channel.sendall(frame.encode())
        decoder = FrameDecoder()
        frames: list[Frame] = []
        while sum(frame.kind == FrameType.EXIT for frame in frames) < 2:
            frames += decoder.feed(channel.recv(4096))
        out = {frame.stream: frame.payload for frame in frames if frame.kind == FrameType.STDOUT}
        assert out == {8: b"whole\n", 10: b"whole\n"}
        channel.close()
        assert agent.wait(DEADLINE_S) == 0


# -- the working directory


async def test_a_missing_directory_is_made_where_that_is_asked_for(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b c" / "d"
    async with agent_client() as (client, _):
        assert await run(client, "pwd", cwd=str(wanted), make_cwd=True) == f"{wanted}\n"
        assert await run(client, "pwd", cwd=f"{wanted}/", make_cwd=True) == f"{wanted}\n"
    assert (wanted.stat().st_uid, wanted.stat().st_mode & 0o777) == (os.geteuid(), 0o755)


@pytest.mark.parametrize("make", [False, True])
async def test_a_directory_that_cannot_be_entered_is_named(tmp_path: Path, make: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    async with agent_client() as (client, _):
        for cwd, number in ((file, errno.ENOTDIR), (file / "below", errno.ENOTDIR)):
            error = await refused(client, "true", cwd=str(cwd), make_cwd=make)
            assert error.errno == number
            assert f"the working directory {cwd}: Not a directory" in error.message
            assert not error.missing
        if not make:
            error = await refused(client, "true", cwd=f"{tmp_path}/absent")
            assert f"cannot enter the working directory {tmp_path}/absent: No such file" in error.message
            assert not error.missing
        assert (await refused(client, "no-such-command")).missing


@needs_root
async def test_a_directory_that_the_user_may_not_enter_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    async with agent_client() as (client, _):
        error = await refused(client, "true", cwd=str(tmp_path), user="12345")
    assert f"cannot enter the working directory {tmp_path}: Permission denied" in error.message


# -- what stays in the background


@pytest.mark.parametrize("tty", [False, True])
async def test_what_a_background_child_writes_after_the_end_is_taken_and_dropped(
    tmp_path: Path, tty: bool
) -> None:
    """Far more than a pipe holds; a refusal would be told by head's status."""
    async with message_pipe(tmp_path) as (say, said), agent_client() as (client, _):
        script = (
            f"trap '' PIPE HUP; (read go <{say}.go; head -c 3000000 /dev/zero; echo $? >{say}) & echo left"
        )
        os.mkfifo(f"{say}.go")
        assert (await run(client, "sh", "-c", script, tty=tty)).split() == ["left"]
        Path(f"{say}.go").write_text("go\n")
        assert await said.readline() == b"0\n"
        await client.ping()


async def test_a_background_child_lives_on_when_its_client_is_gone(tmp_path: Path) -> None:
    """The client leaves the last output unread: the command has ended, its end has not been taken."""
    async with message_pipe(tmp_path) as (say, said), agent_client() as (client, _):
        os.mkfifo(f"{say}.go")
        left = f"(trap '' PIPE; read go <{say}.go; head -c 300000 /dev/zero; echo $? >{say})"
        process = await client.exec(["sh", "-c", f"{left} & exec head -c 50 /dev/zero"])
        await process.wait()
        process.abandon()
        await client.ping()
        Path(f"{say}.go").write_text("go\n")
        assert await said.readline() == b"0\n"


async def test_300_background_writers_and_a_flood_hold_up_nothing_and_cost_two_files_each() -> None:
    writer = "while :; do echo tick; sleep 0.2; done & echo pid $!"

    async def leave(client: AgentClient, script: str) -> int:
        lines = (await run(client, "sh", "-c", script)).splitlines()
        return next(int(line[4:]) for line in lines if line.startswith("pid "))

    async with agent_client() as (client, agent):
        files = Path(f"/proc/{agent.pid}/fd")
        before = len(list(files.iterdir()))
        left = [await leave(client, writer) for _ in range(300)]
        flood = await leave(client, "yes >&2 & echo pid $!")
        assert len(list(files.iterdir())) - before <= 2 * 301
        assert await run(client, "echo", "still quick") == "still quick\n"
        for pid in (*left, flood):
            os.kill(pid, 0)
            os.kill(pid, signal.SIGKILL)
        for pid in (*left, flood):
            await ended(pid)
        # Their sleeps hold the pipes for a moment longer.
        while len(list(files.iterdir())) > before:
            await client.ping()
            await asyncio.sleep(0.01)


# -- kills


async def test_kill_reaches_descendants_in_sessions_of_their_own() -> None:
    script = "setsid sh -c 'echo $$; sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait' & wait"
    async with agent_client() as (client, _), await client.exec(["sh", "-c", script]) as process:
        out = b""
        while out.count(b"\n") < 3:
            out += await process.stdout.read()
        await process.kill()
        assert await process.wait() == ExitStatus(True, signal.SIGKILL)
        for pid in map(int, out.split()):
            await ended(pid)


async def test_kill_leaves_what_other_commands_left_in_the_background() -> None:
    async with agent_client() as (client, _):
        other = int((await run(client, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")).strip())
        async with await client.exec(["sleep", "1000"]) as process:
            await process.kill()
            await process.wait()
        os.kill(other, 0)
        os.kill(other, signal.SIGKILL)
