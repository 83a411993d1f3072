"""``ballonet inspect``: shows detailed information about sandboxes, as JSON."""

from __future__ import annotations

import argparse
from typing import Any

from ballonet.base.dataclass import asdict
from ballonet.base.errors import BallonetError
from ballonet.base.paths import state_dir_of
from ballonet.cli.ls import describe
from ballonet.cli.name_arguments import add_names, for_each
from ballonet.cli.output import print_json
from ballonet.host.confined import read_confinement
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import Settings, image_of, shown_settings
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.machine.engine_confinement import noted_landlock
from ballonet.metrics.columns import row as memory_row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument("--json", action="store_true", help="no effect: the output is always JSON")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        records: list[Record] = []
        status = for_each(options.names, lambda name: records.append(lifecycle.find(registry, name)))
    found = []
    for record, (row, sample) in zip(records, describe(records), strict=True):
        note = living(record)
        running = None if note is None else asdict(lifecycle.config_of(record, note.flags))
        desired = asdict(lifecycle.config_of(record))
        inherited = _inherited(record)
        found.append(
            row
            | {
                "desired": desired,
                "running": running,
                #: Settings that take effect at the next start.
                "pending": _pending(desired, running),
                #: Defaults for commands in the sandbox.
                "env": inherited.env,
                "workdir": inherited.cwd,
                "user": inherited.user,
                "auto_remove": record.auto_remove,
                "state_dir": str(state_dir_of(record.name)),
                "control_socket": None if note is None else note.control_socket,
                "engine_pid": None if note is None else note.engine_pid,
                #: What the engine is kept from.
                "confinement": None
                if note is None
                else read_confinement(note.engine_pid, noted_landlock(state_dir_of(record.name))),
                "boot_s": None if note is None else note.boot_s,
                #: All memory figures, in bytes.
                "memory": None if note is None else memory_row(sample),
            }
        )
    return print_json(found) or status


def _inherited(record: Record) -> Settings:
    try:
        image = image_of(record)
    except BallonetError:
        image = None  # the image was removed: only the sandbox's own settings are known
    return shown_settings(record, image)


def _pending(desired: dict[str, Any], running: dict[str, Any] | None) -> dict[str, Any]:
    return (
        {} if running is None else {name: value for name, value in desired.items() if running[name] != value}
    )
