"""Reads the model: the registry, each sandbox's control socket with a deadline of its own, and the host's /proc."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ballonet import lifecycle
from ballonet.errors import BallonetError
from ballonet.host.memory import read_host_memory
from ballonet.host.proc import read_resident
from ballonet.memory import mib_to_bytes
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot
from ballonet.registry.registry import Registry

if TYPE_CHECKING:
    from ballonet.machine.notes import MachineNote
    from ballonet.registry.record import Record

#: How long one sandbox may take to answer until its sample is taken without (seconds).
DEADLINE_S = 2.0


async def collect(*, deadline_s: float = DEADLINE_S) -> Snapshot:
    """All sandboxes and the host, now. One that is stuck costs ``deadline_s``, and not the others' answers."""
    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    samples = await asyncio.gather(*(_sample(record, deadline_s) for record in records))
    return Snapshot(_host(samples), samples)


async def _sample(record: Record, deadline_s: float) -> SandboxSample:
    note = lifecycle.living(record) if record.state.lives else None
    if note is None or not note.ready:
        config = lifecycle.config_of(record)
        return SandboxSample(
            name=record.name,
            state=record.state.value,
            run_id=record.run_id,
            at=time.time(),
            unknown=f"it is {record.state.value}",
            ceiling=mib_to_bytes(config.memory_mib),
        )
    try:
        async with asyncio.timeout(deadline_s):
            return await _ask(record, note)
    except (BallonetError, TimeoutError) as error:
        why = error.message if isinstance(error, BallonetError) else f"no answer within {deadline_s:g} s"
        return _host_side(record, note, why)


async def _ask(record: Record, note: MachineNote) -> SandboxSample:
    from ballonet.control.client import Client

    if note.control_socket is None:
        return _host_side(record, note, "it has no balloon, and so no control socket")
    async with await Client.connect(note.control_socket) as client:
        balloon, stats = await client.get(), await client.stats()
    now = time.time()
    guest, pressure = stats.guest, stats.pressure
    return SandboxSample(
        name=record.name,
        state=record.state.value,
        run_id=record.run_id,
        at=now,
        guest_at=None if guest.age_s is None else now - guest.age_s,
        unknown=None if guest.age_s is not None else "the guest does not report",
        ceiling=mib_to_bytes(balloon.ceiling_mib),
        floor=mib_to_bytes(balloon.floor_mib),
        requested=mib_to_bytes(balloon.requested_mib),
        target=mib_to_bytes(balloon.target_mib),
        actual=_bytes(balloon.actual_mib),
        limit=mib_to_bytes(balloon.ceiling_mib if balloon.limit_mib is None else balloon.limit_mib),
        balloon_state=balloon.state,
        resident=_bytes(stats.host.resident_mib),
        pss=_bytes(stats.host.pss_mib),
        guest_ram=_bytes(stats.host.guest_ram_mib),
        guest_total=_bytes(guest.total_mib),
        guest_free=_bytes(guest.free_mib),
        guest_available=_bytes(guest.available_mib),
        guest_caches=_bytes(guest.disk_caches_mib),
        major_faults=guest.major_faults,
        swap_in=_bytes(guest.swap_in_mib),
        swap_out=_bytes(guest.swap_out_mib),
        oom_kills=stats.oom_kills,
        pressure_some_s=_seconds(pressure.some_total_us),
        pressure_full_s=_seconds(pressure.full_total_us),
        pressure_some_avg10=pressure.some_avg10,
    )


def _host_side(record: Record, note: MachineNote, why: str) -> SandboxSample:
    """What can be told without the sandbox."""
    resident = read_resident(note.engine_pid)
    return SandboxSample(
        name=record.name,
        state=record.state.value,
        run_id=record.run_id,
        at=time.time(),
        unknown=why,
        ceiling=mib_to_bytes(lifecycle.config_of(record, note.flags).memory_mib),
        resident=None if resident is None else resident.total_bytes,
        guest_ram=None if resident is None else resident.guest_ram_bytes,
    )


def _host(samples: list[SandboxSample]) -> HostSample:
    running = [sample for sample in samples if sample.resident is not None]
    memory = read_host_memory()
    return HostSample(
        at=time.time(),
        total=memory.total_bytes,
        available=memory.available_bytes,
        pressure_some_s=memory.pressure_some_s,
        pressure_full_s=memory.pressure_full_s,
        committed=sum(sample.ceiling or 0 for sample in running),
        # One whose target is unknown may have its ceiling.
        promised=sum(
            (sample.target if sample.target is not None else sample.ceiling) or 0 for sample in running
        ),
        held=sum(sample.resident or 0 for sample in running),
    )


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib_to_bytes(mib)


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6
