"""Reads what sandboxes have on disk, and how they were started, for the exporter."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.base.errors import BallonetError
from ballonet.base.paths import cache_dir, state_dir, state_dir_of
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.machine.paused_file import paused_bytes
from ballonet.machine.start_counts import read_starts
from ballonet.machine.templates import SUFFIX
from ballonet.metrics.stored import StoredSample


def read_stored(records: Sequence[Record]) -> StoredSample:
    """The files of the sandboxes ``records``, and those of all snapshots and templates of this user."""
    paused = [record for record in records if record.state is State.PAUSED]
    snapshots, snapshots_bytes = _snapshots()
    templates = _template_sizes()
    return StoredSample(
        paused=len(paused),
        paused_bytes=sum(paused_bytes(state_dir_of(record.name)) or 0 for record in paused),
        snapshots=snapshots,
        snapshots_bytes=snapshots_bytes,
        templates=len(templates),
        templates_bytes=sum(templates),
        starts=read_starts(state_dir()),
    )


def _snapshots() -> tuple[int | None, int | None]:
    try:
        found = Snapshots.open().held()
    except (BallonetError, OSError):
        return None, None
    return len(found), sum(found.values())


def _template_sizes() -> list[int]:
    """The directory is not created for this."""
    sizes = []
    for path in (cache_dir() / "templates").glob(f"*{SUFFIX}"):
        try:
            sizes.append(path.stat().st_blocks * 512)
        except OSError:
            continue  # removed meanwhile
    return sizes
