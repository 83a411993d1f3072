"""``ballonet ls`` (all sandboxes) and ``ballonet ps`` (running ones): one row for each, with its memory."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.cli.output import print_json, print_table, show_age
from ballonet.cli.parser import FILTER_HELP
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.descriptions import describe
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry

_HEADINGS = ("NAME", "STATE", "CEILING", "TARGET", "ACTUAL", "GUEST", "ENGINE", "AGE", "DETAIL")
_EPILOG = """\
columns:
  CEILING  maximum memory of the guest
  TARGET   requested memory of the guest
  ACTUAL   current memory of the guest
  GUEST    host memory used by the guest's RAM
  ENGINE   host memory used by the engine itself
  AGE      time since the start, or since the creation if it does not run
  DETAIL   of a paused sandbox: its size on disk, and in memory once resumed

--format takes the keys of --json as fields, a width after a colon, and
{labels.KEY} for one label: ballonet ls --format '{name:<20} {state}'.
Several --filter name=, state= or image= select what one of them applies to,
several label= what all of them apply to. PATTERN is as in a shell: ci-*"""
#: The fields of a row, for ``--json`` and ``--format``.
FIELDS = (
    *("name", "state", "image", "command", "labels", "health", "pid", "ports"),
    *(
        "ceiling_mib",
        "target_mib",
        "actual_mib",
        "balloon_state",
        "resident_mib",
        "guest_ram_mib",
        "engine_mib",
    ),
    *("saved_mib", "weight", "reserve_mib"),
    *("created_at", "started_at", "ended_at", "end_reason", "end_detail", "exit_code"),
)
_SIZES = ("ceiling_mib", "target_mib", "actual_mib", "guest_ram_mib", "engine_mib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--filter", dest="filters", metavar="KEY=VALUE", action="append", default=[], help=FILTER_HELP
    )
    parser.add_argument(
        "--format", metavar="TEXT", help="print this line for each, with {name} and other fields"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only names")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    line = None
    if options.format is not None:
        from ballonet.cli.row_format import row_format

        if options.json or options.quiet:
            raise ConfigError("--format cannot be combined with --json or -q", hint="leave one of them out")
        line = row_format(options.format, FIELDS)
    filters = None
    if options.filters:
        from ballonet.lifecycle.filters import parse_filters

        filters = parse_filters(options.filters)
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    if filters is not None:
        records = list(filter(filters.match, records))
    if options.command == "ps":
        records = [record for record in records if record.state.lives]
    if options.quiet:
        print(*(record.name for record in records), sep="\n", end="\n" if records else "")
        return 0
    rows = [row for row, _ in describe(records)]
    if options.json:
        return print_json(rows)
    if line is not None:
        print(*map(line, rows), sep="\n", end="\n" if rows else "")
        return 0
    print_table(
        _HEADINGS,
        [
            (
                row["name"],
                row["state"],
                *(_show_mib(row[key]) for key in _SIZES),
                show_age(record.started_at if record.state.lives else record.created_at),
                _detail(row),
            )
            for record, row in zip(records, rows, strict=True)
        ],
    )
    return 0


def _detail(row: dict[str, Any]) -> str | None:
    if row["state"] == State.PAUSED:
        size = None if row["saved_mib"] is None else f"{row['saved_mib']}M saved"
        return ": ".join(filter(None, (size, row["end_detail"]))) or None
    if row["state"] in ("stopped", "failed") or row["end_reason"] == "unreadable":
        detail = row["end_detail"] or row["end_reason"]
        return None if detail is None else detail.splitlines()[0][:80]
    states = [] if row["health"] is None else [f"health: {row['health']}"]
    if row["balloon_state"] not in (None, "applied"):
        states.append(row["balloon_state"])
    return ", ".join([*states, *("→".join(port.rsplit(":", 1)) for port in row["ports"])]) or None


def _show_mib(value: int | None) -> str | None:
    return None if value is None else f"{value}M"
