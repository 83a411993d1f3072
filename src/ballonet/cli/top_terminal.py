"""The live side of ``ballonet top``: a terminal, its keys, and threads that look and act. What is shown is
:mod:`ballonet.cli.top_view`'s. The terminal is as it was on every way out that a process can act on."""

from __future__ import annotations

import contextlib
import curses
import os
import queue
import signal
import threading
import types
from collections.abc import Callable
from dataclasses import replace

from ballonet import lifecycle
from ballonet.cli.top_view import Glyphs, View, order, render
from ballonet.control.backend import TrimRequest
from ballonet.control.client import SyncClient
from ballonet.errors import BallonetError, HostError
from ballonet.metrics.collect import collect
from ballonet.metrics.model import Snapshot
from ballonet.registry.registry import Registry

#: How soon a key's effect, or another size of the terminal, is shown at the latest (milliseconds).
_TICK_MS = 200
#: One key grows or shrinks by this share of the ceiling.
_STEP_SHARE = 8
#: How long one sandbox may take to answer (seconds): a stuck one must not keep the screen waiting.
_DEADLINE_S = 1.0
_TRIM_S = 30.0

_COLOURS = {
    "good": curses.COLOR_GREEN,
    "warn": curses.COLOR_YELLOW,
    "bad": curses.COLOR_RED,
    "held": curses.COLOR_RED,
    "actual": curses.COLOR_BLUE,
}
_ATTRIBUTES = {
    "title": curses.A_BOLD,
    "dim": curses.A_DIM,
    "warn": curses.A_BOLD,
    "bad": curses.A_BOLD,
    "target": curses.A_BOLD,
    "selected": curses.A_REVERSE,
}


def watch(interval_s: float, glyphs: Glyphs, *, colour: bool) -> int:
    """Show the sandboxes until the viewer quits; the exit status.

    :raises HostError: the terminal cannot be used that way.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _quit)
    # Where they are set, curses believes them and not the terminal, and never sees that it was resized.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    try:
        screen = curses.initscr()
    except curses.error as error:
        raise HostError(
            f"this terminal cannot show it: {error}", hint="set TERM, or use: ballonet top --once"
        ) from error
    try:
        curses.noecho()
        curses.cbreak()
        screen.keypad(True)
        screen.timeout(_TICK_MS)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
            curses.curs_set(0)
        _Top(screen, interval_s, glyphs, _styles(colour)).run()
    finally:
        screen.keypad(False)
        curses.echo()
        curses.nocbreak()
        curses.endwin()
    return 0


def _quit(number: int, frame: types.FrameType | None) -> None:
    raise SystemExit(128 + number)


def _styles(colour: bool) -> dict[str, int]:
    styles = dict(_ATTRIBUTES)
    if colour and curses.has_colors():
        curses.start_color()
        curses.use_default_colors()
        for pair, (style, foreground) in enumerate(_COLOURS.items(), start=1):
            curses.init_pair(pair, foreground, -1)
            styles[style] = styles.get(style, 0) | curses.color_pair(pair)
    return styles


class _Looker:
    """Looks at the sandboxes every now and then, in a thread: one that is stuck must not stop the keys."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due = threading.Event()
        self.snapshot: Snapshot | None = None
        self.error = ""
        self.version = 0
        threading.Thread(target=self._run, name="looker", daemon=True).start()

    def look_now(self) -> None:
        self._due.set()

    def _run(self) -> None:
        while True:
            try:
                self.snapshot, self.error = collect(deadline_s=_DEADLINE_S), ""
            except BallonetError as error:
                self.error = error.message
            self.version += 1
            self._due.wait(self._interval_s)
            self._due.clear()


class _Top:
    def __init__(
        self, screen: curses.window, interval_s: float, glyphs: Glyphs, styles: dict[str, int]
    ) -> None:
        self._screen = screen
        self._glyphs = glyphs
        self._styles = styles
        self._looker = _Looker(interval_s)
        self._view = View()
        self._busy: set[str] = set()
        #: What the threads that act have to say.
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> None:
        shown: object = None
        while True:
            with contextlib.suppress(queue.Empty):
                self._view = replace(self._view, message=self._said.get_nowait())
            now = (self._looker.version, self._view, self._screen.getmaxyx())
            if now != shown:
                self._draw()
                shown = now
            key = self._screen.getch()
            if key == ord("q"):
                return
            if key == curses.KEY_RESIZE:
                curses.update_lines_cols()
            elif key != -1:
                self._press(key)

    def _press(self, key: int) -> None:
        names = self._names()
        view = replace(self._view, message="")
        if key in (curses.KEY_UP, ord("k")):
            view = view.moved(names, -1)
        elif key in (curses.KEY_DOWN, ord("j")):
            view = view.moved(names, 1)
        elif key in (ord("<"), curses.KEY_LEFT):
            view = view.sorted_by_next(-1)
        elif key in (ord(">"), curses.KEY_RIGHT):
            view = view.sorted_by_next(1)
        elif key == ord("r"):
            view = replace(view, reverse=not view.reverse)
        elif key in (ord("h"), ord("?")):
            view = replace(view, help=not view.help)
        elif key == ord(" "):
            self._looker.look_now()
        elif key in (ord("+"), ord("g")):
            view = replace(view, message=self._act("grows", lambda client: _move(client, 1)))
        elif key in (ord("-"), ord("s")):
            view = replace(view, message=self._act("shrinks", lambda client: _move(client, -1)))
        elif key == ord("t"):
            view = replace(view, message=self._act("is trimmed", _trim))
        self._view = view

    def _names(self) -> list[str]:
        snapshot = self._looker.snapshot
        return [] if snapshot is None else [sample.name for sample in order(snapshot.sandboxes, self._view)]

    def _act(self, what: str, do: Callable[[SyncClient], str]) -> str:
        """Do something to the selected sandbox, in a thread; what to say meanwhile."""
        name = self._view.selected
        if name is None:
            return "select a sandbox first: up, down"
        if name in self._busy:
            return f"{name} is busy with the last key"
        self._busy.add(name)

        def work() -> None:
            try:
                with Registry.open() as registry:
                    _, note = lifecycle.find_running(registry, name)
                if note.control_socket is None:
                    said = "it has no balloon"
                else:
                    with SyncClient(note.control_socket, deadline_s=_TRIM_S) as client:
                        said = do(client)
            except BallonetError as error:
                said = error.message
            self._busy.discard(name)
            self._said.put(f"{name}: {said}")
            self._looker.look_now()

        threading.Thread(target=work, name=f"act on {name}", daemon=True).start()
        return f"{name} {what} …"

    def _draw(self) -> None:
        height, width = self._screen.getmaxyx()
        self._screen.erase()
        snapshot = self._looker.snapshot
        if snapshot is None:
            self._put(0, 0, self._looker.error or "looking …", 0)
        else:
            if self._view.selected not in self._names():
                self._view = self._view.moved(self._names(), 0)
            view = replace(self._view, message=self._looker.error or self._view.message)
            for y, line in enumerate(render(snapshot, view, width, height, self._glyphs)):
                x = 0
                for span in line:
                    self._put(y, x, span.text, self._styles.get(span.style, 0))
                    x += len(span.text)
        self._screen.refresh()

    def _put(self, y: int, x: int, text: str, style: int) -> None:
        # The last cell of a screen cannot be passed, and the terminal may have shrunk meanwhile.
        with contextlib.suppress(curses.error):
            self._screen.addstr(y, x, text, style)


def _move(client: SyncClient, direction: int) -> str:
    balloon = client.get()
    step = max(16, balloon.ceiling_mib // _STEP_SHARE)
    reply = client.set(max(0, balloon.target_mib + direction * step))
    clamped = f", the {reply.clamped} is in the way" if reply.clamped else ""
    return f"target {reply.target_mib} MiB{clamped}"


def _trim(client: SyncClient) -> str:
    result = client.trim(TrimRequest(timeout_s=_TRIM_S))
    got = "unknown" if result.returned_mib is None else f"{result.returned_mib} MiB"
    return f"the host got {got}" + (f" ({result.detail})" if result.detail else "")
