"""Signal handling and exit of ``ballonet top``: the terminal is restored whatever the threads are doing.

No handler raises an exception: one raised inside a finalizer would be dropped by Python, and Ctrl-C would be lost. A
handler records the signal and wakes the main loop. If the main loop does not react in time, because it is blocked in a
write to a stalled terminal, a thread ends the process instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import time
import types
from typing import NoReturn

#: Signals that end the program. SIGQUIT (Ctrl-\) is among them because its default would not restore the terminal.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: How long the main loop may take to react to a signal, and the terminal to accept the last output (seconds).
_GRACE_S = 1.0
_LAST_OUTPUT_S = 0.5
#: How much of the text that was written to standard error meanwhile is shown at exit (bytes).
_MAX_ERRORS = 8192


class Bell:
    """Wakes a thread that polls :attr:`fd`. Any thread or signal handler may ring it."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def write_fd(self) -> int:
        """The descriptor for :func:`signal.set_wakeup_fd`: a byte written to it rings the bell."""
        return self._write

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the bell rings already
            os.write(self._write, b"\0")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass


class Terminal:
    """Saves and restores the terminal's settings. Independent of curses."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        #: The escape sequences that leave full-screen mode; empty while it is not active.
        self.leave_sequence = b""
        self.remember()
        self._errors: tuple[int, int] | None = None

    def remember(self) -> None:
        """Save the current settings as those to restore."""
        self._settings = termios.tcgetattr(self._in)

    def hold_errors(self) -> None:
        """Buffer what is written to standard error, such as log lines, until the terminal is restored."""
        if os.isatty(2):
            self._errors = os.dup(2), os.memfd_create("errors")
            os.dup2(self._errors[1], 2)

    def is_foreground(self) -> bool:
        """Whether this process is in the terminal's foreground process group, which alone may draw."""
        try:
            return os.tcgetpgrp(self._in) == os.getpgrp()
        except OSError:
            return True  # the terminal is gone; the next read reports that

    def restore(self) -> None:
        """Restore the terminal, within bounded time even if it is stalled. Nothing can be shown afterwards."""
        last_output, self.leave_sequence = self.leave_sequence, b""
        if self._errors is not None:
            before, held = self._errors
            self._errors = None
            os.dup2(before, 2)
            size = os.fstat(held).st_size
            last_output += os.pread(held, _MAX_ERRORS, max(0, size - _MAX_ERRORS)).replace(b"\n", b"\r\n")
        if not last_output:
            return
        out = os.dup(self._out)
        # Later writes by other threads must not reach the restored terminal.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self._out)
        writer = threading.Thread(target=_write, args=(out, last_output), daemon=True)
        writer.start()
        writer.join(_LAST_OUTPUT_S)
        with contextlib.suppress(termios.error):
            if writer.is_alive():
                termios.tcflush(out, termios.TCOFLUSH)
                writer.join(_LAST_OUTPUT_S)
            # Without this, the kernel stops a background process that changes the terminal's settings.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            termios.tcsetattr(self._in, termios.TCSANOW, self._settings)


class Signals:
    """Handles signals from its creation on.

    :attr:`status` is the exit status once a signal has requested the end, else ``None``; :attr:`bell` rings at every
    signal.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.bell = Bell()
        self.status: int | None = None
        self._terminal = terminal
        self._leaving = threading.Lock()
        self._others: set[int] = set()
        #: Python's C-level handler writes each signal's number here, even while the main thread is blocked.
        self._wakeup = Bell()
        signal.set_wakeup_fd(self._wakeup.write_fd, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        for number in ENDING:
            # Under nohup, SIGHUP stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._end_soon)

    def handle(self, *numbers: signal.Signals) -> None:
        """Handle these signals, too; query them with :meth:`taken`."""
        for number in numbers:
            signal.signal(number, self._note)

    def taken(self, number: signal.Signals) -> bool:
        """Whether ``number`` was received since the last call."""
        if number not in self._others:
            return False  # one that comes from now on is for the next call: it must not be discarded
        self._others.discard(number)
        return True

    def leave(self, status: int) -> NoReturn:
        """Restore the terminal and end the process.

        The interpreter's normal exit is skipped: it could be blocked by threads that wait for a stuck sandbox.
        """
        if self._leaving.acquire(timeout=2 * _LAST_OUTPUT_S + _GRACE_S):
            self._terminal.restore()
        os._exit(status)

    def _end_soon(self, number: int, frame: types.FrameType | None) -> None:
        if self.status is None:
            self.status = 128 + number
        self.bell.ring()

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._others.add(number)
        self.bell.ring()

    def _watch(self) -> None:
        os.set_blocking(self._wakeup.fd, True)
        number = 0
        while number not in ENDING:
            (number,) = os.read(self._wakeup.fd, 1)
        time.sleep(_GRACE_S)
        # The process still runs: the main thread is blocked, and may not even have run its handler.
        self.leave(128 + number)


def _write(fd: int, words: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        while words:
            words = words[os.write(fd, words) :]
