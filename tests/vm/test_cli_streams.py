"""Commands in a guest with standard streams as callers leave them: closed, full, slow, gone."""

from __future__ import annotations

import array
import fcntl
import io
import os
import signal
import subprocess
import sys
import tarfile
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.guest.bundle import GuestBundle
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from tests.vm.processes import wait_until
from tests.vm.terminal import terminal

Call = Callable[..., subprocess.CompletedProcess[str]]
EXEC = [sys.executable, "-P", "-m", "ballonet", "exec"]


def shell(redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *EXEC, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_closed_descriptors_of_exec(sandbox: Sandbox) -> None:
    script = ["sh", "-c", "cat; echo out; echo err >&2"]
    done = shell("<&-", "-i", sandbox.name, *script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")
    done = shell(">&-", sandbox.name, *script)
    assert (done.returncode, done.stderr) == (0, "err\n")
    done = shell("2>&-", sandbox.name, *script)
    assert (done.returncode, done.stdout) == (0, "out\n")
    assert shell("<&- >&- 2>&-", sandbox.name, "sh", "-c", "exit 7").returncode == 7


def test_a_full_disk_ends_the_command_and_is_told(sandbox: Sandbox) -> None:
    done = shell(">/dev/full", sandbox.name, "yes")
    assert done.returncode == 125
    assert done.stderr == "ballonet: error: standard output: No space left on device\n"
    assert shell("2>/dev/full", sandbox.name, "sh", "-c", "echo x >&2").returncode == 125


def test_a_directory_as_input_is_refused(sandbox: Sandbox) -> None:
    """By Python itself, with its own status: it starts no program like that."""
    done = shell("</tmp", "-i", sandbox.name, "cat")
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "is a directory" in done.stderr
    done = shell("0>/dev/null", "-i", sandbox.name, "cat")
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is not open for reading" in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_every_byte_arrives_in_a_pipe_that_does_not_block(sandbox: Sandbox, stream: str) -> None:
    script = "head -c 2000000 /dev/zero" + (" >&2" if stream == "stderr" else "")
    read, write = os.pipe()
    os.set_blocking(write, False)
    out, err = (write, subprocess.DEVNULL) if stream == "stdout" else (subprocess.DEVNULL, write)
    with subprocess.Popen([*EXEC, sandbox.name, "sh", "-c", script], stdout=out, stderr=err) as process:
        os.close(write)
        got = 0
        while data := os.read(read, 4096):
            got += len(data)
    os.close(read)
    assert (process.returncode, got) == (0, 2_000_000)


async def test_a_reader_that_goes_away_ends_the_command(sandbox: Sandbox) -> None:
    with subprocess.Popen([*EXEC, sandbox.name, "yes", "gone"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"gone\n"
        process.stdout.close()
    assert process.returncode == 141
    script = "while pgrep -f 'yes gone' >/dev/null; do sleep 0.1; done"
    assert (await sandbox.exec(["sh", "-c", script])).returncode == 0


def test_a_signal_is_heard_while_the_reader_is_slow(sandbox: Sandbox) -> None:
    process = subprocess.Popen([*EXEC, sandbox.name, "yes"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"y\n"
    process.send_signal(signal.SIGTERM)  # passed on
    process.send_signal(signal.SIGTERM)  # given up
    wait_until(lambda: process.poll() is not None, "exec has ended")
    process.stdout.close()
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("command", "status"), [("no-such-thing", 127), ("/etc/passwd", 126)])
def test_a_detached_command_that_cannot_start_has_the_documented_status(
    ballonet: Call, command: str, status: int
) -> None:
    done = ballonet("run", "-d", "--name", "cannot", "--", command)
    assert (done.returncode, done.stdout) == (status, "")
    assert command in done.stderr
    with Registry.open() as registry:
        assert registry.find("cannot") is None


async def test_the_built_in_root_is_roots_alone_has_a_size_and_its_wget_keeps_time(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    assert (await sandbox.exec(["stat", "-c", "%a %U", "/"])).stdout == b"755 root\n"
    shown = (await sandbox.exec(["df", "/"])).stdout.decode().splitlines()
    assert (shown[1].split()[0], shown[1].split()[-1]) == ("tmpfs", "/")
    script = "mkdir -p /tmp/www; echo page >/tmp/www/f; httpd -p 127.0.0.1:8081 -h /tmp/www"
    assert (await sandbox.exec(["sh", "-c", script])).returncode == 0
    for options in (["-T", "30"], ["-qT30"], ["-q"]):
        done = await sandbox.exec(["wget", *options, "-O-", "http://127.0.0.1:8081/f"])
        assert (done.returncode, done.stdout) == (0, b"page\n")


def test_a_disk_with_the_built_in_root_is_mounted(ballonet: Call) -> None:
    done = ballonet("run", "--disk", "100M", "--", "sh", "-c", "df /disk | tail -n 1 && echo x >/disk/x")
    assert done.returncode == 0
    assert done.stdout.split()[-1] == "/disk"


@pytest.mark.parametrize("merged", [False, True])
def test_a_timeout_is_kept_though_nobody_reads_the_output(sandbox: Sandbox, merged: bool) -> None:
    """Standard error may lead into the same full pipe."""
    reader, writer = os.pipe()
    words = [*EXEC, "--timeout", "1", sandbox.name, "yes"]
    with (
        os.fdopen(reader, "rb") as unread,
        subprocess.Popen(words, stdout=writer, stderr=writer if merged else subprocess.PIPE) as program,
    ):
        os.close(writer)
        assert program.wait(timeout=100) == 124  # while the pipe is full
        assert unread.read(4) == b"y\ny\n"
        if program.stderr is not None:
            assert b"did not end within its timeout of 1 s" in program.stderr.read()


def test_a_timeout_is_kept_though_the_output_of_a_command_that_has_ended_is_not_read(
    sandbox: Sandbox,
) -> None:
    """As with timeout(1), where the command itself would wait for the reader."""
    reader, writer = os.pipe()
    words = [*EXEC, "--timeout", "2", sandbox.name, "head", "-c", "200000", "/dev/zero"]
    with (
        os.fdopen(reader, "rb") as unread,
        subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE) as program,
    ):
        os.close(writer)
        assert program.wait(timeout=100) == 124
        assert program.stderr is not None
        assert b"the output of the command was not read within its timeout of 2 s" in program.stderr.read()
        assert unread.read(4) == bytes(4)


def test_a_timeout_drops_nothing_that_a_slow_reader_still_takes(sandbox: Sandbox) -> None:
    script = ["sh", "-c", "head -c 200000 /dev/zero; echo end; exec sleep 600"]
    with subprocess.Popen(
        [*EXEC, "--timeout", "2", sandbox.name, *script], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.read() == bytes(200000) + b"end\n"
        assert program.wait(timeout=100) == 124


def test_ctrl_c_is_heard_with_a_terminal_that_takes_no_input(sandbox: Sandbox) -> None:
    """With -t and without -i, as docker exec does."""
    script = "stty size; echo begun; exec sleep 1000"
    with terminal(90, 20, sandbox.name, "sh", "-c", script, argv=[*EXEC, "-t"]) as shown:
        shown.wait(lambda: "20 90" in shown.text and "begun" in shown.text, "the command")
        shown.press("\x03")
        assert shown.wait_end() == 130


def test_an_input_that_does_not_block_is_copied_whole(sandbox: Sandbox, tmp_path: Path) -> None:
    stream = tmp_path / "stream.tar"
    with tarfile.open(stream, "w") as tar:
        member = tarfile.TarInfo("nonblocking")
        member.size = 300_000
        tar.addfile(member, io.BytesIO(bytes(300_000)))
    read, write = os.pipe()
    os.set_blocking(read, False)
    with subprocess.Popen(
        [*EXEC[:-1], "cp", "-", f"{sandbox.name}:/tmp"], stdin=read, stderr=subprocess.PIPE
    ) as process:
        os.close(read)
        assert process.stderr is not None
        with os.fdopen(write, "wb", buffering=0) as pipe:
            data = stream.read_bytes()
            for at in range(0, len(data), 20_000):
                pipe.write(data[at : at + 20_000])
                # Nothing more comes before all of it was read: the pipe is empty, and not at its end.
                left = array.array("i", [1])
                while left[0] > 0 and process.poll() is None:
                    fcntl.ioctl(pipe, termios.FIONREAD, left)
        assert process.wait() == 0, process.stderr.read()
    done = shell("", sandbox.name, "wc", "-c", "/tmp/nonblocking")
    assert done.stdout.split() == ["300000", "/tmp/nonblocking"]
    shell("", sandbox.name, "rm", "/tmp/nonblocking")


def test_a_file_of_the_kernel_is_written_to_by_cp(ballonet: Call, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "name").write_text("renamed\n")
    done = ballonet("cp", str(tmp_path / "name"), f"{sandbox.name}:/proc/sys/kernel/hostname")
    assert (done.returncode, done.stderr) == (0, "")
    assert shell("", sandbox.name, "hostname").stdout == "renamed\n"


def test_an_empty_command_is_named(sandbox: Sandbox) -> None:
    done = shell("", sandbox.name, "")
    assert done.returncode == 127
    assert done.stderr.startswith("ballonet: error: '' could not be started")


def test_a_watch_says_why_the_sandbox_is_gone(guest: GuestBundle, run_directory: Path) -> None:
    words = ["run", "-d", "--rm", "--name", "watched", "--memory", "160M"]
    subprocess.run([*EXEC[:-1], *words], check=True)
    watch = [*EXEC[:-1], "balloon", "watch", "watched"]
    with subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "target 160 MiB" in process.stdout.readline()
        subprocess.run([*EXEC[:-1], "stop", "watched"], check=True)
        assert process.wait() == 125
        assert process.stderr.read().startswith("ballonet: error: ")


def test_a_dry_run_of_the_pilot_says_each_thing_once(ballonet: Call, sandbox: Sandbox) -> None:
    done = ballonet("pilot", "--dry-run", "--ticks", "1", "--only", sandbox.name)
    assert done.stdout.count("stays at") == 1, done.stdout
