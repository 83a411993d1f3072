"""``ballonet logs``: what a sandbox's own command has written, and with ``--machine`` what its process has logged."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

from ballonet.base.errors import ConfigError
from ballonet.base.paths import state_dir_of
from ballonet.cli.log_reader import LogReader, last_line_offset
from ballonet.cli.text_streams import write_all
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.machine.output_log import Entry, parse_timestamp

#: Between two looks at a file that may grow (seconds): files send no event that plain Python can wait for.
_LOOK_S = 0.2
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_WRITE_BYTES = 64 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a sandbox's name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the sandbox ends")
    parser.add_argument(
        "-n",
        "--tail",
        metavar="LINES",
        default="all",
        help="only that many lines from the end (default: all)",
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="only from then on: 10m, 1h30m, a time such as 2026-01-31T12:00:00Z, or Unix seconds",
    )
    parser.add_argument("--until", metavar="TIME", help="only up to then")
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    parser.add_argument(
        "--machine", action="store_true", help="what the sandbox's own process has logged instead"
    )


def run(options: argparse.Namespace) -> int:
    tail = parse_tail(options.tail)
    now = time.time()
    since = None if options.since is None else parse_since(options.since, now)
    until = None if options.until is None else parse_since(options.until, now, option="--until")
    if options.machine and (options.follow or options.timestamps or (since, until) != (None, None)):
        raise ConfigError(
            "--machine goes together with --tail only", hint="leave out -f, -t, --since and --until"
        )
    with Registry.open() as registry:
        record = lifecycle.find(registry, options.name)
        directory = state_dir_of(options.name)
        if options.machine:
            _print_file(directory / lifecycle.MACHINE_LOG, tail)
            return 0
        if record.command is None:
            raise ConfigError(
                f"sandbox {options.name!r} runs no command of its own, so it has no output",
                hint="'ballonet logs --machine' shows what its process logs",
            )
        with LogReader(directory) as reader:
            _Shown(reader, tail, since, until, timestamps=options.timestamps).show(
                registry, options.name, follow=options.follow
            )
    return 0


def parse_tail(text: str) -> int | None:
    """How many lines; ``None`` for all.

    :raises ConfigError: it is no number of lines.
    """
    if text == "all":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"--tail {text!r} is not a number of lines", hint="0 or more, or 'all'")
    return int(text)


def parse_since(text: str, now: float, *, option: str = "--since") -> float:
    """Unix time of ``10m`` or ``1h30m`` (ago), of an RFC 3339 time, or of Unix seconds.

    :raises ConfigError: it is none of these.
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


class _Shown:
    """What is shown of a log, and how."""

    def __init__(
        self,
        reader: LogReader,
        tail: int | None,
        since: float | None,
        until: float | None,
        *,
        timestamps: bool,
    ) -> None:
        self._reader = reader
        self._since, self._until = since, until
        self._timestamps = timestamps
        #: Streams whose line goes on with their next entry.
        self._going_on: set[str] = set()
        self._fd, self._waiting = 1, bytearray()
        # What comes after this is shown whatever --tail says.
        self._end = (0, 0) if tail is None else reader.end()
        self._starts = {} if tail is None else reader.last_lines(tail, since=since, until=until)
        reader.skip_to(min(self._starts.values(), default=self._end))

    def show(self, registry: Registry, name: str, *, follow: bool) -> None:
        while True:
            over = not follow or self._past_until() or not _lives(registry, name)
            for position, entry in self._reader.read():
                if position >= self._starts.get(entry.stream, self._end) and self._in_time(entry):
                    self._print(entry)
            self._flush()
            if over:
                return
            time.sleep(_LOOK_S)

    def _past_until(self) -> bool:
        return self._until is not None and time.time() > self._until

    def _in_time(self, entry: Entry) -> bool:
        late_enough = self._since is None or entry.at >= self._since
        return late_enough and (self._until is None or entry.at <= self._until)

    def _print(self, entry: Entry) -> None:
        fd = 2 if entry.stream == "stderr" else 1
        if fd != self._fd or len(self._waiting) >= _WRITE_BYTES:
            self._flush()
            self._fd = fd
        if self._timestamps and entry.stream not in self._going_on:
            self._waiting += entry.time.encode() + b" "
        self._waiting += entry.content
        if entry.whole:
            self._waiting += b"\n"
            self._going_on.discard(entry.stream)
        else:
            self._going_on.add(entry.stream)

    def _flush(self) -> None:
        sys.stdout.flush()
        write_all(self._fd, self._waiting)
        self._waiting.clear()


def _lives(registry: Registry, name: str) -> bool:
    record = registry.find(name)
    now = None if record is None else lifecycle.refresh(registry, record)
    return now is not None and now.state.lives


def _print_file(path: Path, tail: int | None) -> None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(0 if tail is None else last_line_offset(file, tail))
        while data := file.read(_WRITE_BYTES):
            write_all(1, data)
