"""The real command line with standard streams as callers leave them: closed, full, not blocking, gone."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import StreamError
from ballonet.base.paths import state_dir_of
from ballonet.cli.commands import COMMANDS
from ballonet.cli.stdin_reader import read_stdin
from ballonet.cli.stdout_writer import ByteWriter
from ballonet.lifecycle.record import Command
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import create
from ballonet.machine.output_log import OutputLog
from ballonet.settings.config import SandboxConfig

pytestmark = pytest.mark.long

BALLONET = [sys.executable, "-P", "-m", "ballonet"]
#: One call of each command that does its work, or says why not, without a VM; what each ends with.
CALLS = {
    "run": (["run", "--dry-run", "--", "true"], 0),
    "create": (["create", "--name", "new"], 0),
    "start": (["start", "nobody"], 2),
    "stop": (["stop", "box"], 0),
    "kill": (["kill", "box"], 2),
    "restart": (["restart", "nobody"], 2),
    "pause": (["pause", "box"], 2),
    "resume": (["resume", "box"], 2),
    "touch": (["touch", "box"], 2),
    "fork": (["fork", "box", "new"], 2),
    "snapshot": (["snapshot", "ls"], 0),
    "rm": (["rm", "box"], 0),
    "ls": (["ls"], 0),
    "ps": (["ps", "--json"], 0),
    "exec": (["exec", "box", "true"], 2),
    "code": (["code", "box", "/etc/hostname"], 2),
    "attach": (["attach", "box"], 2),
    "cp": (["cp", "box:/x", "-"], 2),
    "inspect": (["inspect", "box"], 0),
    "events": (["events"], 0),
    "wait": (["wait", "box"], 0),
    "logs": (["logs", "box"], 0),
    "rename": (["rename", "box", "other"], 0),
    "modify": (["modify", "box", "--weight", "7"], 0),
    "net": (["net", "stats", "box"], 2),
    "image": (["image", "ls"], 0),
    "balloon": (["balloon", "get", "box"], 2),
    "volume": (["volume", "create", "cache"], 0),
    "metrics": (["metrics"], 0),
    "history": (["history", "box"], 0),
    "plot": (["plot", "box", "-o", "x.png"], 2),
    "stats": (["stats", "--no-stream"], 0),
    "top": (["top", "--once"], 0),
    "pilot": (["pilot", "unit"], 0),
    "simulate": (["simulate", "--list"], 0),
    "serve": (["serve", "--no-socket"], 2),
    "mcp": (["mcp", "--cpus", "0"], 2),
    "token": (["token", "create", "--scope", "read"], 0),
    "prune": (["prune"], 0),
    "doctor": (["doctor"], 0),
    "cluster": (["cluster", "leave"], 2),
    "config": (["config"], 0),
    "completion": (["completion", "bash"], 0),
    "version": (["version"], 0),
    "help": (["help"], 0),
    "demo": (["demo", "--help"], 0),
}
#: Those that print nothing to standard output here.
SILENT = {
    "start",
    "kill",
    "restart",
    "pause",
    "resume",
    "touch",
    "fork",
    "exec",
    "cluster",
    "code",
    "attach",
    "cp",
    "net",
    "balloon",
    "plot",
    "serve",
    "mcp",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directories of the test's own, with a stopped sandbox named ``box`` that has written something."""
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "BALLONET_RUN_DIR"):
        directory = tmp_path / variable.lower()
        directory.mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(directory))
    with Registry.open() as registry:
        create(
            registry, SandboxConfig(name="box", memory_mib=160), command=Command(("true",), {}, None, None)
        )
    log = OutputLog(state_dir_of("box"))
    log.write("stdout", b"out\n")
    log.write("stderr", b"err\n")
    log.close()
    monkeypatch.chdir(tmp_path)
    registry_path = state_dir_of("box").parent.parent / "registry.db"
    yield tmp_path
    with sqlite3.connect(registry_path) as registry_file:
        assert registry_file.execute("pragma integrity_check").fetchone() == ("ok",)


def shell(redirections: str, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *BALLONET, *words],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def assert_told_well(done: subprocess.CompletedProcess[str]) -> None:
    assert "internal error" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr


def test_every_command_is_tried_here() -> None:
    assert set(CALLS) == set(COMMANDS)


@pytest.mark.parametrize("command", CALLS)
def test_closed_descriptors_change_nothing_but_what_is_read(home: Path, command: str) -> None:
    words, status = CALLS[command]
    done = shell("<&- >&-", words)
    assert done.returncode == status, done.stderr
    assert_told_well(done)


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_any_descriptors_may_be_closed(home: Path, redirections: str) -> None:
    done = shell(redirections, ["ls", "-q"])
    assert (done.returncode, done.stdout) == (0, "" if ">&-" in redirections.split() else "box\n")
    assert shell(redirections, ["exec", "-i", "box", "cat"]).returncode == 2


@pytest.mark.parametrize("command", CALLS)
def test_a_full_disk_is_told_and_is_no_success(home: Path, command: str) -> None:
    words, status = CALLS[command]
    done = shell(">/dev/full", words)
    assert_told_well(done)
    if command in SILENT:
        assert done.returncode == status
    else:
        assert done.returncode == 125
        assert done.stderr.endswith("ballonet: error: standard output: No space left on device\n")
        assert done.stderr.count("No space left") == 1


def test_a_full_disk_behind_a_logs_standard_error_is_no_success(home: Path) -> None:
    assert shell("2>/dev/full", ["logs", "box"]).returncode == 125


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["--version"], ["ls", "--json"], ["logs", "box"]]
)
def test_help_and_the_like_meet_a_full_disk_as_commands_do(home: Path, words: list[str]) -> None:
    done = shell(">/dev/full", words)
    assert done.returncode == 125
    assert done.stderr == "ballonet: error: standard output: No space left on device\n"


def test_messages_that_nobody_can_read_do_not_keep_a_command_from_its_work(home: Path) -> None:
    done = shell("2>/dev/full", ["rm", "nobody", "box"])
    assert (done.returncode, done.stdout) == (2, "box\n")


@pytest.mark.parametrize("command", sorted(set(CALLS) - SILENT))
def test_a_reader_that_is_gone_ends_a_command_quietly(home: Path, command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*BALLONET, *CALLS[command][0]], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 141
    assert_told_well(done)
    assert "roken pipe" not in done.stderr


@pytest.mark.parametrize("words", [["completion", "bash"], ["logs", "box"], ["logs", "--machine", "box"]])
def test_every_byte_arrives_in_a_pipe_that_does_not_block(home: Path, words: list[str]) -> None:
    log = OutputLog(state_dir_of("box"))
    log.write("stdout", b"x" * 300_000 + b"\n")
    log.close()
    (state_dir_of("box") / "machine.log").write_bytes(b"y" * 300_000)
    expected = subprocess.run([*BALLONET, *words], capture_output=True, check=True).stdout
    read, write = os.pipe()
    os.set_blocking(write, False)
    # Full from the beginning: the command has to wait before its first byte.
    filled = 0
    while True:
        try:
            filled += os.write(write, b"f" * 4096)
        except BlockingIOError:
            break
    process = subprocess.Popen([*BALLONET, *words], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert process.stderr is not None
    got = bytearray()
    while data := os.read(read, 4096):
        got += data
    os.close(read)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    assert bytes(got[filled:]) == expected


def test_an_undecodable_path_is_shown_as_it_is_and_other_signs_in_ascii(home: Path) -> None:
    path = os.fsdecode(b"/no/\xff\xe9")
    done = shell("", ["run", "-v", path + ":/x", "--", "true"], PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert_told_well(done)
    assert "does not exist" in done.stderr
    done = shell(
        "", ["run", "--name", "\N{GREEK SMALL LETTER ALPHA}", "--", "true"], PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 2
    assert "name '\\u03b1' is not valid" in done.stderr
    help = shell("", ["--help"], PYTHONIOENCODING="ascii")
    assert help.returncode == 0
    help.stdout.encode("ascii")


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("HOME", None, 0),
        ("HOME", "relative", 0),
        ("HOME", "/proc/nowhere", 125),
        ("HOME", "/dev/null", 125),
        ("TERM", None, 0),
        ("TERM", "nonsense", 0),
        ("PATH", "", 0),
        ("PATH", None, 0),
    ],
)
def test_an_odd_environment_is_no_internal_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, status: int
) -> None:
    if name == "HOME" and status:
        monkeypatch.delenv("XDG_STATE_HOME")
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)
    done = subprocess.run([*BALLONET, "ls"], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert_told_well(done)


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["run", "-v", "./x:/x", "--", "true"],
        ["run", "--rootfs", "x", "--", "true"],
        ["run", "--balloon-control-socket", "x.sock", "--", "true"],
        ["image", "load", "x"],
        ["cp", "x", "box:/x"],
        ["metrics", "--textfile", "x.prom"],
        ["plot", "box", "-o", "x.png"],
    ],
)
def test_a_deleted_working_directory_is_told(home: Path, words: list[str]) -> None:
    gone = home / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$0"; exec "$@"', str(gone), *BALLONET, *words],
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in ([0] if words == ["ls"] else [2, 125]), done.stderr
    assert_told_well(done)


@pytest.mark.parametrize("limit", [8, 12, 20, 40])
def test_few_open_files_are_no_internal_error(home: Path, limit: int) -> None:
    for words in (["ls"], ["inspect", "box"], ["exec", "box", "true"], ["logs", "box"], ["metrics"]):
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *BALLONET, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert_told_well(done)


def test_an_input_that_is_not_open_for_reading_is_refused_before_anything_starts(home: Path) -> None:
    done = shell("0>out", ["run", "-i", "--", "cat"])
    assert done.returncode == 2
    assert "standard input is not open for reading" in done.stderr


def test_a_directory_as_input_is_refused(home: Path) -> None:
    """By Python itself, with its own status: it starts no program like that."""
    done = shell("</tmp", ["run", "-i", "--", "cat"])
    assert done.returncode in (1, 2)
    assert "is a directory" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-v", "/no/such:/x"], "volume '/no/such:/x': /no/such does not exist on the host"),
        (["-v", "/etc/passwd:/x"], "/etc/passwd is not a directory on the host"),
        (["-v", "./a/b:/x"], "a/b does not exist on the host"),
        (["--rootfs", ""], "--rootfs '' is not a directory"),
        (["--rootfs", "/no/such"], "--rootfs '/no/such': /no/such does not exist on the host"),
        (["--rootfs", "/etc/passwd"], "/etc/passwd is not a directory on the host"),
        (["-p", "1:99999"], "--publish '1:99999' has a port outside 1 to 65535"),
        (
            ["-e", "NO_SUCH_VARIABLE_HERE"],
            "'NO_SUCH_VARIABLE_HERE': the variable is not set in this environment",
        ),
        (["--name", "box"], "there is a sandbox named 'box' already"),
        (["--cpus", "256"], "cpus 256 is outside 1 to 255"),
        (["-u", "a:b:c"], "a:b:c"),
    ],
)
@pytest.mark.parametrize("command", ["run", "create"])
def test_what_can_be_checked_early_is(home: Path, command: str, words: list[str], message: str) -> None:
    """Before an image is pulled: its registry, which is none, is never asked."""
    image = [] if "--rootfs" in words or "-u" in words else ["--image", "localhost:1/none"]
    done = shell("", [command, *image, *words, "--", "true"])
    assert done.returncode == 2
    assert message in done.stderr


def test_a_port_in_use_is_told_before_an_image_is_pulled(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = shell("", ["run", "--image", "localhost:1/none", "-p", f"{port}:80", "--", "true"])
    assert done.returncode == 2
    assert f"port 127.0.0.1:{port}/tcp cannot be published: Address already in use" in done.stderr


def test_more_processors_than_the_host_has_are_warned_of(home: Path) -> None:
    here = len(os.sched_getaffinity(0))
    done = shell("", ["create", "--cpus", str(here + 1)])
    assert done.returncode == 0
    assert f"warning: --cpus {here + 1} is more than the {here} processors" in done.stderr
    assert shell("", ["create", "--cpus", str(here)]).stderr == ""


@pytest.mark.parametrize("command", ["start", "stop", "restart", "rm", "wait", "inspect"])
def test_one_bad_name_among_several_keeps_none_of_the_others_from_it(home: Path, command: str) -> None:
    other = "no body" if command in ("start", "restart") else "box"
    done = shell("", [command, "nobody", other])
    assert done.returncode == 2
    assert "'nobody'" in done.stderr
    if command in ("start", "restart"):
        assert "'no body'" in done.stderr
    else:
        assert done.stdout


async def _fill_and_write(read: int, write: int, size: int) -> bytes:
    writer = ByteWriter(write)
    writing = asyncio.create_task(writer.write(b"z" * size))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not writing.done(), "it waits for the reader, and the loop goes on"
    got = bytearray()
    while len(got) < size:
        got += await asyncio.to_thread(os.read, read, 65536)
    await writing
    return bytes(got)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_slow_reader_is_waited_for_and_the_flags_are_left_alone(kind: str, blocking: bool) -> None:
    if kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    os.set_blocking(write, blocking)
    assert await _fill_and_write(read, write, 2_000_000) == b"z" * 2_000_000
    assert os.get_blocking(write) is blocking
    os.close(read)
    with pytest.raises(BrokenPipeError):
        await ByteWriter(write).write(b"nobody reads this")
    os.close(write)


async def test_a_pipe_that_cannot_be_opened_again_is_written_without_blocking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    read, write = os.pipe()
    with monkeypatch.context() as patched:
        patched.setattr("ballonet.cli.stdout_writer.os.open", refuse)
        writer = ByteWriter(write)
    writing = asyncio.create_task(writer.write(b"z" * 300_000))
    got = 0
    while got < 300_000:
        got += len(await asyncio.to_thread(os.read, read, 65536))
    await writing
    os.close(read)
    os.close(write)


async def test_a_full_disk_is_an_error_with_the_streams_name() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StreamError, match="No space left on device"):
        await ByteWriter(full).write(b"x")
    os.close(full)


async def test_a_terminal_is_written_whole_and_keeps_its_flags() -> None:
    main, side = pty.openpty()
    writing = asyncio.create_task(ByteWriter(side).write(b"z" * 100_000))
    got = 0
    while got < 100_000:
        got += len(await asyncio.to_thread(os.read, main, 65536))
    await writing
    assert os.get_blocking(side)
    os.close(side)
    os.close(main)


async def test_an_input_that_does_not_block_is_not_at_its_end_while_it_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = os.pipe()
    saved = os.dup(0)
    os.dup2(read, 0)
    try:
        os.set_blocking(0, False)
        reading = asyncio.create_task(read_stdin())
        await asyncio.sleep(0)
        first = os.read
        tries: list[int] = []

        def empty_at_first(fd: int, count: int) -> bytes:
            if not tries:
                tries.append(fd)
                raise BlockingIOError
            return first(fd, count)

        monkeypatch.setattr("ballonet.cli.stdin_reader.os.read", empty_at_first)
        os.write(write, b"late")
        assert await reading == b"late"
        assert tries
        os.close(write)
        assert await read_stdin() == b""
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)


def test_a_signal_ends_a_command_whose_reader_is_slow(home: Path) -> None:
    (state_dir_of("box") / "machine.log").write_bytes(b"y" * 300_000)
    read, write = os.pipe()
    process = subprocess.Popen([*BALLONET, "logs", "--machine", "box"], stdout=write)
    os.close(write)
    assert os.read(read, 1) == b"y"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    os.close(read)


def test_logs_follow_until_and_since(home: Path) -> None:
    def logs(*words: str) -> str:
        return shell("", ["logs", *words, "box"]).stdout

    assert logs("--until", "1h") == ""
    assert logs("--since", "1h", "--until", str(time.time() + 60)) == "out\n"
    assert logs("-n", "all") == "out\n"
    assert logs("-n", "0") == ""
    assert logs("-f", "-n", "2") == "out\n"
    stamped = logs("-t").split()
    assert stamped[1] == "out"
    assert stamped[0].endswith("Z")
    assert len(stamped[0]) == len("2026-01-31T12:00:00.123456789Z")
    assert shell("", ["logs", "--machine", "-f", "box"]).returncode == 2


@pytest.mark.parametrize(
    "module",
    [
        "ballonet.base.garbage",
        "ballonet.base.errors",
        "ballonet.cli.standard_streams",
        "ballonet.cli.ls",
        "ballonet.cli.parser",
    ],
)
def test_an_interrupt_while_we_are_read_is_no_traceback(home: Path, module: str) -> None:
    script = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from ballonet.cli.program import program\n"
        "sys.argv = ['ballonet', 'ls']\n"
        "program()\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
