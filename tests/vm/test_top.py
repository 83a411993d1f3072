"""``ballonet top`` on a terminal of 80 and of 200 columns, as a person drives it: what is on the screen counts."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyte
import pytest

from ballonet.control.client import Client
from ballonet.memory import MIB
from ballonet.sandbox import Sandbox

TOP = [sys.executable, "-P", "-m", "ballonet", "top"]


class Terminal:
    """A program on a terminal of its own, and what it shows."""

    def __init__(self, columns: int, lines: int, *words: str, **env: str) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self._master, self.slave = pty.openpty()
        self._set_size(columns, lines)
        self.settings = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [*TOP, "--interval", "0.5", *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            # What others have exported does not count: only the terminal knows its size.
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "COLUMNS": "80", **env},
        )

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until the screen is as it should be."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"waited for {what}; the screen:\n{self.text}"
            self._read()

    def wait_end(self) -> int:
        self.wait(lambda: self.process.poll() is not None, "its end")
        while self._read():
            pass
        return self.process.returncode

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def row(self, name: str) -> str:
        return next((line for line in self.screen.display if line.startswith(name + " ")), "")

    def style(self, text: str) -> Any:
        """The character in which ``text`` begins on the screen."""
        y, line = next((y, line) for y, line in enumerate(self.screen.display) if text in line)
        return self.screen.buffer[y][line.index(text)]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        piece = os.read(self._master, 65536)
        self.written += piece
        self._stream.feed(piece)
        return True


@contextmanager
def terminal(columns: int, lines: int, *words: str, **env: str) -> Iterator[Terminal]:
    opened = Terminal(columns, lines, *words, **env)
    try:
        yield opened
    finally:
        opened.close()


def left_as_it_was(opened: Terminal) -> bool:
    """The line editing is back, and the screen that was there before (rmcup), with its cursor."""
    end = opened.written[-200:]
    return (
        termios.tcgetattr(opened.slave) == opened.settings
        and b"\x1b[?1049l" in end
        and (b"\x1b[?25h" in opened.written or b"\x1b[34h\x1b[?25h" in opened.written)
    )


def test_keys_grow_shrink_trim_and_sort_at_80_columns(sandbox: Sandbox, client: Client) -> None:
    with terminal(80, 24) as top:
        top.wait(lambda: "applied" in top.row("shared"), "the sandbox")
        assert " 1024   1024   1024 " in top.row("shared")
        assert "█" in top.row("shared") and "▒" in top.row("shared")
        assert top.style("shared").reverse, "the first is selected"
        assert "q quit" in top.screen.display[-1]
        assert all(word in top.text for word in ("ceiling  ", "target  ", "actual  ", "resident "))

        top.press("-")
        top.wait(lambda: "shared: target 896 MiB" in top.text, "the answer to -")
        top.wait(lambda: " 1024    896    896 " in top.row("shared"), "the shrink")
        assert "┃·" in top.row("shared")
        top.press("+")
        top.wait(lambda: " 1024   1024   1024 " in top.row("shared"), "the growth")
        top.press("+")
        top.wait(lambda: "the ceiling is in the way" in top.text, "the clamped growth")
        top.press("t")
        top.wait(lambda: "shared: the host got" in top.text, "the trim")

        assert top.style("NAME").reverse
        top.press(">")
        top.wait(lambda: top.style("CEIL").reverse, "another order")
        top.press("h")
        top.wait(lambda: "this help" in top.text, "help")

        top.resize(200, 40)
        top.wait(lambda: "GOTBACK" in top.text and "q quit" in top.screen.display[-1], "the wide table")
        top.resize(30, 8)
        top.wait(lambda: "NAME" in top.text and "…" in top.text, "the narrow one")
        top.press("q")
        assert top.wait_end() == 0
        assert left_as_it_was(top)


def test_at_200_columns_everything_is_there_and_a_signal_leaves_the_terminal_as_it_was(
    sandbox: Sandbox,
) -> None:
    with terminal(200, 40) as top:
        top.wait(lambda: "applied" in top.row("shared"), "the sandbox")
        for heading in (
            "CEIL",
            "TARGET",
            "ACTUAL",
            "RES",
            "AVAIL",
            "PSI%",
            "G.RAM",
            "FLOOR",
            "LIMIT",
            "PSS",
            "OOM",
        ):
            assert heading in top.text
        top.process.send_signal(signal.SIGTERM)
        assert top.wait_end() == 128 + signal.SIGTERM
        assert left_as_it_was(top)
    with terminal(80, 24) as top:
        top.wait(lambda: "shared" in top.text, "the sandbox")
        top.press("\x03")
        assert top.wait_end() == 130
        assert left_as_it_was(top)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "vt100"}])
def test_without_colour_nothing_is_lost(sandbox: Sandbox, env: dict[str, str]) -> None:
    with terminal(80, 24, **env) as top:
        top.wait(lambda: "applied" in top.row("shared"), "the sandbox")
        colours = {cell.fg for line in top.screen.buffer.values() for cell in line.values()}
        assert colours == {"default"}
        top.press("q")
        assert top.wait_end() == 0


def test_ascii_where_the_terminal_has_no_unicode(sandbox: Sandbox) -> None:
    # No xterm: the emulator that reads the screen here does not know its way to repeat a character.
    with terminal(80, 24, TERM="screen", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as top:
        top.wait(lambda: "applied" in top.row("shared"), "the sandbox")
        assert "##" in top.row("shared") and "==" in top.row("shared")
        assert top.text.isascii()
        top.press("q")
        assert top.wait_end() == 0


def test_once_and_json(sandbox: Sandbox) -> None:
    done = subprocess.run([*TOP, "--once"], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert any(line.startswith("shared ") for line in done.stdout.splitlines())
    document = json.loads(subprocess.run([*TOP, "--json"], capture_output=True, text=True, check=True).stdout)
    row = next(row for row in document["sandboxes"] if row["name"] == "shared")
    assert row["ceiling"] == 1024 * MIB
    assert row["unknown"] == {}
    assert document["host"]["committed"] >= 1024 * MIB


def test_a_terminal_that_cannot_show_it_is_told() -> None:
    for words, said in (([], "top needs a terminal"), (["--interval", "0"], "--interval 0 is outside")):
        done = subprocess.run([*TOP, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    with terminal(80, 24, TERM="no-such-terminal") as top:
        assert top.wait_end() == 125
        assert b"this terminal cannot show it" in top.written
        assert b"Traceback" not in top.written
