"""Commands in a guest with standard streams as callers leave them: closed, full, slow, gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ballonet.registry.registry import Registry
from ballonet.sandbox import Sandbox
from tests.vm.processes import wait_until

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


def test_a_timeout_drops_nothing_that_a_slow_reader_still_takes(sandbox: Sandbox) -> None:
    script = ["sh", "-c", "head -c 200000 /dev/zero; echo end; exec sleep 600"]
    with subprocess.Popen(
        [*EXEC, "--timeout", "2", sandbox.name, *script], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.read() == bytes(200000) + b"end\n"
        assert program.wait(timeout=100) == 124
