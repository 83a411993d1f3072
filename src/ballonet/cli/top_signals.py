"""How ``ballonet top`` hears signals, ends, and gives the terminal back, whatever its threads are doing.

No handler raises: an exception that is raised at any moment may be raised in a finalizer, where Python drops it, and
then Ctrl-C is lost. A handler notes the signal and rings a bell that the main loop waits for. If that loop does not
come round in time (a terminal that takes no more output holds it in a write), a thread ends the process instead.
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

#: These end it. Ctrl-\ is among them: its default would leave the terminal as it is.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: How long the main loop may take to see a signal that ends it, and the terminal to take its last output (seconds).
_GRACE_S = 1.0
_LAST_WORDS_S = 0.5
#: So much of what was written to standard error meanwhile is shown at the end (bytes).
_MOST_ERRORS = 8192


class Bell:
    """Wakes a thread that polls :attr:`fd`. May be rung by any thread and in a signal handler."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def handle(self) -> int:
        """To write a byte to is to ring."""
        return self._write

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._write, b"\0")

    def silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass


class Terminal:
    """The terminal's settings from before, and the way back to them. Knows nothing of what is shown."""

    def __init__(self) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        #: Written to leave the full screen; empty while it is not shown.
        self.farewell = b""
        self.remember()
        self._errors: tuple[int, int] | None = None

    def remember(self) -> None:
        """The settings as they are now are those to go back to."""
        self._settings = termios.tcgetattr(self._in)

    def hold_errors(self) -> None:
        """Keep what is written to standard error, such as log lines, off the screen until it is given back."""
        if os.isatty(2):
            self._errors = os.dup(2), os.memfd_create("errors")
            os.dup2(self._errors[1], 2)

    def is_ours(self) -> bool:
        """Whether we are its foreground job, which alone may draw."""
        try:
            return os.tcgetpgrp(self._in) == os.getpgrp()
        except OSError:
            return True  # it is gone, which reading from it will tell

    def restore(self) -> None:
        """Give it back, within bounded time even if it takes no output. Nothing can be shown afterwards."""
        farewell, self.farewell = self.farewell, b""
        if self._errors is not None:
            before, held = self._errors
            self._errors = None
            os.dup2(before, 2)
            size = os.fstat(held).st_size
            farewell += os.pread(held, _MOST_ERRORS, max(0, size - _MOST_ERRORS)).replace(b"\n", b"\r\n")
        if not farewell:
            return
        out = os.dup(self._out)
        # A write that another thread begins from here on must not come after the farewell.
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self._out)
        writer = threading.Thread(target=_write, args=(out, farewell), daemon=True)
        writer.start()
        writer.join(_LAST_WORDS_S)
        with contextlib.suppress(termios.error):
            if writer.is_alive():
                termios.tcflush(out, termios.TCOFLUSH)
                writer.join(_LAST_WORDS_S)
            # From the background, the kernel stops whoever sets a terminal and does not block this.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            termios.tcsetattr(self._in, termios.TCSANOW, self._settings)


class Signals:
    """Hears signals from now on, in the main thread's place.

    :attr:`status` is the exit status once a signal has ended it, else ``None``; :attr:`bell` rings at any of them.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.bell = Bell()
        self.status: int | None = None
        self._terminal = terminal
        self._leaving = threading.Lock()
        self._others: set[int] = set()
        #: Python's own handler in C writes each signal's number here at once, whatever the main thread does.
        self._heard = Bell()
        signal.set_wakeup_fd(self._heard.handle, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        for number in ENDING:
            # One that was started with nohup goes on without its terminal until it reads from it.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._end_soon)

    def hear(self, *numbers: signal.Signals) -> None:
        """Hear these, too; :meth:`taken` tells of them."""
        for number in numbers:
            signal.signal(number, self._note)

    def taken(self, number: signal.Signals) -> bool:
        """Whether ``number`` has come since this was last asked."""
        came = number in self._others
        self._others.discard(number)
        return came

    def leave(self, status: int) -> NoReturn:
        """End the process, with the terminal given back.

        Threads that wait for a sandbox that is stuck are not waited for: the interpreter's own end could be held up by
        what they hold.
        """
        if self._leaving.acquire(timeout=2 * _LAST_WORDS_S + _GRACE_S):
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
        os.set_blocking(self._heard.fd, True)
        number = 0
        while number not in ENDING:
            (number,) = os.read(self._heard.fd, 1)
        time.sleep(_GRACE_S)
        # Still here: the main thread does not come round, and may not even have run its handler.
        self.leave(128 + number)


def _write(fd: int, words: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        while words:
            words = words[os.write(fd, words) :]
