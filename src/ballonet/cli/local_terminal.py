"""The terminal on standard input: whether there is one, its size, and its raw mode."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import struct
import sys
import termios
import tty
from collections.abc import Iterator

from ballonet.base.errors import ConfigError
from ballonet.cli.stdin_reader import check_stdin


def check_terminal(wanted: bool) -> None:
    """:raises ConfigError: a terminal is requested and standard input is not one."""
    if wanted and not os.isatty(0):
        raise ConfigError("-t requires a terminal as standard input", hint="omit -t")


def check_streams(options: argparse.Namespace) -> None:
    """Check that the standard streams allow ``-i`` and ``-t``.

    :raises ConfigError: a terminal is requested and standard input is not one, or standard input is not readable.
    """
    check_terminal(options.tty)
    if options.interactive:
        check_stdin()


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal on standard input; 24 by 80 if unknown."""
    try:
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 24, 80
    return rows or 24, cols or 80


@contextlib.contextmanager
def local_terminal(*, raw: bool) -> Iterator[None]:
    """Restore the local terminal's settings after the block.

    :param raw: switch it to raw mode during the block.
    """
    saved = termios.tcgetattr(0)
    try:
        if raw:
            tty.setraw(0)
        yield
    finally:
        sys.stdout.flush()
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
