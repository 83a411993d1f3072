"""What the engine of a sandbox uses of the host: processor time, memory, and what it reads and writes (``/proc``)."""

from __future__ import annotations

import time

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import NotRunningError
from ballonet.base.memory import mib_to_bytes
from ballonet.host.proc import read_cpu_s, read_io, read_resident
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.record import Record
from ballonet.settings.flags import parse_config


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The totals of one run, at one time. The guest was not asked. ``None``: unknown."""

    name: str
    run_id: str | None
    #: When it was read (unix seconds).
    at: float
    cpus: int
    ceiling_bytes: int
    #: Processor time of the engine since its start, of all processors (seconds).
    cpu_s: float | None
    #: Host memory of the engine, with the guest's RAM.
    resident_bytes: int | None
    guest_ram_bytes: int | None
    #: What the engine has read and written with system calls: disks, mostly, in the page cache or on a device.
    read_bytes: int | None
    written_bytes: int | None
    #: What of that reached a device.
    device_read_bytes: int | None
    device_written_bytes: int | None

    def rates_since(self, before: Usage | None) -> Rates:
        """The rates between ``before`` and this; unknown if it is of another run."""
        if before is None or before.run_id != self.run_id or self.at <= before.at:
            return Rates(None, None, None)
        seconds = self.at - before.at

        def rate(old: float | None, new: float | None) -> float | None:
            return None if old is None or new is None else max(0.0, new - old) / seconds

        cpus = rate(before.cpu_s, self.cpu_s)
        return Rates(
            None if cpus is None else 100 * cpus,
            rate(before.read_bytes, self.read_bytes),
            rate(before.written_bytes, self.written_bytes),
        )


@dataclass(frozen=True)
class Rates:
    """Rates over an interval."""

    #: 100 is one processor.
    cpu_percent: float | None
    read_bytes_per_s: float | None
    written_bytes_per_s: float | None


def read_usage(record: Record) -> Usage:
    """The usage of a sandbox now.

    :raises NotRunningError: it is not running.
    """
    note = living(record)
    if note is None or note.engine is None:
        raise NotRunningError(
            f"sandbox {record.name!r} is not running", hint="'ballonet ps' lists running sandboxes"
        )
    config = parse_config(note.flags)
    resident, io = read_resident(note.engine_pid), read_io(note.engine_pid)
    return Usage(
        name=record.name,
        run_id=note.run_id,
        at=time.time(),
        cpus=config.cpus,
        ceiling_bytes=mib_to_bytes(config.memory_mib),
        cpu_s=read_cpu_s(note.engine_pid),
        resident_bytes=None if resident is None else resident.total_bytes,
        guest_ram_bytes=None if resident is None else resident.guest_ram_bytes,
        read_bytes=None if io is None else io.read_bytes,
        written_bytes=None if io is None else io.written_bytes,
        device_read_bytes=None if io is None else io.device_read_bytes,
        device_written_bytes=None if io is None else io.device_written_bytes,
    )
