"""``ballonet top``: shows the memory of all sandboxes, live. Keys sort them, and change the selected one's memory."""

from __future__ import annotations

import argparse
import locale
import os
import shutil
import sys

from ballonet.base.errors import ConfigError, HostError
from ballonet.cli.output import print_json, wants_colour
from ballonet.cli.top_bars import ASCII, UNICODE, Glyphs, Line
from ballonet.cli.top_source import Source, ThisHost
from ballonet.cli.top_view import View, render
from ballonet.lifecycle.samples import DEADLINE_S
from ballonet.metrics.columns import host_row, row
from ballonet.metrics.model import Snapshot

_INTERVAL_S = 2.0
_CODES = {
    "title": "1",
    "dim": "2",
    "good": "32",
    "warn": "33",
    "bad": "31",
    "held": "34",
    "actual": "36",
    "target": "1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        "--interval",
        metavar="SECONDS",
        type=float,
        default=_INTERVAL_S,
        help="update interval (default: 2)",
    )
    parser.add_argument("--once", action="store_true", help="print once and exit")
    parser.add_argument(
        "--json", action="store_true", help="print once as a JSON object and exit; sizes in bytes"
    )


def run(options: argparse.Namespace) -> int:
    return show(options, ThisHost())


def show(options: argparse.Namespace, source: Source) -> int:
    """Show the sandboxes of ``source``."""
    if not 0.2 <= options.interval <= 3600:
        raise ConfigError(f"--interval {options.interval:g} is outside 0.2 to 3600 seconds")
    if options.json:
        snapshot = _collect(source)
        return print_json(
            {"host": host_row(snapshot.host), "sandboxes": [row(sample) for sample in snapshot.sandboxes]}
        )
    glyphs = _glyphs()
    if options.once:
        snapshot = _collect(source)
        width = shutil.get_terminal_size((100, 0)).columns
        lines = render(snapshot, View(interactive=False), width, len(snapshot.sandboxes) + 10, glyphs)
        colour = wants_colour()
        for line in lines:
            print(_plain(line, colour).rstrip())
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("top requires a terminal", hint="use 'ballonet top --once' to print once")
    # Handle Ctrl-C before anything that takes time.
    from ballonet.cli.top_signals import Signals, Terminal

    terminal = Terminal()
    signals = Signals(terminal)
    try:
        from ballonet.cli.top_screen import watch
    except ImportError as error:
        raise HostError(
            "this Python has no curses module", hint="install it, or use 'ballonet top --once'"
        ) from error
    return watch(source, options.interval, glyphs, terminal, signals, colour=wants_colour())


def _collect(source: Source) -> Snapshot:
    snapshot, problem = source.collect(DEADLINE_S)
    if problem:
        print(f"ballonet: warning: {problem}", file=sys.stderr)
    return snapshot


def _glyphs() -> Glyphs:
    locale.setlocale(locale.LC_ALL, "")
    encoding = sys.stdout.encoding or ""
    if encoding.lower().replace("-", "") != "utf8":
        return ASCII
    # The Linux console's fonts have no eighth blocks.
    return UNICODE._replace(eighths=ASCII.eighths) if os.environ.get("TERM") == "linux" else UNICODE


def _plain(line: Line, colour: bool) -> str:
    return "".join(
        f"\x1b[{_CODES[span.style]}m{span.text}\x1b[0m" if colour and span.style in _CODES else span.text
        for span in line
    )
