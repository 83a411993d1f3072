"""``ballonet logs``: what a sandbox's own command has written, and with ``--machine`` what its process has logged."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ballonet import lifecycle
from ballonet.errors import ConfigError
from ballonet.machine.output_log import FILE_NAME, Entry, parse_entry, parse_timestamp, read_entries
from ballonet.registry.registry import Registry

#: Between two looks at a file that may grow (seconds): files send no event that plain Python can wait for.
_LOOK_S = 0.2
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a sandbox's name")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the sandbox ends")
    parser.add_argument("-n", "--tail", metavar="LINES", type=int, help="only that many lines from the end")
    parser.add_argument(
        "--since", metavar="TIME", help="only from then on: 10m, 2h, or a time such as 2026-01-31T12:00:00Z"
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    parser.add_argument(
        "--machine", action="store_true", help="what the sandbox's own process has logged instead"
    )


def run(options: argparse.Namespace) -> int:
    if options.tail is not None and options.tail < 0:
        raise ConfigError(f"--tail {options.tail} is negative")
    since = None if options.since is None else parse_since(options.since, time.time())
    with Registry.open() as registry:
        record = lifecycle.find(registry, options.name)
        directory = lifecycle.state_dir_of(options.name)
        if options.machine:
            path = directory / lifecycle.MACHINE_LOG
            sys.stdout.write(path.read_text(errors="replace") if path.exists() else "")
            return 0
        if record.command is None:
            raise ConfigError(
                f"sandbox {options.name!r} runs no command of its own, so it has no output",
                hint="'ballonet logs --machine' shows what its process logs",
            )
        position = _size(directory / FILE_NAME)  # before reading: what comes meanwhile is shown by following
        entries = (entry for entry in read_entries(directory) if since is None or entry.at >= since)
        for entry in entries if options.tail is None else _last_lines(entries, options.tail):
            _print(entry, options.timestamps)
        sys.stdout.flush()
        if options.follow:
            _follow(registry, options, directory, position)
    return 0


def parse_since(text: str, now: float) -> float:
    """Unix time of ``10m`` (ago) or of an RFC 3339 time.

    :raises ConfigError: it is neither.
    """
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdecimal():
        return now - float(number) * _UNITS[unit]
    try:
        return parse_timestamp(text)
    except ValueError:
        raise ConfigError(
            f"--since {text!r} is not a time", hint="write 30s, 10m, 2h, 1d or 2026-01-31T12:00:00Z"
        ) from None


def _last_lines(entries: Iterator[Entry], lines: int) -> deque[Entry]:
    """The entries of the last ``lines`` lines: parts count with the line that they begin."""
    kept: deque[Entry] = deque()
    whole = 0
    for entry in entries:
        kept.append(entry)
        whole += entry.whole
        while whole > lines:
            whole -= kept.popleft().whole
    return kept if lines else deque()


def _follow(registry: Registry, options: argparse.Namespace, directory: Path, position: int) -> None:
    path = directory / FILE_NAME
    rest = b""
    while True:
        record = registry.find(options.name)
        now = None if record is None else lifecycle.refresh(registry, record)
        over = now is None or not now.state.lives
        if _size(path) < position:
            position, rest = 0, b""  # a new file took its place
        try:
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
        except FileNotFoundError:
            data = b""
        position += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if (entry := parse_entry(line)) is not None:
                _print(entry, options.timestamps)
        sys.stdout.flush()
        if over:
            return
        time.sleep(_LOOK_S)


def _print(entry: Entry, timestamps: bool) -> None:
    out = sys.stderr.buffer if entry.stream == "stderr" else sys.stdout.buffer
    if timestamps:
        out.write(time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime(entry.at)).encode())
    out.write(entry.content + (b"\n" if entry.whole else b""))
    out.flush()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
