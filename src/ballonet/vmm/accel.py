"""Chooses between hardware virtualisation (KVM) and software emulation (TCG).

Opening ``/dev/kvm`` is not enough: paravirtual hosts have one on which a stock guest kernel hangs. KVM is used only if
the processor has hardware virtualisation (flag ``vmx`` on Intel, ``svm`` on AMD).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError
from ballonet.vmm.config import Accel

#: Chooses the accelerator of every sandbox that has not chosen one itself.
VARIABLE = "BALLONET_ACCEL"
KVM_DEVICE = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class AccelChoice:
    """The accelerator, and why it was chosen, for a person."""

    accel: Accel
    reason: str


def choose_accel(requested: Accel, *, kvm_opens: bool, cpu_flags: frozenset[str]) -> AccelChoice:
    """Choose. An explicit ``kvm`` or ``tcg`` is always used."""
    if requested is not Accel.AUTO:
        return AccelChoice(requested, "requested")
    virtualisation = cpu_flags & {"vmx", "svm"}
    if kvm_opens and virtualisation:
        return AccelChoice(Accel.KVM, f"/dev/kvm opens and the processor has {min(virtualisation)}")
    if kvm_opens:
        return AccelChoice(Accel.TCG, "/dev/kvm opens, but the processor has neither vmx nor svm")
    if virtualisation:
        reason = "the processor has hardware virtualisation, but /dev/kvm cannot be opened read-write"
        return AccelChoice(Accel.TCG, reason)
    return AccelChoice(Accel.TCG, "this host has no hardware virtualisation")


def detect_accel(requested: Accel = Accel.AUTO, env: Mapping[str, str] | None = None) -> AccelChoice:
    """:func:`choose_accel` for this host. ``$BALLONET_ACCEL`` applies where ``requested`` is ``auto``.

    :param env: the environment to read; the process's own by default.
    :raises ConfigError: ``$BALLONET_ACCEL`` is not an accelerator.
    """
    value = (os.environ if env is None else env).get(VARIABLE)
    if requested is Accel.AUTO and value:
        if value not in list(Accel):
            raise ConfigError(f"{VARIABLE} {value!r} is unknown", hint=f"choose one of {', '.join(Accel)}")
        requested = Accel(value)
        if requested is not Accel.AUTO:
            return AccelChoice(requested, f"{VARIABLE} is set")
    return choose_accel(requested, kvm_opens=_opens_read_write(KVM_DEVICE), cpu_flags=read_cpu_flags())


def usable_accels(has: Collection[str]) -> list[Accel]:
    """What guests can boot with on this host, the default first.

    :param has: the engine's accelerators.
    """
    shown = choose_accel(
        Accel.AUTO, kvm_opens=_opens_read_write(KVM_DEVICE), cpu_flags=read_cpu_flags()
    ).accel
    return [accel for accel in dict.fromkeys((detect_accel().accel, shown, Accel.TCG)) if accel in has]


def read_cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The feature flags of the first processor; empty if the file cannot be read."""
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def _opens_read_write(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
