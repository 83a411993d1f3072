"""The SDK with real guests: forked children, deadlines, what commands inherit, streamed commands, closed objects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ballonet.base.errors import (
    CommandTimeoutError,
    EventLoopError,
    GuestChannelError,
    NotRunningError,
    SandboxClosedError,
)
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.sync import Sandbox as SyncSandbox
from tests.vm.processes import alive, wait_until


@pytest.fixture(scope="module")
def box(guest: object, run_directory: Path) -> Iterator[SyncSandbox]:
    with SyncSandbox.create("sdk", memory=128, env={"TOKEN": "secret"}, cwd="/tmp", user="1000:1000") as made:
        yield made


@pytest.fixture(scope="module")
def root_box(guest: object, run_directory: Path) -> Iterator[SyncSandbox]:
    with SyncSandbox.create("sdk-root", memory=128) as made:
        yield made


def program(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of the SDK's user: what it says, and its status."""
    argv = [sys.executable, "-P", "-c", text, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)


def running(box: SyncSandbox, words: str) -> int:
    """How many processes of the guest have that command line."""
    script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f 2>/dev/null; echo; done'
    return box.shell(script, user="0").stdout.decode().splitlines().count(f"{words} ")


# What commands inherit


def test_commands_run_as_the_sandbox_was_told(box: SyncSandbox) -> None:
    """Every way to start one: none is root by accident."""
    script = "echo $TOKEN $(pwd) $(id -u):$(id -g)"
    told = b"secret /tmp 1000:1000\n"
    assert box.shell(script).stdout == told
    assert box.exec(["sh", "-c", script]).stdout == told
    assert b"".join(box.exec_stream(["sh", "-c", script])) == told
    said = box.shell(f"echo $MORE; {script}", env={"TOKEN": "mine", "MORE": "x"}, cwd="/", user="0")
    assert said.stdout == b"x\nmine / 0:0\n"
    found = SyncSandbox.get("sdk")
    assert found.shell(script).stdout == told
    found.close()
    asked = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "ballonet",
            "exec",
            "-e",
            "B=2",
            "sdk",
            "sh",
            "-c",
            f"echo $B; {script}",
        ],
        capture_output=True,
        check=True,
    )
    assert asked.stdout == b"2\n" + told
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "ballonet", "inspect", "sdk"], capture_output=True, check=True
    )
    [row] = json.loads(shown.stdout)
    assert (row["env"], row["workdir"], row["user"]) == ({"TOKEN": "secret"}, "/tmp", "1000:1000")


def test_files_are_copied_as_root_whoever_commands_run_as(box: SyncSandbox) -> None:
    box.fs.write("/root-only", "x", mode=0o600)
    assert box.fs.read("/root-only") == b"x"
    assert box.exec(["cat", "/root-only"]).returncode != 0


def test_what_run_was_told_holds_for_exec_with_and_without_a_command(
    guest: object, run_directory: Path
) -> None:
    def ballonet(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-P", "-m", "ballonet", *words], capture_output=True, text=True, check=True
        ).stdout

    told = ("--memory", "128M", "-e", "A=1", "-w", "/tmp", "-u", "1000")
    script = ("sh", "-c", "echo $A $(pwd) $(id -u)")
    try:
        ballonet("run", "-d", "--name", "told", *told, "--", "sleep", "1000")
        assert ballonet("exec", "told", *script) == "1 /tmp 1000\n"
        assert ballonet("exec", "-u", "0", "-e", "A=2", "-w", "/", "told", *script) == "2 / 0\n"
        with Registry.open() as registry:  # as an older version has left it
            registry.update("told", defaults=None)
        assert ballonet("exec", "told", *script) == "1 /tmp 1000\n"
        ballonet("create", "--name", "idle", *told)
        ballonet("start", "idle")
        assert ballonet("exec", "idle", *script) == "1 /tmp 1000\n"
    finally:
        for name in ("told", "idle"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ballonet("rm", "--force", name)


# Deadlines


def test_a_command_is_killed_at_its_timeout_with_all_it_started(root_box: SyncSandbox) -> None:
    with pytest.raises(CommandTimeoutError, match=r"timeout of 1.5 s") as caught:
        root_box.shell("echo out; echo err >&2; sleep 4321 & sleep 4321", timeout=1.5)
    error = caught.value
    assert (error.stdout, error.stderr, error.returncode, error.timeout) == (b"out\n", b"err\n", None, 1.5)
    wait_until(lambda: running(root_box, "sleep 4321") == 0, "both are gone")
    assert root_box.exec(["echo", "on"], timeout=60).stdout == b"on\n"


def test_a_command_that_ends_in_time_is_left_alone(root_box: SyncSandbox) -> None:
    done = root_box.exec(["cat"], stdin="ü", timeout=100)
    assert (done.returncode, done.stdout) == (0, "ü".encode())


def test_a_streamed_command_raises_after_its_timeout(root_box: SyncSandbox) -> None:
    process = root_box.exec_stream(["sh", "-c", "echo a; exec sleep 4322"], timeout=1)
    assert next(process) == b"a\n"
    for call in (process.stdout.read, process.wait, process.stderr.read):
        with pytest.raises(CommandTimeoutError):
            call()
    wait_until(lambda: running(root_box, "sleep 4322") == 0, "it is gone")


def test_a_guest_that_does_not_answer_makes_no_timeout_hang(root_box: SyncSandbox) -> None:
    with root_box.exec_stream(["sleep", "4323"], timeout=1) as process:
        os.kill(root_box.engine_pid, signal.SIGSTOP)
        try:
            with pytest.raises(CommandTimeoutError):
                process.wait()
            with pytest.raises(CommandTimeoutError):
                root_box.exec(["true"], timeout=1)
        finally:
            os.kill(root_box.engine_pid, signal.SIGCONT)
    assert root_box.exec(["echo", "on"]).stdout == b"on\n"
    wait_until(lambda: running(root_box, "sleep 4323") == 0, "it was killed when the guest went on")


@pytest.mark.parametrize(
    "before", [("exec", "--timeout", "1s", "sdk"), ("run", "--memory", "128M", "--timeout", "1")]
)
def test_the_command_line_says_124_at_the_timeout(box: SyncSandbox, before: tuple[str, ...]) -> None:
    argv = [sys.executable, "-P", "-m", "ballonet", *before, "sh", "-c", "echo out; sleep 1000"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stdout) == (124, "out\n")
    assert "did not end within its timeout of 1" in done.stderr


# The streamed command


def test_a_streamed_command_has_all_its_streams(root_box: SyncSandbox) -> None:
    with root_box.exec_stream(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=True) as process:
        process.stdin.write("héllo\n")
        process.stdin.write(b"again\n")
        process.stdin.close()
        got: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        for name, piece in process.events():
            got[name] += piece
        assert got == {"stdout": "héllo\nagain\n".encode(), "stderr": b"err\n"}
        assert process.wait().returncode == 3
        assert repr(process) == f"<GuestProcess pid {process.pid}, exited with status 3>"


def test_standard_error_that_nobody_reads_does_not_stall_the_iteration(root_box: SyncSandbox) -> None:
    process = root_box.exec_stream(["sh", "-c", "head -c 2000000 /dev/zero >&2; echo done"])
    assert b"".join(process) == b"done\n"
    assert len(process.stderr.read_all()) == 2000000
    assert process.wait().returncode == 0


def test_leaving_the_iteration_kills_the_command(root_box: SyncSandbox) -> None:
    for piece in root_box.exec_stream(["sh", "-c", "echo a; exec sleep 4324"]):
        assert piece == b"a\n"
        break
    wait_until(lambda: running(root_box, "sleep 4324") == 0, "it is gone")


def test_a_streamed_command_is_signalled_killed_and_has_a_terminal(root_box: SyncSandbox) -> None:
    with root_box.exec_stream(["sleep", "4325"]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait().returncode == 143
    with root_box.exec_stream(["sleep", "4325"]) as process:
        process.kill()
        assert process.wait().returncode == 137
    with root_box.exec_stream(["stty", "size"], tty=True, rows=7, cols=33) as process:
        assert process.stdout.read_all().split() == [b"7", b"33"]


async def test_wrong_types_on_a_streamed_command_are_told_as_themselves(sandbox: Sandbox) -> None:
    """No group of exceptions, and no bare TypeError."""
    async with await sandbox.exec_stream(["cat"], stdin=True) as process:
        calls: list[Any] = [
            lambda: process.write_stdin(5),  # type: ignore[arg-type]
            lambda: process.communicate(["a"]),  # type: ignore[arg-type]
            lambda: process.send_signal("TERM"),  # type: ignore[arg-type]
            lambda: process.resize("1", 2),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(Exception, match="must be") as caught:
                await call()
            assert getattr(caught.value, "code", None) == "config"
        assert await process.communicate("text") == (b"text", b"")


async def test_both_outputs_as_they_come(sandbox: Sandbox) -> None:
    async with await sandbox.exec_stream(
        ["sh", "-c", "echo a; echo b >&2; read x; echo $x"], stdin=True
    ) as process:
        got = []
        async for name, piece in process.events():
            got.append((name, piece))
            if len(got) == 2:
                await process.write_stdin("c\n")
        assert sorted(got[:2]) == [("stderr", b"b\n"), ("stdout", b"a\n")]
        assert got[2:] == [("stdout", b"c\n")]


# Forked children, other loops, the program's end

_FORK = """
import multiprocessing, os, sys
from ballonet.base.errors import BallonetError
from ballonet.sdk.sync import Sandbox

def work(number):
    return box.exec(["echo", str(number)]).stdout.decode().strip() + str(Sandbox.get("forks").balloon.get().ceiling_mib)

if __name__ == "__main__":
    with Sandbox.create("forks", memory=128) as box:
        held = box.exec_stream(["sleep", "1000"])
        assert box.balloon.get().ceiling_mib == 128
        with multiprocessing.get_context("fork").Pool(3) as pool:
            print(pool.map(work, range(6)))
        child = os.fork()
        if child == 0:
            for call in (held.wait, held.stdout.read, lambda: next(held)):
                try:
                    call()
                except BallonetError as error:
                    print(error.code, flush=True)
            with box:
                print(box.exec(["echo", "child"]).stdout.decode(), end="", flush=True)
            sys.exit(0)  # through every destructor
        assert os.waitpid(child, 0)[1] == 0
        print(box.exec(["echo", "parent"]).stdout.decode(), box.balloon.get().ceiling_mib, held.exit_status)
"""


def test_forked_children_use_the_parents_sandbox_and_leave_it_running(
    guest: object, run_directory: Path
) -> None:
    done = program(_FORK)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said == [
        str([f"{number}128" for number in range(6)]),
        *["event-loop"] * 3,
        "child",
        "parent",
        " 128 None",
    ]


_OWNER = """
import os, signal, sys
from ballonet.sdk.sync import Sandbox
box = Sandbox.create("owner", memory=128)
held = box.exec_stream(["sleep", "1000"])
child = os.fork()
if child == 0:
    for fd in (0, 1, 2):
        os.close(fd)
    signal.pause()
print(child, box.pid, box.engine_pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_an_owned_sandbox_ends_with_its_program_although_a_forked_child_lives(
    guest: object, run_directory: Path, how: str
) -> None:
    done = program(_OWNER, how)
    child, *processes = map(int, done.stdout.split())
    try:
        assert done.stderr == ""
        wait_until(lambda: not any(map(alive, processes)), "the sandbox has ended")
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
    with Registry.open() as registry:
        wait_until(lambda: "owner" not in [row.name for row in SyncSandbox.list()], "it is gone")
        assert registry.find("owner") is None


_ASYNC_FORK = """
import asyncio, os
from ballonet.base.errors import BallonetError
from ballonet.sdk.sandbox import Sandbox

async def child(box, held):
    try:
        await held.wait()
    except BallonetError as error:
        print(error.code, flush=True)
    print((await box.exec(["echo", "child"])).stdout.decode(), end="", flush=True)
    await box.close()

async def main():
    async with await Sandbox.create("async-fork", memory=128) as box:
        held = await box.exec_stream(["sleep", "1000"])
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(child(box, held))
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        print((await box.exec(["echo", "parent"])).stdout.decode(), end="")

asyncio.run(main())
"""


def test_an_asynchronous_sandbox_works_in_a_forked_childs_own_loop(
    guest: object, run_directory: Path
) -> None:
    done = program(_ASYNC_FORK)
    assert (done.stdout, done.stderr) == ("event-loop\nchild\nparent\n", "")


async def test_another_loop_has_connections_of_its_own(sandbox: Sandbox) -> None:
    held = await sandbox.exec_stream(["sleep", "1000"])

    async def there() -> bytes:
        with pytest.raises(EventLoopError, match="another event loop"):
            await held.wait()
        return (await sandbox.exec(["echo", "there"])).stdout

    assert await asyncio.to_thread(lambda: asyncio.run(there())) == b"there\n"
    assert (await sandbox.exec(["echo", "here"])).stdout == b"here\n"
    held.abandon()


_ENDS = """
import sys, threading
from ballonet.sdk.sync import Sandbox
box = Sandbox.create("ends", memory=128)
held = box.exec_stream(["sleep", "1000"])
watch = box.balloon.watch()
next(watch)
threading.Thread(target=lambda: box.exec(["sleep", "1000"]), daemon=True).start()
print(box.exec(["echo", "up"]).stdout.decode(), end="")
if sys.argv[1:] == ["interrupted"]:
    import os, signal
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        box.exec(["sleep", "1000"])
    except KeyboardInterrupt:
        print(box.exec(["echo", "on"]).stdout.decode(), end="")
"""


@pytest.mark.parametrize(("words", "said"), [((), "up\n"), (("interrupted",), "up\non\n")])
def test_a_program_ends_in_silence_with_sandboxes_open(
    guest: object, run_directory: Path, words: tuple[str, ...], said: str
) -> None:
    done = program(_ENDS, *words)
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)
    wait_until(lambda: "ends" not in [row.name for row in SyncSandbox.list()], "its sandbox has ended, too")


# After the end


def test_after_close_and_after_the_end_each_call_says_which(guest: object, run_directory: Path) -> None:
    box = SyncSandbox.create("over", memory=128)
    other = SyncSandbox.get("over")
    other.close()
    with pytest.raises(SandboxClosedError):
        other.exec(["true"])
    assert box.exec(["echo", "on"]).stdout == b"on\n", "it goes on"
    running = box.exec_stream(["sleep", "1000"])
    end = box.kill()
    assert (box.pid, box.engine_pid, box.control_socket) == (0, 0, None)
    assert repr(box) == f"<Sandbox 'over', ended ({end.reason})>"
    with pytest.raises(GuestChannelError):
        running.wait()
    for call in (lambda: box.exec(["true"]), box.balloon.get, lambda: box.fs.read("/x"), box.metrics):
        with pytest.raises(NotRunningError, match="is no longer running"):
            call()
    assert box.wait() == box.stop() == end
    box.close()
    with pytest.raises(SandboxClosedError):
        box.exec(["true"])


def test_one_that_ended_by_itself_does_not_run(guest: object, run_directory: Path) -> None:
    with SyncSandbox.create("off", memory=128) as box:
        with contextlib.suppress(GuestChannelError):
            box.exec(["poweroff", "-f"])
        box.wait()
        with pytest.raises(NotRunningError, match="is no longer running"):
            box.exec(["true"])


def test_a_detached_one_that_was_started_again_is_reached_again(guest: object, run_directory: Path) -> None:
    box = SyncSandbox.create("again", memory=128, detached=True)
    try:
        assert box.exec(["echo", "a"]).stdout == b"a\n"
        box.stop(0)
        with pytest.raises(NotRunningError, match="'again' is stopped"):
            box.exec(["true"])
        SyncSandbox.start("again").close()
        assert box.exec(["echo", "b"]).stdout == b"b\n"
        assert box.balloon.get().ceiling_mib == 128
        assert alive(box.pid)
    finally:
        SyncSandbox.remove("again", force=True)
