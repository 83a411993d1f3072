"""What a saved guest needs of the host that runs it, found out for this host."""

from __future__ import annotations

from ballonet.base.errors import SnapshotError
from ballonet.lifecycle.snapshot_facts import Platform, SnapshotFacts
from ballonet.vmm.config import Accel, Machine


def platform_here(accel: Accel, machine: Machine) -> Platform:
    """The platform of a VM with this accelerator and machine type on this host.

    :raises EngineMissingError: there is no usable engine.
    """
    from ballonet.base.paths import cache_dir
    from ballonet.host.tsc import host_tsc_khz
    from ballonet.vmm.accel import read_cpu_flags
    from ballonet.vmm.default_engine import DefaultEngine

    engine = DefaultEngine.find(cache_dir())
    emulated = accel is Accel.TCG
    return Platform(
        engine=engine.name,
        engine_version=engine.version_text,
        accelerator=accel.value,
        machine=machine.value,
        cpu_flags=() if emulated else tuple(sorted(read_cpu_flags())),
        tsc_khz=host_tsc_khz(cache_dir()) if emulated and machine is Machine.MICROVM else None,
    )


def check_platform(what: str, facts: SnapshotFacts) -> None:
    """Check that this host can run the saved guest.

    :param what: names the snapshot in the message.
    :raises SnapshotError: it cannot; the message has the values of both.
    """
    from ballonet.vmm.accel import detect_accel

    saved = facts.platform
    # Emulation works on each host, hardware virtualisation only where it would be chosen.
    accel = Accel.TCG if saved.accelerator == Accel.TCG else detect_accel().accel
    problem = saved.problem_on(platform_here(accel, facts.config.machine))
    if problem is not None:
        raise SnapshotError(
            f"{what} cannot be restored here: {problem}",
            hint="a saved guest runs only with the same engine, its version, and the same processor features",
        )
