"""``ballonet events``: what happened to the sandboxes of this user."""

from __future__ import annotations

import argparse
import sys
import time

from ballonet.base.dataclass import asdict
from ballonet.base.errors import ConfigError
from ballonet.base.timestamps import iso_time
from ballonet.cli.output import print_json_line, show
from ballonet.lifecycle.events import EVENTS, POLL_S, Event, EventFilter, EventReader

_EPILOG = f"""\
Events: {", ".join(EVENTS[:7])},
{", ".join(EVENTS[7:])}. Their ids only grow, so that a
program can go on where it stopped: ballonet events -f --since ID. The newest
10000 events, and the newest 5000 of memory, are kept. An end that nobody
observed is recorded when a command, or events -f, looks at the sandbox."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="wait for further events")
    parser.add_argument("--since", metavar="ID", type=int, help="only events after the one with this id")
    parser.add_argument(
        "--filter",
        dest="filters",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only events to which this applies: event=EVENT, name=PATTERN, label=KEY, label=KEY=VALUE or "
        "image=PATTERN (can be repeated)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    if options.since is not None and options.since < 0:
        raise ConfigError(f"--since {options.since} is not an id of an event", hint="ids begin with 1")
    selected = EventFilter(options.filters)
    reader = EventReader(options.since)
    if reader.dropped_up_to is not None:
        sys.stdout.flush()
        print(
            f"ballonet: warning: events up to {reader.dropped_up_to} may be missing: only the newest are kept",
            file=sys.stderr,
        )
    while True:
        for event in filter(selected.match, reader.read()):
            if options.json:
                print_json_line(asdict(event) | {"at": iso_time(event.at)})
            else:
                print(_line(event), flush=options.follow)
        if not options.follow:
            return 0
        time.sleep(POLL_S)


def _line(event: Event) -> str:
    memory = None if event.new_mib is None else f"{event.old_mib} → {event.new_mib} MiB"
    status = None if event.exit_code is None else f"status {event.exit_code}"
    said = [part for part in (memory, event.reason, status, event.detail) if part is not None]
    detail = ": ".join(said).splitlines()[0] if said else ""
    facts = f"{event.id:>6}  {iso_time(event.at)}  {event.event:<8}  {show(event.sandbox)}"
    return f"{facts}  {show(detail)}" if detail else facts
