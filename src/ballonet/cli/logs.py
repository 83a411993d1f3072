"""``ballonet logs``: shows the output of a sandbox's command, or with ``--machine`` the log of the sandbox process."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.cli.log_options import add_log_options
from ballonet.cli.standard_streams import write_all
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.log_reader import LogReader, last_line_offset
from ballonet.lifecycle.log_selection import LogSelection
from ballonet.lifecycle.registry import Registry
from ballonet.machine.output_log import Entry, parse_timestamp

#: How often ``--follow`` checks for new output (seconds). Python has no inotify, so the files are polled.
_POLL_S = 0.2
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_WRITE_BYTES = 64 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_log_options(parser)
    parser.add_argument("--machine", action="store_true", help="show the log of the sandbox process instead")


def run(options: argparse.Namespace) -> int:
    tail = parse_tail(options.tail)
    now = time.time()
    since = None if options.since is None else parse_since(options.since, now)
    until = None if options.until is None else parse_since(options.until, now, option="--until")
    if options.machine and (options.follow or options.timestamps or (since, until) != (None, None)):
        raise ConfigError(
            "--machine can only be combined with --tail", hint="omit -f, -t, --since and --until"
        )
    with Registry.open() as registry:
        record = lifecycle.find(registry, options.name)
        directory = state_dir_of(options.name)
        if options.machine:
            _print_file(directory / lifecycle.MACHINE_LOG, tail)
            return 0
        if record.command is None:
            raise ConfigError(
                f"sandbox {options.name!r} has no command, so it has no output",
                hint=f"'ballonet logs --machine {options.name}' shows the log of the sandbox process",
            )
        with LogReader(directory) as reader:
            _Printer(reader, tail, since, until, timestamps=options.timestamps).show(
                registry, options.name, follow=options.follow
            )
    return 0


def parse_tail(text: str) -> int | None:
    """The number of lines; ``None`` for all.

    :raises ConfigError: ``text`` is not a number of lines.
    """
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"--tail {text!r} is not a number of lines", hint="write 0 or more, or 'all'")
    return int(text)


def parse_since(text: str, now: float, *, option: str = "--since") -> float:
    """The Unix time of ``10m`` or ``1h30m`` (ago), of an RFC 3339 time, or of Unix seconds.

    :raises ConfigError: ``text`` is none of these.
    """
    if _DURATION.fullmatch(text):
        return now - sum(float(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"[\d.]+[dhms]", text))
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        return parse_timestamp(text)
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{option} {text!r} is not a time",
            hint="write 30s, 10m, 1h30m, 1d, 2026-01-31T12:00:00Z or Unix seconds",
        ) from None


class EntryText:
    """The entries of a log as they are shown."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        #: Streams whose last line is not complete yet.
        self._unfinished: set[str] = set()

    def of(self, entry: Entry) -> bytes:
        stamp = (
            entry.time.encode() + b" " if self._timestamps and entry.stream not in self._unfinished else b""
        )
        (self._unfinished.discard if entry.whole else self._unfinished.add)(entry.stream)
        return stamp + entry.content + (b"\n" if entry.whole else b"")


class _Printer:
    """Prints the selected part of a log."""

    def __init__(
        self,
        reader: LogReader,
        tail: int | None,
        since: float | None,
        until: float | None,
        *,
        timestamps: bool,
    ) -> None:
        self._selection = LogSelection(reader, tail=tail, since_s=since, until_s=until)
        self._text = EntryText(timestamps=timestamps)
        self._fd, self._waiting = 1, bytearray()

    def show(self, registry: Registry, name: str, *, follow: bool) -> None:
        while True:
            over = not follow or not self._selection.goes_on(registry, name)
            for entry in self._selection.read():
                if entry is not None:
                    self._print(entry)
            self._flush()
            if over:
                return
            time.sleep(_POLL_S)

    def _print(self, entry: Entry) -> None:
        fd = 2 if entry.stream == "stderr" else 1
        if fd != self._fd or len(self._waiting) >= _WRITE_BYTES:
            self._flush()
            self._fd = fd
        self._waiting += self._text.of(entry)

    def _flush(self) -> None:
        sys.stdout.flush()
        write_all(self._fd, self._waiting)
        self._waiting.clear()


def _print_file(path: Path, tail: int | None) -> None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(0 if tail is None else last_line_offset(file, tail))
        while data := file.read(_WRITE_BYTES):
            write_all(1, data)
