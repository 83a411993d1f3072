"""Reads the memory of all sandboxes: from the registry, the control sockets (with a timeout each), and /proc.

``ls``, ``inspect``, ``top`` and the exporter use it. Unless the caller requests newer figures, a guest is not asked
more often than its own sandbox does.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, HostError
from ballonet.base.memory import mib_to_bytes
from ballonet.base.paths import state_dir_of
from ballonet.host.memory import read_host_memory
from ballonet.host.proc import read_resident
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.metrics.model import (
    NO_BALLOON,
    TOTALS,
    HostSample,
    NetworkSample,
    SandboxSample,
    Snapshot,
    sample_of,
    sums,
    with_totals,
)
from ballonet.settings.flags import parse_config

if TYPE_CHECKING:
    from ballonet.control.ask import Answer
    from ballonet.control.backend import BalloonSnapshot
    from ballonet.machine.notes import MachineNote
    from ballonet.metrics.stored import StoredSample

#: Timeout for one sandbox (seconds).
DEADLINE_S = 2.0
#: Timeout for all sandboxes (seconds); the default scrape timeout of Prometheus is 10 s.
OVERALL_S = 8.0
#: Accepted age of a guest's figures (seconds). Its sandbox asks it more often while it is active (machine/sampler.py).
GUEST_AGE_S = 60.0


def collect(
    *,
    deadline_s: float = DEADLINE_S,
    overall_s: float = OVERALL_S,
    guest_age_s: float = GUEST_AGE_S,
    stored: bool = False,
    networks: bool = False,
) -> Snapshot:
    """All sandboxes and the host, now. A sandbox that does not answer costs ``deadline_s``, and does not affect others.

    Sandboxes that are not running have the totals in their history.

    :param overall_s: timeout for all; a sandbox that was not asked by then has its reason in ``unknown``.
    :param guest_age_s: accepted age of a guest's figures; 0: each guest is asked now.
    :param stored: also read what sandboxes have on disk.
    :param networks: also ask for what the networks have counted.
    """
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    samples = read_samples(records, deadline_s=deadline_s, overall_s=overall_s, guest_age_s=guest_age_s)
    samples = [
        _with_totals(sample) if sample.state in ("paused", "stopped", "failed") else sample
        for sample in samples
    ]
    disk: StoredSample | None = None
    if stored:
        from ballonet.lifecycle.stored import read_stored

        disk = read_stored(records)
    counted: Sequence[NetworkSample] = ()
    if networks:
        from ballonet.lifecycle.network import read_networks  # starts an event loop

        counted = read_networks(records, deadline_s)
    return Snapshot(read_host(samples), samples, disk, counted)


def read_samples(
    records: Sequence[Record],
    *,
    deadline_s: float = DEADLINE_S,
    overall_s: float = OVERALL_S,
    guest_age_s: float = GUEST_AGE_S,
) -> list[SandboxSample]:
    """These sandboxes now, asked concurrently; see :func:`collect`."""
    notes = [living(record) if record.state.lives else None for record in records]
    answers = _ask(notes, deadline_s=deadline_s, overall_s=overall_s, guest_age_s=guest_age_s)
    samples = [_sample(*each) for each in zip(records, notes, answers, strict=True)]
    return [
        sample if note is None or note.health is None else replace(sample, health=note.health)
        for sample, note in zip(samples, notes, strict=True)
    ]


def _ask(
    notes: Sequence[MachineNote | None], *, deadline_s: float, overall_s: float, guest_age_s: float
) -> list[Answer | None]:
    """The answer of each sandbox that has a control socket."""
    paths = [note.control_socket if note is not None and note.ready else None for note in notes]
    asked = [path for path in paths if path is not None]
    if not asked:
        return [None] * len(paths)
    from ballonet.control.ask import ask_each

    answers = ask_each(asked, max_age_s=guest_age_s, deadline_s=deadline_s, overall_s=overall_s)
    in_order = iter(answers)
    return [None if path is None else next(in_order) for path in paths]


def _sample(record: Record, note: MachineNote | None, answer: Answer | None) -> SandboxSample:
    if note is None or not note.ready:
        return _not_running(record)
    if answer is None:
        return _without_balloon(record, note)
    if answer.balloon is None or answer.stats is None:
        return _host_side(record, note, answer.error or "it did not answer", answer.balloon)
    return sample_of(
        name=record.name,
        run_id=record.run_id,
        created_at=record.created_at,
        at=time.time(),
        balloon=answer.balloon,
        stats=answer.stats,
        ceiling_mib=answer.balloon.ceiling_mib,
    )


def _not_running(record: Record) -> SandboxSample:
    if record.unreadable is not None:
        why = lifecycle.UNREADABLE
    else:
        # One that was running when the registry was read has ended since, or is being started again.
        why = "its process has just ended" if record.state is State.RUNNING else f"it is {record.state}"
    return SandboxSample(
        name=record.name,
        state=record.state.value,
        run_id=record.run_id,
        created_at=record.created_at,
        at=time.time(),
        unknown=dict.fromkeys(("balloon", "host", "pss", "guest"), why),
        ceiling=_ceiling(record),
    )


def _ceiling(record: Record, flags: tuple[str, ...] | None = None) -> int | None:
    """In bytes, of the desired configuration or of ``flags``; ``None`` if they cannot be read."""
    try:
        return mib_to_bytes(parse_config(record.flags if flags is None else flags).memory_mib)
    except BallonetError:
        return None


def _host_side(
    record: Record, note: MachineNote, why: str, balloon: BalloonSnapshot | None = None
) -> SandboxSample:
    """The sample of a sandbox that did not answer, or answered only in part."""
    from ballonet.control.backend import GuestMemory, GuestPressure, HostMemory, Stats

    resident = read_resident(note.engine_pid)
    host = HostMemory(
        resident_mib=None if resident is None else resident.total_mib,
        guest_ram_mib=None if resident is None else resident.guest_ram_mib,
    )
    sample = sample_of(
        name=record.name,
        run_id=record.run_id,
        created_at=record.created_at,
        at=time.time(),
        balloon=balloon,
        stats=Stats(GuestMemory(), GuestPressure(), None, host),
        ceiling_mib=0,
    )
    if balloon is None:
        sample = replace(sample, ceiling=_ceiling(record, note.flags))
    missing = ["pss", "guest"] if balloon is not None else ["balloon", "pss", "guest"]
    return replace(sample, unknown={**sample.unknown, **dict.fromkeys(missing, why)})


def _without_balloon(record: Record, note: MachineNote) -> SandboxSample:
    """A sandbox without a control socket: its last sample in the history, with the host's current figures."""
    now = _host_side(record, note, NO_BALLOON)
    last = _last_sample(history_path(record.name))
    if last is None or last.run_id != record.run_id:
        return now
    aged = None if last.pss_age_s is None else last.pss_age_s + now.at - last.at
    return replace(
        last,
        created_at=record.created_at,
        at=now.at,
        resident=now.resident,
        guest_ram=now.guest_ram,
        pss_age_s=aged,
        unknown={**last.unknown, "balloon": NO_BALLOON},
    )


def history_path(name: str) -> Path:
    """The history file of a sandbox."""
    from ballonet.metrics.history import HISTORY_FILE

    return state_dir_of(name) / HISTORY_FILE


def _with_totals(sample: SandboxSample) -> SandboxSample:
    last = _last_sample(history_path(sample.name))
    return sample if last is None else with_totals(sample, {name: getattr(last, name) for name in TOTALS})


def _last_sample(path: Path) -> SandboxSample | None:
    """The newest sample of a history; read only if the file has changed."""
    try:
        return _last_sample_of(path, path.stat().st_mtime_ns)
    except (OSError, HostError):
        return None


@functools.lru_cache(maxsize=4096)
def _last_sample_of(path: Path, changed_at: int) -> SandboxSample | None:
    from ballonet.metrics.history import last_sample

    return last_sample(path)


def read_host(samples: Sequence[SandboxSample]) -> HostSample:
    """The host now, with the sums over ``samples``."""
    memory = read_host_memory()
    unknown = {}
    if memory.total_bytes is None or memory.available_bytes is None:
        unknown["meminfo"] = "/proc/meminfo does not have it"
    if memory.pressure_some_s is None:
        unknown["pressure"] = "the host's kernel does not report pressure"
    return HostSample(
        at=time.time(),
        total=memory.total_bytes,
        available=memory.available_bytes,
        pressure_some_s=memory.pressure_some_s,
        pressure_full_s=memory.pressure_full_s,
        pressure_some_avg10=memory.pressure_some_avg10,
        unknown=unknown,
        **sums(samples),
    )
