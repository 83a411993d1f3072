"""``ballonet ls`` (all sandboxes) and ``ballonet ps`` (those that run): a row each, with its memory."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet import lifecycle
from ballonet.cli.output import iso_time, print_json, print_table, show_age
from ballonet.machine.notes import MachineNote
from ballonet.registry.record import Record
from ballonet.registry.registry import Registry

#: How long a sandbox's control socket may take to answer until its row is shown without (seconds).
_ANSWER_S = 1.0
_HEADINGS = ("NAME", "STATE", "CEILING", "TARGET", "ACTUAL", "RESIDENT", "AGE", "DETAIL")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    parser.add_argument("-q", "--quiet", action="store_true", help="print names only")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    if options.command == "ps":
        records = [record for record in records if record.state.lives]
    if options.quiet:
        print(*(record.name for record in records), sep="\n", end="\n" if records else "")
        return 0
    rows = describe(records)
    if options.json:
        return print_json(rows)
    print_table(
        _HEADINGS,
        [
            (
                row["name"],
                row["state"],
                *(_mib(row[key]) for key in ("ceiling_mib", "target_mib", "actual_mib", "resident_mib")),
                show_age(record.started_at if record.state.lives else record.created_at),
                _detail(row),
            )
            for record, row in zip(records, rows, strict=True)
        ],
    )
    return 0


def describe(records: list[Record]) -> list[dict[str, Any]]:
    """What is known of each, for programs. The memory of those that run is asked of them, all at once."""
    notes = [lifecycle.living(record) if record.state.lives else None for record in records]
    balloons: list[dict[str, Any] | None] = [None] * len(records)
    if any(note is not None and note.control_socket for note in notes):
        import asyncio

        balloons = asyncio.run(_ask_all(notes))
    return [_row(record, note, told) for record, note, told in zip(records, notes, balloons, strict=True)]


def _row(record: Record, note: MachineNote | None, balloon: dict[str, Any] | None) -> dict[str, Any]:
    from ballonet.host.proc import read_resident

    resident = read_resident(note.engine_pid) if note is not None and note.engine_pid else None
    config = lifecycle.config_of(record, None if note is None else note.flags)
    told = balloon or {}
    return {
        "name": record.name,
        "state": record.state.value,
        "image": record.image,
        "command": None if record.command is None else list(record.command.argv),
        "pid": None if note is None else note.process.pid,
        "ceiling_mib": config.memory_mib,
        "target_mib": told.get("target_mib"),
        "actual_mib": told.get("actual_mib"),
        "balloon_state": told.get("state"),
        "resident_mib": None if resident is None else resident.total_mib,
        "ports": [] if note is None else list(note.ports),
        "weight": record.weight,
        "reserve_mib": record.reserve_mib,
        "created_at": iso_time(record.created_at),
        "started_at": iso_time(record.started_at),
        "ended_at": iso_time(record.ended_at),
        "end_reason": record.end_reason,
        "end_detail": record.end_detail,
        "exit_code": record.exit_code,
    }


async def _ask_all(notes: list[MachineNote | None]) -> list[dict[str, Any] | None]:
    import asyncio

    return await asyncio.gather(*(_ask(note) for note in notes))


async def _ask(note: MachineNote | None) -> dict[str, Any] | None:
    if note is None or note.control_socket is None:
        return None
    from dataclasses import asdict

    from ballonet.control.client import Client
    from ballonet.errors import ControlError

    try:
        async with await Client.connect(note.control_socket, deadline_s=_ANSWER_S) as client:
            return asdict(await client.get())
    except ControlError:
        return None


def _detail(row: dict[str, Any]) -> str | None:
    if row["state"] in ("stopped", "failed"):
        detail = row["end_detail"] or row["end_reason"]
        return None if detail is None else detail.splitlines()[0][:80]
    told = [] if row["balloon_state"] in (None, "applied") else [row["balloon_state"]]
    return ", ".join([*told, *("→".join(port.rsplit(":", 1)) for port in row["ports"])]) or None


def _mib(value: int | None) -> str | None:
    return None if value is None else f"{value}M"
