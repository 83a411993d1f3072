"""Commands and files in a running guest: much output, slow readers, terminals, copies."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, GuestFileError
from ballonet.sdk.sandbox import Sandbox

Call = Callable[..., subprocess.CompletedProcess[str]]


async def test_100_mb_of_output_arrive_whole_and_in_order(sandbox: Sandbox) -> None:
    """Numbered random blocks, so that a loss and a swap both show in the hash."""
    block = os.urandom(1 << 20)
    await sandbox.fs.write("/tmp/block", block)
    expected = hashlib.sha256()
    for number in range(100):
        expected.update(b"block %d\n" % number + block)
    got = hashlib.sha256()
    script = "for n in $(seq 0 99); do echo block $n; cat /tmp/block; done; rm /tmp/block"
    async with await sandbox.exec_stream(["sh", "-c", script]) as process:
        async for data in process.stdout:
            got.update(data)
            assert process.held_bytes <= 256 << 10
        assert (await process.wait()).returncode == 0
    assert got.hexdigest() == expected.hexdigest()


async def test_a_consumer_that_stops_reading_stops_the_command_and_holds_little(sandbox: Sandbox) -> None:
    async with await sandbox.exec_stream(["sh", "-c", "while true; do seq 1000; done"]) as process:
        deadline = time.monotonic() + 60
        while process.held_bytes < 128 << 10 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        held = process.held_bytes
        assert 128 << 10 <= held <= 256 << 10
        assert (await sandbox.exec(["echo", "others go on"])).stdout == b"others go on\n"
        assert process.held_bytes <= 256 << 10
        assert process.exit_status is None


async def test_bytes_of_every_value_pass_both_ways(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * 4096
    assert (await sandbox.exec(["cat"], stdin=data)).stdout == data


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_an_end_by_a_signal_is_128_plus_its_number(sandbox: Sandbox, number: signal.Signals) -> None:
    assert (await sandbox.shell(f"kill -{number.value} $$")).returncode == 128 + number


async def test_children_that_live_on_do_not_hang_exec(sandbox: Sandbox) -> None:
    """They hold the command's output open; its end counts."""
    done = await sandbox.shell("(sleep 300; echo late) & echo now")
    assert (done.returncode, done.stdout) == (0, b"now\n")
    await sandbox.shell("pkill sleep")


@pytest.mark.parametrize("argv", ["ls", b"ls", [], [1], ["a\0b"]])
async def test_words_that_are_no_command_are_our_error(sandbox: Sandbox, argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        await sandbox.exec(argv)


async def test_a_command_runs_as_somebody_else(sandbox: Sandbox) -> None:
    assert (await sandbox.exec(["id", "-u"], user="1234:5")).stdout == b"1234\n"
    assert (await sandbox.exec(["id", "-g"], user="1234:5")).stdout == b"5\n"


# --- a terminal ---


class Terminal:
    """A real terminal (a pty) with a program in it; we are its keyboard and screen."""

    def __init__(self, *words: str, rows: int = 33, cols: int = 111) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, cols))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.shown = b""
        self.program = subprocess.Popen(
            [sys.executable, "-P", "-m", "ballonet", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.set_blocking(self.master, False)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, pattern: str) -> str:
        deadline = time.monotonic() + 60
        while not (found := re.search(pattern.encode(), self.shown)):
            assert time.monotonic() < deadline, self.shown
            try:
                self.shown += os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.02)
        self.shown = self.shown[found.end() :]
        return found.group().decode()

    def end(self) -> int:
        status = self.program.wait(60)
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is as it was"
        os.close(self.slave)
        os.close(self.master)
        return status


def test_a_shell_in_a_real_terminal(sandbox: Sandbox) -> None:
    """Raw mode, its size and changes of it, Ctrl-C, the exit status, and the terminal as it was."""
    terminal = Terminal("exec", "-it", "-e", "PS1=ready> ", sandbox.name, "sh")
    terminal.wait_for("ready> ")
    terminal.type("stty size; echo $TERM\n")
    terminal.wait_for("33 111\r\n")
    termios.tcsetwinsize(terminal.slave, (20, 70))
    terminal.program.send_signal(signal.SIGWINCH)
    deadline = time.monotonic() + 60
    while True:  # the new size comes beside the keys, not with them
        terminal.type("echo size: $(stty size)\n")
        if terminal.wait_for(r"size: \d+ \d+") == "size: 20 70":
            break
        assert time.monotonic() < deadline
    terminal.type("echo go; sleep 1000\n")
    terminal.wait_for("go\r\n")
    terminal.type("\x03")
    terminal.wait_for("ready> ")
    terminal.type("exit 9\n")
    assert terminal.end() == 9


def test_a_terminal_is_not_taken_where_there_is_none(sandbox: Sandbox, ballonet: Call) -> None:
    done = ballonet("exec", "-it", sandbox.name, "sh")
    assert done.returncode == 2
    assert "-t requires a terminal as standard input" in done.stderr


# --- files ---


async def test_files_are_written_whole_read_listed_and_removed(sandbox: Sandbox) -> None:
    fs = sandbox.fs
    odd = "/tmp/files/-odd\n \udcff'\"$(x)"
    await fs.write(odd, b"\0\xff", mode=0o640, parents=True)
    await fs.write("/tmp/files/text", "grüße")
    assert await fs.read(odd) == b"\0\xff"
    assert await fs.read("/tmp/files/text") == "grüße".encode()
    (first, second) = await fs.list("/tmp/files")
    assert (first.path, first.kind, first.size, first.mode) == (odd, "file", 2, 0o640)
    assert second.name == "text"
    assert await fs.stat("/tmp/files/text") == second
    assert (await fs.stat("/")).kind == "directory"
    await fs.mkdir("/tmp/files/a/b", parents=True)
    await fs.remove(odd)
    assert not await fs.exists(odd)
    with pytest.raises(GuestFileError, match="/tmp/files"):
        await fs.remove("/tmp/files")
    await fs.remove("/tmp/files", recursive=True)
    assert not await fs.exists("/tmp/files")
    for attempt in (
        fs.read("/nothing"),
        fs.list("/nothing"),
        fs.stat("/nothing"),
        fs.remove("/nothing", recursive=True),
    ):
        with pytest.raises(GuestFileError, match=r"'/nothing' in the guest: .*No such file"):
            await attempt
    with pytest.raises(GuestFileError, match="more than 10 bytes"):
        await fs.read("/bin/busybox", limit=10)
    with pytest.raises(GuestFileError, match="directory"):
        await fs.write("/tmp", b"")


def test_a_tree_goes_in_and_comes_out_again(sandbox: Sandbox, ballonet: Call, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "big").write_bytes(os.urandom(5 << 20))
    (source / "-odd \n'$(name)").write_bytes(b"x")
    (source / "sub/run").write_text("#!/bin/sh\necho ran\n")
    (source / "sub/run").chmod(0o755)
    (source / "link").symlink_to("sub/run")
    assert ballonet("cp", str(source), f"{sandbox.name}:/tmp").returncode == 0
    assert ballonet("exec", sandbox.name, "/tmp/tree/link").stdout == "ran\n"
    assert ballonet("cp", f"{sandbox.name}:/tmp/tree", str(tmp_path / "back")).returncode == 0
    there = {path.relative_to(source): path for path in source.rglob("*")}
    back = {path.relative_to(tmp_path / "back"): path for path in (tmp_path / "back").rglob("*")}
    assert there.keys() == back.keys()
    for name, path in there.items():
        assert path.lstat().st_mode == back[name].lstat().st_mode
        if path.is_file():
            assert path.read_bytes() == back[name].read_bytes()
    assert ballonet("exec", sandbox.name, "rm", "-rf", "/tmp/tree").returncode == 0


def test_a_copy_that_cannot_be_is_told(sandbox: Sandbox, ballonet: Call, tmp_path: Path) -> None:
    name = sandbox.name
    for words, said in (
        ((f"{name}:/nothing", str(tmp_path)), "No such file"),
        ((str(tmp_path / "no"), f"{name}:/tmp"), "does not exist on the host"),
        ((f"{name}:/etc/passwd", str(tmp_path / "no/x")), "does not exist on the host"),
        ((f"{name}:/dev/null", str(tmp_path)), "a device"),
    ):
        done = ballonet("cp", *words)
        assert done.returncode in (2, 125)
        assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
