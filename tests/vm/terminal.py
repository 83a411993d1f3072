"""A program on a terminal of its own, read by a terminal's emulator: what is on the screen counts."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

import pyte

TOP = [sys.executable, "-P", "-m", "ballonet", "top"]
#: The longest wait for anything (seconds).
LIMIT_S = 60.0


class Terminal:
    """A program on a terminal, and what it shows."""

    def __init__(
        self,
        columns: int,
        lines: int,
        argv: Sequence[str],
        env: Mapping[str, str],
        ignored: Sequence[int] = (),
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._master, self.slave = pty.openpty()
        self._set_size(columns, lines)
        self.settings = termios.tcgetattr(self.slave)

        def begin() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # whoever started us may have ignored it
            for told in ignored:
                signal.signal(told, signal.SIG_IGN)

        self.process = subprocess.Popen(
            argv,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=begin,
            # What others have exported does not count: only the terminal knows its size.
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLUMNS": "80", **env},
        )

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until the screen is as it should be. A frame may come in pieces: all that is looked for belongs into one
        condition."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}; the screen:\n{self.text}"
            self.read()

    def wait_end(self) -> int:
        """Its exit status, as Popen has it; all that it wrote has been read."""
        self.wait(lambda: self.process.poll() is not None, "its end")
        while self.read(0):
            pass
        return self.process.returncode

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def row(self, name: str) -> str:
        """The table's row of that sandbox, without the pointer; empty if it is not there."""
        return next((line[1:] for line in self.screen.display if line[1:].startswith(name + " ")), "")

    def styles(self, line: str) -> list[Any]:
        """The characters of the first line of the screen that has this text in it; empty if there is none."""
        for y, shown in enumerate(self.screen.display):
            if line in shown:
                return [self.screen.buffer[y][x] for x in range(self.screen.columns)]
        return []

    def reverse(self, text: str) -> bool:
        """Whether ``text`` is on the screen and begins in reverse."""
        for y, line in enumerate(self.screen.display):
            if text in line:
                return bool(self.screen.buffer[y][line.index(text)].reverse)
        return False

    def given_back(self) -> bool:
        """The line editing is back, and the screen that was there before, with its cursor and keypad."""
        modes = ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"), (b"\x1b[?1h", b"\x1b[?1l"))
        return termios.tcgetattr(self.slave) == self.settings and all(
            self.written.rfind(on) <= self.written.rfind(off) for on, off in modes
        )

    def fill(self) -> None:
        """Write to the terminal until it takes no more. What then writes to it waits until somebody reads."""
        out = os.open(os.ttyname(self.slave), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                while True:
                    os.write(out, b"." * 1024)
            with suppress(BlockingIOError):
                while True:
                    os.write(out, b".")
        finally:
            os.close(out)

    def hang_up(self) -> None:
        """The terminal is gone, as when its window is closed."""
        os.close(self.slave)
        os.close(self._master)
        self._master = self.slave = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self._master, self.slave):
            if fd >= 0:
                os.close(fd)

    def read(self, timeout_s: float = 0.1) -> bool:
        """Take what is written within this time; whether there was something."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        self.written += piece
        self._stream.feed(piece)
        return True

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def terminal(
    columns: int,
    lines: int,
    *words: str,
    argv: Sequence[str] = (*TOP, "--interval", "0.5"),
    ignored: Sequence[int] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Terminal]:
    """``ballonet top``, or another program, on a terminal of this size."""
    opened = Terminal(columns, lines, [*argv, *words], env, ignored)
    try:
        yield opened
    finally:
        opened.close()
