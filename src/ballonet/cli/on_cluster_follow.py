"""Runs a command of a sandbox on another host with this program's standard streams, signals and terminal."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import threading
from typing import Any

from ballonet.base.errors import BallonetError, StreamError
from ballonet.cli.caught_signals import CaughtSignals
from ballonet.cli.command_options import defaults_from, timeout_from
from ballonet.cli.local_terminal import check_streams, local_terminal, terminal_size
from ballonet.cli.standard_streams import write_all

#: How often it is looked whether the outputs have ended (seconds). Signals are handled at once.
_LOOK_S = 0.2


def follow(box: Any, argv: list[str], options: argparse.Namespace) -> int:
    """Run a command, and return its exit status; 128+n if a second signal made it necessary to end it.

    With a terminal, its size follows the local one; with standard input, too, the command gets every key.

    :raises BallonetError: the command cannot be started, or its host was lost.
    """
    check_streams(options)
    said, timeout = defaults_from(options), timeout_from(options)
    env = dict(said.env or {})
    rows, cols = (24, 80)
    if options.tty:
        env.setdefault("TERM", os.environ.get("TERM", "linux"))
        rows, cols = terminal_size()
    process = box.exec_stream(
        argv,
        env=env,
        cwd=said.cwd,
        user=said.user,
        stdin=options.interactive,
        tty=options.tty,
        rows=rows,
        cols=cols,
        timeout=None if timeout is None else timeout.seconds,
    )
    with CaughtSignals() as signals, process:
        sys.stdout.flush()
        with local_terminal(raw=options.interactive) if options.tty else contextlib.nullcontext():
            return _Followed(process, signals, terminal=options.tty).run(feed=options.interactive)


class _Followed:
    def __init__(self, process: Any, signals: CaughtSignals, *, terminal: bool) -> None:
        self._process = process
        self._signals = signals
        self._terminal = terminal
        self._problems: list[BallonetError | OSError] = []
        self._first: signal.Signals | None = None

    def run(self, *, feed: bool) -> int:
        copying = [
            threading.Thread(target=self._copy, args=one, daemon=True)
            for one in (("stdout", 1), ("stderr", 2))
        ]
        for thread in copying:
            thread.start()
        if feed:
            threading.Thread(target=self._feed, daemon=True).start()
        while any(thread.is_alive() for thread in copying):
            select.select([self._signals], [], [], _LOOK_S)
            for number in self._signals.take():
                if number == signal.SIGWINCH:
                    if self._terminal:
                        with contextlib.suppress(BallonetError):
                            self._process.resize(*terminal_size())
                elif self._first is not None:
                    return 128 + self._first
                else:
                    self._first = number
                    with contextlib.suppress(BallonetError):
                        self._process.send_signal(int(number))
        if self._problems:
            raise self._problems[0]
        return int(self._process.wait())

    def _copy(self, output: str, fd: int) -> None:
        try:
            while piece := self._process.read(output):
                write_all(fd, piece)
        except (BallonetError, StreamError, OSError) as error:
            self._problems.append(error)
            with contextlib.suppress(BallonetError):
                self._process.close()

    def _feed(self) -> None:
        try:
            while piece := os.read(0, 64 << 10):
                self._process.write_stdin(piece)
            self._process.close_stdin()
        except (BallonetError, OSError):
            pass  # the command has ended, or reads no more
