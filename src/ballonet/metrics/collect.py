"""Reads the model: the registry, each sandbox's control socket with a deadline of its own, and the host's /proc."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ballonet import lifecycle
from ballonet.errors import BallonetError
from ballonet.host.proc import PROC, read_resident
from ballonet.memory import kib_to_bytes, mib_to_bytes
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot, sample_of
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
    return sample_of(
        name=record.name,
        run_id=record.run_id,
        created_at=record.created_at,
        at=time.time(),
        balloon=balloon,
        stats=stats,
        ceiling_mib=lifecycle.config_of(record, note.flags).memory_mib,
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
    fields = _meminfo()
    some, full = _pressure()
    return HostSample(
        at=time.time(),
        total=fields.get("MemTotal"),
        available=fields.get("MemAvailable"),
        pressure_some_s=some,
        pressure_full_s=full,
        committed=sum(sample.ceiling or 0 for sample in running),
        # One whose target is unknown may have its ceiling.
        promised=sum(
            (sample.target if sample.target is not None else sample.ceiling) or 0 for sample in running
        ),
        held=sum(sample.resident or 0 for sample in running),
    )


def _meminfo() -> dict[str, int]:
    found = {}
    for line in (PROC / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = kib_to_bytes(int(value.split()[0]))
    return found


def _pressure() -> tuple[float | None, float | None]:
    """Seconds since boot in which some, and all, of the host's tasks stalled on memory."""
    try:
        lines = (PROC / "pressure/memory").read_text().splitlines()
        totals = {line.split()[0]: int(line.rpartition("total=")[2]) / 1e6 for line in lines}
    except (OSError, ValueError, IndexError):
        return None, None
    return totals.get("some"), totals.get("full")


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib_to_bytes(mib)


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6
