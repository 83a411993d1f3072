"""The interactive part of ``ballonet top``: the screen and the keys, through curses.

:mod:`ballonet.cli.top_view` renders the content, :mod:`ballonet.cli.top_signals` handles signals, and
:mod:`ballonet.cli.top_workers` queries the sandboxes.
"""

from __future__ import annotations

import contextlib
import curses
import os
import queue
import re
import select
import signal
import sys
from dataclasses import replace
from typing import NoReturn

from ballonet.base.errors import HostError
from ballonet.cli.top_bars import ASCII, Glyphs
from ballonet.cli.top_signals import Signals, Terminal
from ballonet.cli.top_source import Source
from ballonet.cli.top_view import View, order, render, selected_line
from ballonet.cli.top_workers import Actor, Collector

#: The codes of arrow keys begin with an escape; a byte that comes later than this is a separate key (milliseconds).
_ESCAPE_MS = 200
#: How often a background job checks whether it is in the foreground again: a shell's 'fg' sends no signal to a running
#: job (milliseconds).
_BACKGROUND_MS = 500
_COLOURS = {
    "good": curses.COLOR_GREEN,
    "warn": curses.COLOR_YELLOW,
    "bad": curses.COLOR_RED,
    "held": curses.COLOR_BLUE,
    "actual": curses.COLOR_CYAN,
}
_ATTRIBUTES = {
    "title": curses.A_BOLD,
    "message": curses.A_BOLD,
    "dim": curses.A_DIM,
    "bad": curses.A_BOLD,
    "target": curses.A_BOLD,
    "sorted": curses.A_REVERSE,
}
#: terminfo capabilities that the full-screen display requires.
_REQUIRED = ("cup", "clear")


def watch(
    source: Source, interval_s: float, glyphs: Glyphs, terminal: Terminal, signals: Signals, *, colour: bool
) -> NoReturn:
    """Show the sandboxes until the user quits or a signal ends the process; does not return.

    :raises HostError: the terminal cannot show a full screen; its settings are unchanged.
    """
    # curses would use these in place of the terminal's real size, and would not notice a resize.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # Before curses is initialized: it installs its own handler otherwise, which does not ring the bell.
    signals.handle(signal.SIGWINCH)
    screen = _open(terminal)
    try:
        signals.handle(signal.SIGTSTP, signal.SIGCONT)
        terminal.hold_errors()
        status = _Top(screen, source, interval_s, glyphs, _styles(colour), terminal, signals).run()
    except BaseException:
        terminal.restore()
        raise
    signals.leave(status)


def _open(terminal: Terminal) -> curses.window:
    hint = "set TERM to the terminal's type, or use 'ballonet top --once'"
    try:
        curses.setupterm()
        missing = [name for name in _REQUIRED if not curses.tigetstr(name)]
        if missing:
            kind = os.environ.get("TERM", "")
            raise HostError(f"a terminal of type {kind!r} (TERM) cannot show a full screen", hint=hint)
        terminal.leave_sequence = _leave_sequence()
        screen = curses.initscr()
    except curses.error as error:
        raise HostError(f"the terminal cannot be used: {error}", hint=hint) from error
    curses.noecho()
    curses.cbreak()
    curses.set_escdelay(_ESCAPE_MS)
    screen.keypad(True)
    screen.nodelay(True)
    with contextlib.suppress(curses.error):  # the terminal cannot hide its cursor
        curses.curs_set(0)
    return screen


def _leave_sequence() -> bytes:
    """What endwin() would write to leave the full screen. endwin() itself may block on a stalled terminal."""
    last = curses.tparm(curses.tigetstr("cup") or b"", os.get_terminal_size().lines - 1, 0)
    words = [curses.tigetstr(name) for name in ("sgr0", "op")]
    words += [last, *(curses.tigetstr(name) for name in ("el", "cnorm", "rmkx", "rmcup"))]
    # Without terminfo's padding delays, which only old hardware terminals need.
    return re.sub(rb"\$<[^>]*>", b"", b"".join(word for word in words if word)) + b"\r"


def _styles(colour: bool) -> dict[str, int]:
    styles = dict(_ATTRIBUTES)
    if colour and curses.has_colors():
        curses.start_color()
        curses.use_default_colors()
        for pair, (style, foreground) in enumerate(_COLOURS.items(), start=1):
            curses.init_pair(pair, foreground, -1)
            styles[style] = styles.get(style, 0) | curses.color_pair(pair)
    return styles


class _Top:
    def __init__(
        self,
        screen: curses.window,
        source: Source,
        interval_s: float,
        glyphs: Glyphs,
        styles: dict[str, int],
        terminal: Terminal,
        signals: Signals,
    ) -> None:
        self._screen = screen
        self._glyphs = glyphs
        self._styles = styles
        self._terminal = terminal
        self._signals = signals
        self._collector = Collector(source, interval_s, signals.bell.ring)
        self._actor = Actor(source, self._update_now)
        self._view = View()
        self._quit = False

    def run(self) -> int:
        """The exit status."""
        shown: object = None
        waiting = select.poll()
        waiting.register(sys.stdin.fileno(), select.POLLIN)
        waiting.register(self._signals.bell.fd, select.POLLIN)
        while True:
            self._signals.bell.silence()
            self._obey_signals()
            if self._signals.status is not None:
                return self._signals.status
            with contextlib.suppress(queue.Empty):
                while True:
                    self._view = replace(self._view, message=self._actor.results.get_nowait())
            now = (self._collector.version, self._view, self._screen.getmaxyx())
            if now != shown:
                self._draw()
                shown = (self._collector.version, self._view, self._screen.getmaxyx())
            for fd, event in waiting.poll():
                if fd == sys.stdin.fileno():
                    if event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                        return 128 + signal.SIGHUP
                    self._read_keys()
            if self._quit:
                return 0

    def _obey_signals(self) -> None:
        if self._signals.taken(signal.SIGTSTP):
            self._suspend()
        elif self._signals.taken(signal.SIGCONT) and self._terminal.is_foreground():
            # Continued after SIGSTOP, which cannot be caught: another program may have changed the terminal.
            curses.reset_prog_mode()
            curses.putp(curses.tigetstr("smcup") or b"")
            self._screen.redrawwin()
            self._screen.refresh()
        if self._signals.taken(signal.SIGWINCH):
            self._resize()

    def _suspend(self) -> None:
        """Handle Ctrl-Z: restore the terminal, stop, and continue once in the foreground again."""
        curses.endwin()
        sequence, self._terminal.leave_sequence = self._terminal.leave_sequence, b""
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        # Continued in the background, by 'bg' or a signal: leave the terminal alone, but do not stop again, since a
        # signal that ends the process may be pending.
        background = select.poll()
        background.register(self._signals.bell.fd, select.POLLIN)
        while self._signals.status is None and not self._terminal.is_foreground():
            background.poll(_BACKGROUND_MS)
            self._signals.bell.silence()
        self._signals.handle(signal.SIGTSTP)
        self._signals.taken(signal.SIGCONT)
        if self._signals.status is None:
            self._terminal.remember()
            self._terminal.leave_sequence = sequence
            curses.def_shell_mode()
            self._screen.redrawwin()
            self._screen.refresh()
            self._resize()

    def _resize(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; the next read reports that
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            if lines and columns and curses.is_term_resized(lines, columns):
                curses.resizeterm(lines, columns)
                self._terminal.leave_sequence = _leave_sequence()

    def _read_keys(self) -> None:
        while (key := self._screen.getch()) != -1:
            if key != curses.KEY_RESIZE:  # SIGWINCH is handled above
                self._press(key)

    def _press(self, key: int) -> None:
        height, width = self._screen.getmaxyx()
        names = self._names()
        view = replace(self._view, message="")
        steps = {
            curses.KEY_UP: -1,
            ord("k"): -1,
            curses.KEY_DOWN: 1,
            ord("j"): 1,
            curses.KEY_PPAGE: -max(1, height // 2),
            curses.KEY_NPAGE: max(1, height // 2),
            curses.KEY_HOME: -len(names) - 1000,
            curses.KEY_END: len(names) + 1000,
        }
        if key in (ord("q"), ord("Q")):
            self._quit = True
        elif key in (ord("h"), ord("?")):
            view = replace(view, help=0 if view.help is None else None)
        elif key in steps:
            step = steps[key]
            view = view.moved(names, step) if view.help is None else view.help_moved(step, width, height)
        elif view.help is not None:
            view = replace(
                view, help=None
            )  # any other key only closes the help: its effect would not be visible
        elif key in (ord("<"), curses.KEY_LEFT):
            view = view.sorted_by_next(-1)
        elif key in (ord(">"), curses.KEY_RIGHT):
            view = view.sorted_by_next(1)
        elif key == ord("r"):
            view = replace(view, reverse=not view.reverse)
        elif key == ord(" "):
            self._collector.update_now()
        elif key in (ord("+"), ord("g")):
            view = replace(view, message=self._actor.grow(view.selected))
        elif key in (ord("-"), ord("s")):
            view = replace(view, message=self._actor.shrink(view.selected))
        elif key == ord("t"):
            view = replace(view, message=self._actor.trim(view.selected))
        self._view = view

    def _update_now(self) -> None:
        self._collector.update_now()
        self._signals.bell.ring()

    def _names(self) -> list[str]:
        snapshot = self._collector.snapshot
        return [] if snapshot is None else [sample.name for sample in order(snapshot.sandboxes, self._view)]

    def _draw(self) -> None:
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        snapshot = self._collector.snapshot
        if snapshot is None:
            self._put(0, 0, (self._collector.error or "collecting figures")[:width], 0)
        else:
            if self._view.selected not in self._names():
                self._view = self._view.moved(self._names(), 0)
            view = replace(self._view, message=self._collector.error or self._view.message)
            lines = render(snapshot, view, width, height, self._glyphs, self._collector.trails)
            for y, line in enumerate(lines):
                x = 0
                for span in line:
                    selected = curses.A_REVERSE if span.selected else 0
                    self._put(y, x, span.text, self._styles.get(span.style, 0) | selected)
                    x += len(span.text)
            # Screen readers follow the cursor, even if it is hidden.
            with contextlib.suppress(curses.error):
                self._screen.move(selected_line(lines) or 0, 0)
        self._screen.refresh()

    def _put(self, y: int, x: int, text: str, style: int) -> None:
        if self._glyphs is ASCII:
            text = text.encode("ascii", "replace").decode()
        # Writing to the last cell raises an error, and the terminal may have shrunk meanwhile.
        with contextlib.suppress(curses.error):
            self._screen.addstr(y, x, text, style)
