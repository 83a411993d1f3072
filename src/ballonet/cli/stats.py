"""``ballonet stats``: the processor time, memory and input and output of running sandboxes."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ballonet.base.dataclass import asdict
from ballonet.base.errors import ConfigError, NotRunningError
from ballonet.base.timestamps import iso_time
from ballonet.cli.name_arguments import add_names
from ballonet.cli.output import print_json, print_json_line, print_table, show_seconds, show_size
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.usage import Rates, Usage, read_usage

_INTERVAL_S = 1.0
_HEADINGS = ("NAME", "CPU", "CPU TIME", "MEMORY", "CEILING", "READ", "WRITTEN", "READ/S", "WRITTEN/S")
_OMIT = ("READ/S", "WRITTEN/S")
_EPILOG = """\
columns:
  CPU        processor time of the engine in the last interval; 100%: one
             processor
  CPU TIME   processor time of the engine since the sandbox was started
  MEMORY     host memory of the engine, with the guest's RAM
  READ       what the engine has read, from disks or the host's page cache
  WRITTEN    what it has written

The figures are those of the engine's process on the host. The processes
that serve volumes and the network are not included. 'ballonet top' shows
the guests' memory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser, nargs="*")
    parser.add_argument("--no-stream", action="store_true", help="print once, after one interval, and exit")
    parser.add_argument(
        "-d",
        "--interval",
        metavar="SECONDS",
        type=float,
        default=_INTERVAL_S,
        help="length of an interval (default: 1)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, an object a line; with --no-stream a list of objects"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    if not 0.1 <= options.interval <= 3600:
        raise ConfigError(f"--interval {options.interval:g} is outside 0.1 to 3600 seconds")
    before = _read(options.names)
    for name in options.names:
        if name not in before:
            with Registry.open() as registry:
                lifecycle.find_running(registry, name)  # raises the error
            raise NotRunningError(f"sandbox {name!r} is not running")
    while True:
        if before or not options.no_stream:
            time.sleep(options.interval)
        now = _read(options.names)
        found = [(usage, usage.rates_since(before.get(name))) for name, usage in now.items()]
        if options.no_stream:
            return print_json([_row(*each) for each in found]) if options.json else _print(found)
        if options.json:
            for each in found:
                print_json_line(_row(*each))
        else:
            # On a terminal, the table is drawn again in its place.
            print("\x1b[H\x1b[J" if sys.stdout.isatty() else "", end="" if sys.stdout.isatty() else "\n")
            _print(found)
            sys.stdout.flush()
        before = now


def _read(names: list[str]) -> dict[str, Usage]:
    """The usage of running sandboxes, by name."""
    found = {}
    with Registry.open() as registry:
        for record in lifecycle.list_sandboxes(registry):
            if record.state.lives and record.unreadable is None and (not names or record.name in names):
                try:
                    found[record.name] = read_usage(record)
                except NotRunningError:
                    continue  # it has just ended, or is about to start
    return found


def _print(found: list[tuple[Usage, Rates]]) -> int:
    rows = [
        (
            usage.name,
            None if rates.cpu_percent is None else f"{rates.cpu_percent:.1f}%",
            None if usage.cpu_s is None else show_seconds(usage.cpu_s),
            show_size(usage.resident_bytes),
            show_size(usage.ceiling_bytes),
            show_size(usage.read_bytes),
            show_size(usage.written_bytes),
            show_size(None if rates.read_bytes_per_s is None else round(rates.read_bytes_per_s)),
            show_size(None if rates.written_bytes_per_s is None else round(rates.written_bytes_per_s)),
        )
        for usage, rates in found
    ]
    print_table(_HEADINGS, rows, omit=_OMIT)
    return 0


def _row(usage: Usage, rates: Rates) -> dict[str, Any]:
    return {**asdict(usage), "at": iso_time(usage.at), **asdict(rates)}
