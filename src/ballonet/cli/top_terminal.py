"""The live side of ``ballonet top``: the screen and its keys, through curses. What is shown is
:mod:`ballonet.cli.top_view`'s, how it ends :mod:`ballonet.cli.top_signals`', who asks the sandboxes
:mod:`ballonet.cli.top_work`'s."""

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
from ballonet.cli.top_view import View, order, render, selected_line
from ballonet.cli.top_work import Actor, Looker

#: Key codes of arrows begin with an escape; what comes later than this (milliseconds) is a key of its own.
_ESCAPE_MS = 200
#: How often it looks, in the background, whether the terminal is its own again: a shell's 'fg' sends no signal to a job
#: that runs.
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
#: A terminal without these cannot show a full screen.
_NEEDED = ("cup", "clear")


def watch(
    interval_s: float, glyphs: Glyphs, terminal: Terminal, signals: Signals, *, colour: bool
) -> NoReturn:
    """Show the sandboxes until the viewer quits or a signal comes; ends the process.

    :raises HostError: the terminal cannot be used that way. It is as it was.
    """
    # Where they are set, curses believes them and not the terminal, and never sees that it was resized.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # Before curses starts, which would take it for itself and tell nobody who waits for a bell.
    signals.hear(signal.SIGWINCH)
    screen = _open(terminal)
    try:
        signals.hear(signal.SIGTSTP, signal.SIGCONT)
        terminal.hold_errors()
        status = _Top(screen, interval_s, glyphs, _styles(colour), terminal, signals).run()
    except BaseException:
        terminal.restore()
        raise
    signals.leave(status)


def _open(terminal: Terminal) -> curses.window:
    hint = "set TERM to the terminal's type, or use: ballonet top --once"
    try:
        curses.setupterm()
        missing = [name for name in _NEEDED if not curses.tigetstr(name)]
        if missing:
            kind = os.environ.get("TERM", "")
            raise HostError(f"a terminal of the type {kind!r} (TERM) cannot show a full screen", hint=hint)
        terminal.farewell = _farewell()
        screen = curses.initscr()
    except curses.error as error:
        raise HostError(f"this terminal cannot show it: {error}", hint=hint) from error
    curses.noecho()
    curses.cbreak()
    curses.set_escdelay(_ESCAPE_MS)
    screen.keypad(True)
    screen.nodelay(True)
    with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
        curses.curs_set(0)
    return screen


def _farewell() -> bytes:
    """What leaves the full screen, as curses' own end would write it; that end waits for the terminal without bound."""
    last = curses.tparm(curses.tigetstr("cup") or b"", os.get_terminal_size().lines - 1, 0)
    words = [curses.tigetstr(name) for name in ("sgr0", "op")]
    words += [last, *(curses.tigetstr(name) for name in ("el", "cnorm", "rmkx", "rmcup"))]
    # Delays were for terminals of the past.
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
        self._looker = Looker(interval_s, signals.bell.ring)
        self._actor = Actor(self._look_now)
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
                    self._view = replace(self._view, message=self._actor.said.get_nowait())
            now = (self._looker.version, self._view, self._screen.getmaxyx())
            if now != shown:
                self._draw()
                shown = (self._looker.version, self._view, self._screen.getmaxyx())
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
        elif self._signals.taken(signal.SIGCONT) and self._terminal.is_ours():
            # It was stopped without a word before (SIGSTOP): who had the terminal meanwhile has left it otherwise.
            curses.reset_prog_mode()
            curses.putp(curses.tigetstr("smcup") or b"")
            self._screen.redrawwin()
            self._screen.refresh()
        if self._signals.taken(signal.SIGWINCH):
            self._resize()

    def _suspend(self) -> None:
        """Stop, as Ctrl-Z asks for, with the terminal given back; go on once we have it again."""
        curses.endwin()
        farewell, self._terminal.farewell = self._terminal.farewell, b""
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        # Continued in the background, such as by 'bg', or by 'kill' so that it hears that signal: it leaves the
        # terminal alone, and does not stop again, since a signal that ends it may be on its way to another thread.
        background = select.poll()
        background.register(self._signals.bell.fd, select.POLLIN)
        while self._signals.status is None and not self._terminal.is_ours():
            background.poll(_BACKGROUND_MS)
            self._signals.bell.silence()
        self._signals.hear(signal.SIGTSTP)
        self._signals.taken(signal.SIGCONT)
        if self._signals.status is None:
            self._terminal.remember()
            self._terminal.farewell = farewell
            curses.def_shell_mode()
            self._screen.redrawwin()
            self._screen.refresh()
            self._resize()

    def _resize(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone, which reading from it will tell
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            if lines and columns and curses.is_term_resized(lines, columns):
                curses.resizeterm(lines, columns)
                self._terminal.farewell = _farewell()

    def _read_keys(self) -> None:
        while (key := self._screen.getch()) != -1:
            if key != curses.KEY_RESIZE:  # curses' own word for what SIGWINCH has told
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
            )  # any other key leaves the help, and does nothing that cannot be seen
        elif key in (ord("<"), curses.KEY_LEFT):
            view = view.sorted_by_next(-1)
        elif key in (ord(">"), curses.KEY_RIGHT):
            view = view.sorted_by_next(1)
        elif key == ord("r"):
            view = replace(view, reverse=not view.reverse)
        elif key == ord(" "):
            self._looker.look_now()
        elif key in (ord("+"), ord("g")):
            view = replace(view, message=self._actor.grow(view.selected))
        elif key in (ord("-"), ord("s")):
            view = replace(view, message=self._actor.shrink(view.selected))
        elif key == ord("t"):
            view = replace(view, message=self._actor.trim(view.selected))
        self._view = view

    def _look_now(self) -> None:
        self._looker.look_now()
        self._signals.bell.ring()

    def _names(self) -> list[str]:
        snapshot = self._looker.snapshot
        return [] if snapshot is None else [sample.name for sample in order(snapshot.sandboxes, self._view)]

    def _draw(self) -> None:
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        snapshot = self._looker.snapshot
        if snapshot is None:
            self._put(0, 0, (self._looker.error or "collecting figures")[:width], 0)
        else:
            if self._view.selected not in self._names():
                self._view = self._view.moved(self._names(), 0)
            view = replace(self._view, message=self._looker.error or self._view.message)
            lines = render(snapshot, view, width, height, self._glyphs, self._looker.trails)
            for y, line in enumerate(lines):
                x = 0
                for span in line:
                    selected = curses.A_REVERSE if span.selected else 0
                    self._put(y, x, span.text, self._styles.get(span.style, 0) | selected)
                    x += len(span.text)
            # Screen readers follow the cursor, hidden or not.
            with contextlib.suppress(curses.error):
                self._screen.move(selected_line(lines) or 0, 0)
        self._screen.refresh()

    def _put(self, y: int, x: int, text: str, style: int) -> None:
        if self._glyphs is ASCII:
            text = text.encode("ascii", "replace").decode()
        # The last cell of a screen cannot be passed, and the terminal may have shrunk meanwhile.
        with contextlib.suppress(curses.error):
            self._screen.addstr(y, x, text, style)
