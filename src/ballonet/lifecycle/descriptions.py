"""Sandboxes, images and snapshots as JSON objects: what the command line prints, and the HTTP server answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import asdict
from ballonet.base.errors import BallonetError
from ballonet.base.memory import bytes_to_mib
from ballonet.base.paths import state_dir_of
from ballonet.base.timestamps import iso_time
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.samples import read_samples
from ballonet.machine.paused_file import paused_bytes
from ballonet.metrics.model import SandboxSample

if TYPE_CHECKING:
    from ballonet.images.image import Image
    from ballonet.lifecycle.image_settings import Settings
    from ballonet.lifecycle.snapshots import Snapshot

#: How long to wait for a sandbox's control socket before its row is shown without sizes (seconds).
_ANSWER_S = 1.0
#: The guest's figures are not shown, so any age will do: the guest need not be asked.
_GUEST_AGE_S = 86400.0


def describe(records: Sequence[Record]) -> list[tuple[dict[str, Any], SandboxSample]]:
    """For each sandbox its JSON object and its memory. Running sandboxes are queried concurrently."""
    samples = read_samples(records, deadline_s=_ANSWER_S, guest_age_s=_GUEST_AGE_S)
    return [(_row(record, sample), sample) for record, sample in zip(records, samples, strict=True)]


def describe_in_detail(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The JSON objects of sandboxes, with their configurations."""
    return [
        row | _details(record, sample)
        for record, (row, sample) in zip(records, describe(records), strict=True)
    ]


def _row(record: Record, sample: SandboxSample) -> dict[str, Any]:
    note = living(record)
    paused = record.state is State.PAUSED
    return {
        "name": record.name,
        "state": record.state.value,
        "image": record.image,
        "command": None if record.command is None else list(record.command.argv),
        "labels": record.labels,
        "health": None if note is None else note.health,
        "pid": None if note is None else note.process.pid,
        "ports": [] if note is None else list(note.ports),
        "ceiling_mib": _mib(sample.ceiling),
        "target_mib": _mib(sample.target),
        "actual_mib": _mib(sample.actual),
        "balloon_state": sample.balloon_state,
        "resident_mib": _mib(sample.resident),
        "guest_ram_mib": _mib(sample.guest_ram),
        "engine_mib": _mib(sample.overhead),
        #: What a paused sandbox takes on disk now, and about that in memory when it is resumed.
        "saved_mib": _mib(paused_bytes(state_dir_of(record.name))) if paused else None,
        "weight": record.weight,
        "reserve_mib": record.reserve_mib,
        "created_at": iso_time(record.created_at),
        "started_at": iso_time(record.started_at),
        "ended_at": iso_time(record.ended_at),
        "end_reason": record.end_reason,
        "end_detail": record.end_detail,
        "exit_code": record.exit_code,
    }


def _details(record: Record, sample: SandboxSample) -> dict[str, Any]:
    from ballonet.host.confined import read_confinement
    from ballonet.machine.engine_confinement import noted_landlock
    from ballonet.metrics.columns import row as memory_row

    note = living(record)
    running = None if note is None else asdict(lifecycle.config_of(record, note.flags))
    desired = asdict(lifecycle.config_of(record))
    inherited = _inherited(record)
    return {
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


def _inherited(record: Record) -> Settings:
    from ballonet.lifecycle.image_settings import image_of, shown_settings

    try:
        image = image_of(record)
    except BallonetError:
        image = None  # the image was removed: only the sandbox's own settings are known
    return shown_settings(record, image)


def _pending(desired: dict[str, Any], running: dict[str, Any] | None) -> dict[str, Any]:
    return (
        {} if running is None else {name: value for name, value in desired.items() if running[name] != value}
    )


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else bytes_to_mib(size_bytes)


def describe_image(image: Image, users: dict[str, list[str]]) -> dict[str, Any]:
    """The JSON object of an image.

    :param users: of :func:`image_users`.
    """
    return {
        "id": image.id,
        "names": list(image.names),
        "root": str(image.root),
        "size_bytes": image.size_bytes,
        "created_at": iso_time(image.created_at),
        "architecture": image.architecture,
        "manifest": image.manifest,
        "config": image.config.to_json(),
        "used_by": users.get(image.id, []),
    }


def image_users() -> dict[str, list[str]]:
    """The names of the sandboxes, and as "snapshot NAME" of the snapshots, that use an image, by image ID."""
    from ballonet.images.image import image_id_of
    from ballonet.lifecycle.liveness import machines
    from ballonet.lifecycle.registry import Registry
    from ballonet.lifecycle.snapshots import Snapshots
    from ballonet.settings.flags import parse_config

    users: dict[str, list[str]] = {}
    with Registry.open() as registry:
        for record in lifecycle.list_sandboxes(registry):
            if record.image_id is not None:
                users.setdefault(record.image_id, []).append(record.name)
    # A running sandbox still uses its root if it was removed from the registry or modified since its start.
    for machine in machines():
        root = parse_config(machine.flags).root
        names = [] if root is None else users.setdefault(image_id_of(root), [])
        if machine.name not in names:
            names.append(machine.name)
    for image_id, snapshots in Snapshots.open().image_users().items():
        users.setdefault(image_id, []).extend(f"snapshot {name}" for name in snapshots)
    return users


def describe_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """The JSON object of a snapshot."""
    facts = snapshot.facts
    found: dict[str, Any] = {
        "name": snapshot.name,
        "path": str(snapshot.path),
        "size_bytes": snapshot.held_bytes,
        "problem": snapshot.problem,
    }
    if facts is None:
        return found
    return found | {
        "sandbox": facts.sandbox,
        "created_at": iso_time(facts.created_at),
        "image": facts.image,
        "image_id": facts.image_id,
        "command": None if facts.command is None else list(facts.command.argv),
        "command_runs": facts.command_runs,
        "resident_bytes": facts.resident_bytes,
        "disk_bytes": facts.disk_bytes,
        "stopped_s": facts.stopped_s,
        "platform": asdict(facts.platform),
        "ballonet": facts.ballonet,
        "config": asdict(facts.config) | {"image": facts.image},
    }
