"""A program on a terminal of its own, and what is on the screen when it has ended."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
from collections.abc import Mapping, Sequence

import pyte


def screen_after(
    argv: Sequence[str], env: Mapping[str, str], columns: int = 80, lines: int = 60
) -> list[str]:
    """Run it; the lines of the screen that have anything on them."""
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (lines, columns))
    with subprocess.Popen(
        argv, env={**env, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs
    ) as program:
        os.close(theirs)
        while True:
            try:
                stream.feed(os.read(ours, 4096))
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert program.returncode == 0
    return [line.rstrip() for line in screen.display if line.strip()]
