"""``ballonet ls`` (all sandboxes) and ``ballonet ps`` (running ones): one row for each, with its memory."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.cli.output import print_json, print_table, show_age
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
  DETAIL   of a paused sandbox: its size on disk, and in memory once resumed"""
_SIZES = ("ceiling_mib", "target_mib", "actual_mib", "guest_ram_mib", "engine_mib")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only names")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    if options.command == "ps":
        records = [record for record in records if record.state.lives]
    if options.quiet:
        print(*(record.name for record in records), sep="\n", end="\n" if records else "")
        return 0
    rows = [row for row, _ in describe(records)]
    if options.json:
        return print_json(rows)
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
    states = [] if row["balloon_state"] in (None, "applied") else [row["balloon_state"]]
    return ", ".join([*states, *("→".join(port.rsplit(":", 1)) for port in row["ports"])]) or None


def _show_mib(value: int | None) -> str | None:
    return None if value is None else f"{value}M"
