"""Attaches a guest command to this process's standard streams, signals and terminal.

Without asyncio, which takes longer to load than a short command runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError, StreamError
from ballonet.cli.caught_signals import ENDING, CaughtSignals, SignalledError
from ballonet.cli.local_terminal import check_streams, local_terminal, terminal_size
from ballonet.cli.stdin_reader import read_ready
from ballonet.cli.stdout_writer import ByteWriter
from ballonet.guest import messages
from ballonet.guest.frames import FrameType
from ballonet.guest.polled_process import PolledProcess
from ballonet.sdk.timeouts import GRACE_S, Timeout

if TYPE_CHECKING:
    from ballonet.lifecycle.image_settings import Settings

#: How long the command may run on after a signal was forwarded to it (seconds).
SIGNAL_GRACE_S = 10.0
#: After the command's ``--timeout``, how long writing its remaining output may take, in seconds: the exit must not wait
#: for a reader that has stopped.
LAST_OUTPUT_S = 0.5
_PIECE_BYTES = 64 << 10


class NotStartedError(GuestChannelError):
    """The connection to the guest was lost before the command was started."""

    def __init__(self, cause: GuestChannelError) -> None:
        super().__init__(cause.message, hint=cause.hint)
        self.cause = cause


@dataclass(frozen=True)
class Joined:
    """How a guest command is run and attached to the standard streams."""

    settings: Settings
    stdin: bool
    terminal: bool
    timeout: Timeout | None = None


def joined_from(options: argparse.Namespace, settings: Settings) -> Joined:
    """How a command with ``settings`` is attached according to the options.

    :raises ConfigError: as :func:`check_streams`.
    """
    check_streams(options)
    return Joined(settings, options.interactive, options.tty)


def run_joined(agent_socket: Path, argv: Sequence[str], joined: Joined, signals: CaughtSignals) -> int:
    """Run a guest command, attached to the standard streams, and return its exit status; 128+n if signal n made it
    necessary to kill it.

    With a terminal, its size follows the local one. With standard input, too, the local terminal is switched to raw
    mode, so that the command gets every key; without, Ctrl-C still interrupts this process.

    :raises GuestCommandError: the command cannot be started.
    :raises CommandTimeoutError: the command was killed at its ``--timeout``, or its output was not read until then.
    :raises NotStartedError: the connection to the guest was lost before the command was started.
    :raises GuestError: it was lost afterwards.
    """
    env = {**messages.DEFAULT_ENVIRONMENT, **joined.settings.env}
    if joined.terminal:
        env.setdefault("TERM", os.environ.get("TERM", "linux"))
    rows, cols = terminal_size() if joined.terminal else (24, 80)
    request = messages.Exec(
        argv=argv,
        env=env,
        cwd=joined.settings.cwd or "",
        user=joined.settings.user or "",
        make_cwd=joined.settings.make_cwd,
        tty=joined.terminal,
        rows=rows,
        columns=cols,
        stdin=joined.stdin,
    )
    try:
        connected = PolledProcess.connect(agent_socket, request)
    except GuestChannelError as error:
        raise NotStartedError(error) from error
    with contextlib.closing(connected) as process:
        try:
            return _Attached(process, joined, signals).run()
        except GuestChannelError as error:
            if process.state.pid is None:
                raise NotStartedError(error) from error
            raise


class _Output:
    """One output of the command, copied to a standard stream. A slow local reader slows the command down; if the reader
    goes away, the command is killed."""

    def __init__(self, process: PolledProcess, kind: FrameType, fd: int) -> None:
        self._process = process
        self._kind = kind
        self._fd = fd
        self._writer: ByteWriter | None = None
        self._unwritten = memoryview(b"")

    @property
    def waits(self) -> bool:
        """Whether the local reader must read before more can be written."""
        return bool(self._unwritten)

    def fileno(self) -> int:
        assert self._writer is not None
        return self._writer.fileno()

    def copy(self) -> bool:
        """Copy what can be copied now; returns whether the output is at its end.

        :raises BrokenPipeError: the local reader is gone.
        :raises StreamError: the stream cannot be written.
        """
        while self._unwritten or self._take():
            if self._writer is None:
                self._writer = ByteWriter(self._fd)
            try:
                self._unwritten = self._unwritten[self._writer.write_some(self._unwritten) :]
            except BlockingIOError:
                return False
        return self._process.state.over

    def _take(self) -> bool:
        self._unwritten = memoryview(self._process.take_output(self._kind, _PIECE_BYTES))
        return bool(self._unwritten)


class _Attached:
    """The command while it runs: one loop waits for everything that may happen."""

    def __init__(self, process: PolledProcess, joined: Joined, signals: CaughtSignals) -> None:
        self._process = process
        self._joined = joined
        self._signals = signals
        self._first_signal: signal.Signals | None = None
        self._outputs = [_Output(process, FrameType.STDOUT, 1), _Output(process, FrameType.STDERR, 2)]
        #: Standard input that was read and not sent; ``None``: nothing more is read.
        self._input: bytes | None = b"" if joined.stdin else None
        now = time.monotonic()
        self._expires_at = None if joined.timeout is None else now + joined.timeout.seconds
        #: When the guest must have reported the end of a command that was killed at its timeout.
        self._killed_by: float | None = None
        #: When the command is killed because of a signal, and when the rest of its output is dropped.
        self._gives_up_at: float | None = None
        self._drops_at: float | None = None

    def run(self) -> int:
        """See :func:`run_joined`."""
        try:
            self._start()
            with (
                local_terminal(raw=self._joined.stdin) if self._joined.terminal else contextlib.nullcontext()
            ):
                complete = self._copy()
        except SignalledError as signalled:
            return 128 + signalled.number
        state = self._process.state
        state.check_alive()
        assert state.exit is not None
        if self._joined.timeout is not None and not complete:
            raise self._joined.timeout.unread_error()
        return state.exit.returncode

    def _start(self) -> None:
        while not self._process.running:
            self._wait([self._expires_at])
            for number in self._signals.take():
                if number in ENDING:
                    raise SignalledError(number)
            if self._joined.timeout is not None and _reached(self._expires_at) and not self._process.running:
                raise self._joined.timeout.error()

    def _copy(self) -> bool:
        """Copy the streams until both outputs end. False: the command's ``--timeout`` passed before all of its output
        was read, and the rest is dropped."""
        state = self._process.state
        while True:
            ended = [output.copy() for output in self._outputs]
            if any(ended):
                state.check_alive()
            if all(ended):
                return True
            self._feed()
            self._expire()
            if _reached(self._drops_at):
                return False
            if not state.over or any(output.waits for output in self._outputs):  # it may be given up just now
                self._wait([self._next_expiry(), self._gives_up_at, self._drops_at])
            self._forward_signals()

    def _wait(self, deadlines: Sequence[float | None]) -> None:
        """Wait until something happens, or for the next of ``deadlines``; handle what the guest sent."""
        process = self._process
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if process.lost is None:
            poll.register(process, select.POLLIN | (select.POLLOUT if process.unsent else 0))
        for output in self._outputs:
            if output.waits:
                poll.register(output, select.POLLOUT)
        if self._input == b"" and process.wants_stdin and process.state.pid is not None:
            poll.register(0, select.POLLIN)
        now = time.monotonic()
        left = [max(deadline - now, 0) for deadline in deadlines if deadline is not None]
        # One millisecond more: poll(2) rounds down, and would return a little too early.
        ready = dict(poll.poll(min(left) * 1000 + 1 if left else None))
        if (events := ready.get(process.fileno(), 0)) & select.POLLOUT:
            process.flush()
        if events & ~select.POLLOUT:
            process.receive()
        if 0 in ready:
            self._read_input()

    def _read_input(self) -> None:
        """Read standard input. A read error is printed and ends the command's input."""
        try:
            self._input = read_ready()
        except BlockingIOError:  # another program has set O_NONBLOCK
            return
        except StreamError as error:
            from ballonet.cli.main import print_error

            print_error(error)
            self._input = b""
        if not self._input:
            self._input = None
            with suppress(GuestChannelError):
                self._process.close_stdin()

    def _feed(self) -> None:
        with suppress(GuestChannelError):
            while self._input and self._process.wants_stdin:
                self._input = self._input[self._process.write_stdin(self._input) :]

    def _expire(self) -> None:
        """Kill the command at its timeout; drop the rest of its output a little later."""
        state, timeout = self._process.state, self._joined.timeout
        if timeout is None or not _reached(self._expires_at):
            return
        if state.over:
            if self._drops_at is None:
                self._drops_at = time.monotonic() + LAST_OUTPUT_S
        elif self._killed_by is None:
            self._killed_by = time.monotonic() + GRACE_S
            self._process.give_up(timeout.error())
        elif _reached(self._killed_by):
            self._process.abandon()

    def _next_expiry(self) -> float | None:
        """When :meth:`_expire` has to be called next; after the end of the command, ``_drops_at`` counts."""
        if self._drops_at is not None:
            return None
        return self._expires_at if self._killed_by is None or self._process.state.over else self._killed_by

    def _forward_signals(self) -> None:
        """Forward the first signal; kill the command at the second one, or after a grace period."""
        for number in self._signals.take():
            if number == signal.SIGWINCH:
                if self._joined.terminal:
                    with suppress(GuestChannelError):
                        self._process.resize(*terminal_size())
            elif self._first_signal is not None:
                raise SignalledError(self._first_signal)
            else:
                self._first_signal = number
                self._gives_up_at = time.monotonic() + SIGNAL_GRACE_S
                self._process.send_signal(number)
        if self._first_signal is not None and _reached(self._gives_up_at):
            raise SignalledError(self._first_signal)


def _reached(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
