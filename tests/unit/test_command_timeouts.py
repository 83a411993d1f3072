"""A command's ``--timeout`` with the real agent, and a reader of standard output that has stopped."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ballonet.base.errors import CommandTimeoutError
from ballonet.cli.attach import Joined, run_joined
from ballonet.cli.caught_signals import CaughtSignals
from ballonet.cli.stdout_writer import ByteWriter
from ballonet.guest.messages import Exec
from ballonet.guest.polled_process import PolledProcess
from ballonet.lifecycle.image_settings import Settings
from ballonet.sdk.timeouts import Timeout
from tests.unit.agent_program import started_agent

SETTINGS = cast(Settings, SimpleNamespace(env={}, cwd=None, user=None, make_cwd=False))


def run_unread(monkeypatch: pytest.MonkeyPatch, script: str, timeout: str) -> int:
    with started_agent() as (line, _), CaughtSignals() as signals:
        monkeypatch.setattr(PolledProcess, "connect", lambda _, request: _connected(line, request))
        joined = Joined(SETTINGS, stdin=False, terminal=False, timeout=Timeout.parse(timeout))
        return run_joined(Path("unused"), ["sh", "-c", script], joined, signals)


def _connected(line: socket.socket, request: Exec) -> PolledProcess:
    return PolledProcess(line.dup(), request)


@pytest.fixture
def stopped_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a pipe that is full and is not read."""
    _unread, write = os.pipe2(os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    monkeypatch.setattr("ballonet.cli.attach.ByteWriter", lambda _: ByteWriter(write))


@pytest.mark.usefixtures("stopped_reader")
def test_a_command_that_ended_in_time_does_not_wait_for_its_reader_beyond_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CommandTimeoutError) as failure:
        run_unread(monkeypatch, "echo out", "0.5")
    assert failure.value.message == "the output of the command was not read within its timeout of 0.5 s"


@pytest.mark.usefixtures("stopped_reader")
def test_a_command_that_waits_for_its_reader_is_killed_at_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(CommandTimeoutError) as failure:
        run_unread(monkeypatch, "exec yes", "0.5")
    assert failure.value.message == "the command did not end within its timeout of 0.5 s and was killed"


def test_a_command_that_ended_in_time_has_its_own_status(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_unread(monkeypatch, "echo out; exit 3", "30") == 3
    assert capfd.readouterr().out == "out\n"
