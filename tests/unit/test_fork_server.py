"""The server that forks the processes of sandboxes, and when a program has one. The sandboxes here have invalid flags:
their processes say so and end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.base.process import clean_environment
from ballonet.machine import served_process
from ballonet.machine.fork_server import PACKET_BYTES
from ballonet.machine.served_process import ForkServer, ServedChild, expect_starts, server_for_start

pytestmark = pytest.mark.long

WAIT_S = 30.0
WORDS = [sys.executable, "-P", "-m", "ballonet", "sandbox", "--owner-fd", "3", "--no-such-flag"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer()
    wait_until(lambda: made.ready)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(served_process, "_server", None)
    monkeypatch.setattr(served_process, "_starts", 0)
    yield
    if served_process._server is not None:
        served_process._server.close()


def begin(server: ForkServer, log: Path, **env: str) -> ServedChild:
    near, far = socket.socketpair()
    with near, far, log.open("wb") as file:
        return server.begin(WORDS, clean_environment(env), far.fileno(), file.fileno())


def test_a_process_runs_what_was_asked_and_its_status_is_known(server: ForkServer, tmp_path: Path) -> None:
    children = [begin(server, tmp_path / str(number)) for number in range(3)]
    assert [child.wait() for child in children] == [2, 2, 2]
    for number in range(3):
        assert "--no-such-flag" in (tmp_path / str(number)).read_text()
    assert children[0].poll() == 2
    children[0].kill()  # it has ended: nothing happens
    assert [child.pidfd for child in children] == [-1] * 3
    assert server._statuses == {}, "nothing is kept of them"


def test_nothing_is_kept_of_a_process_that_is_not_followed(server: ForkServer, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    child = begin(server, tmp_path / "log")
    pid = child.pid
    child.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert begin(server, tmp_path / "log").wait() == 2
    assert server._statuses == {}
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_server_that_is_killed_forks_no_more_and_another_one_is_started(tmp_path: Path) -> None:
    expect_starts()
    first = served_process._server
    assert first is not None
    wait_until(lambda: first.ready)
    os.kill(first._process.pid, signal.SIGKILL)
    first._process.wait()
    with pytest.raises(HostError):
        begin(first, tmp_path / "log")
    assert first.status_of(1) == served_process._UNKNOWN_STATUS
    expect_starts()
    second = served_process._server
    assert second is not None
    assert second is not first
    wait_until(lambda: second.ready)
    assert begin(second, tmp_path / "log").wait() == 2


def test_the_first_start_has_no_server_and_no_start_waits_for_one() -> None:
    assert server_for_start() is None
    assert served_process._server is None, "a program that starts one sandbox needs none"
    server_for_start()
    made = served_process._server
    assert made is not None
    wait_until(lambda: made.ready)
    assert server_for_start() is made


def test_a_program_that_has_changed_gets_another_server(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.usable
    monkeypatch.chdir(tmp_path)
    assert not server.usable
    monkeypatch.undo()
    assert server.usable
    before = os.umask(0o027)
    try:
        assert not server.usable
    finally:
        os.umask(before)


def test_a_forked_program_has_a_server_of_its_own(tmp_path: Path) -> None:
    expect_starts()
    made = served_process._server
    assert made is not None
    wait_until(lambda: made.ready)
    child = os.fork()
    if child == 0:
        good = served_process._server is None and server_for_start() is None
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert begin(made, tmp_path / "log").wait() == 2, "the parent's still works"


def test_a_request_that_is_too_long_is_refused_and_the_next_one_is_served(
    server: ForkServer, tmp_path: Path
) -> None:
    with pytest.raises(HostError, match="bytes"):
        begin(server, tmp_path / "log", LONG="x" * PACKET_BYTES)
    with contextlib.suppress(HostError):  # below the limit of packets, but beyond what the kernel takes
        begin(server, tmp_path / "log", LONG="x" * (PACKET_BYTES - 30_000)).wait()
    assert begin(server, tmp_path / "log").wait() == 2


def test_a_server_ends_with_its_program(server: ForkServer) -> None:
    server.close()
    assert server._process.wait(WAIT_S) == 0
