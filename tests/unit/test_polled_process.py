"""A process in a guest without asyncio: the protocol of a guest played by hand, and the real agent."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ballonet.base.errors import ConfigError, GuestChannelError, GuestCommandError
from ballonet.guest.frames import FROM_HOST, MAX_TO_GUEST_BYTES, WINDOW_BYTES, Frame, FrameDecoder, FrameType
from ballonet.guest.messages import DEFAULT_ENVIRONMENT, Exec, encode_number
from ballonet.guest.polled_process import PolledProcess
from ballonet.host.identity import ProcessId
from ballonet.lifecycle.stop import kill, run_blocking
from tests.unit.agent_program import DEADLINE_S, READY, started_agent

STARTED = Frame(FrameType.STARTED, 1, encode_number(5))
EXITED = Frame(FrameType.EXIT, 1, bytes(8))


def request(*argv: str, stdin: bool = False) -> Exec:
    return Exec(argv=argv, env=DEFAULT_ENVIRONMENT, stdin=stdin)


class Guest:
    """The other end of a connection."""

    def __init__(self, *argv: str, stdin: bool = False) -> None:
        near, self.end = socket.socketpair()
        self.process = PolledProcess(near, request(*argv or ("cat",), stdin=stdin))
        self._decoder = FrameDecoder(FROM_HOST, MAX_TO_GUEST_BYTES)

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.end.sendall(frame.encode())
            self.process.receive()

    def received(self) -> list[Frame]:
        self.end.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return self._decoder.feed(self.end.recv(1 << 20))
        return []


@contextmanager
def guest(*argv: str, stdin: bool = False) -> Iterator[Guest]:
    played = Guest(*argv, stdin=stdin)
    with played.end, contextlib.closing(played.process):
        yield played


def until(process: PolledProcess, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        ready, _, _ = select.select([process], [process] if process.unsent else [], [], 1)
        process.flush()
        if ready:
            process.receive()


def test_the_real_agent_runs_a_command_with_input() -> None:
    with started_agent() as (line, _):
        process = PolledProcess(line.dup(), request("sh", "-c", "cat; exit 3", stdin=True))
        until(process, lambda: process.running)
        assert process.write_stdin(b"some input") == 10
        process.close_stdin()
        until(process, lambda: process.state.over)
        assert process.take_output(FrameType.STDOUT, 100) == b"some input"
        assert process.state.exit is not None
        assert process.state.exit.returncode == 3
        process.close()


def test_a_long_command_line_arrives_in_parts() -> None:
    word = "x" * 100_000
    with started_agent() as (line, _):
        process = PolledProcess(line.dup(), request("sh", "-c", "echo $#", "sh", *[word] * 10))
        until(process, lambda: process.state.over)
        assert process.take_output(FrameType.STDOUT, 100) == b"10\n"
        process.close()


def test_a_command_that_does_not_exist_is_told_apart() -> None:
    with started_agent() as (line, _):
        process = PolledProcess(line.dup(), request("no-such-command"))
        until(process, lambda: process.state.over)
        with pytest.raises(GuestCommandError) as failure:
            _ = process.running
        assert failure.value.missing
        process.close()


def test_an_impossible_request_is_refused_before_anything_is_sent() -> None:
    near, far = socket.socketpair()
    with near, far, pytest.raises(ConfigError, match="NUL"):
        PolledProcess(near, request("a\0b"))


def test_output_is_acknowledged_when_it_is_taken() -> None:
    with guest() as played:
        piece = bytes(60_000)
        played.send(READY, STARTED, *[Frame(FrameType.STDOUT, 1, piece)] * 2)
        played.received()
        assert played.process.take_output(FrameType.STDOUT, 1 << 20) == piece * 2
        (credit,) = played.received()
        assert (credit.kind, credit.payload) == (FrameType.CREDIT, encode_number(120_000))


def test_input_stops_at_the_window_and_goes_on_with_credit() -> None:
    with guest(stdin=True) as played:
        played.send(READY, STARTED)
        played.received()
        sent = 0
        while played.process.wants_stdin:
            sent += played.process.write_stdin(bytes(100_000))
            while played.process.unsent:
                played.received()
                played.process.flush()
        assert sent == WINDOW_BYTES
        played.send(Frame(FrameType.STDIN_CREDIT, 1, encode_number(10)))
        assert played.process.write_stdin(bytes(100)) == 10


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([STARTED], "first frame is STARTED, not READY"),
        ([READY, Frame(FrameType.PONG, 0)], "PONG frame without a request"),
        ([READY, Frame(FrameType.STARTED, 2, encode_number(5))], "stream 2, which does not exist"),
        ([READY, Frame(FrameType.STDOUT, 1, b"x")], "unexpected STDOUT frame"),
        ([READY, STARTED, *[Frame(FrameType.STDOUT, 1, bytes(60_000))] * 5], "exceeds the credit"),
    ],
)
def test_a_guest_that_breaks_the_protocol_ends_the_connection(frames: list[Frame], message: str) -> None:
    with guest() as played:
        played.send(*frames)
        assert played.process.lost is not None
        assert message in played.process.lost.message
        with pytest.raises(GuestChannelError):
            played.process.state.check_alive()


def test_the_end_of_the_guest_is_told() -> None:
    with guest() as played:
        played.send(READY, STARTED)
        played.received()
        played.end.close()
        played.process.receive()
        with pytest.raises(GuestChannelError, match="the guest closed the channel"):
            played.process.state.check_alive()


def test_a_process_that_runs_is_killed_when_it_is_closed_and_one_that_has_ended_is_not() -> None:
    for frames, signals in (([READY, STARTED], [FrameType.SIGNAL]), ([READY, STARTED, EXITED], [])):
        with guest() as played:
            played.send(*frames)
            played.received()
            played.process.close()
            assert [frame.kind for frame in played.received()] == signals


def test_a_process_is_waited_for_without_an_event_loop() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        process = ProcessId.of(child.pid)
        assert process is not None
        run_blocking(kill(process))
        assert not process.alive()
