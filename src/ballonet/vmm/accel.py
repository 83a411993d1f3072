"""Hardware virtualisation or emulation: how the choice is made.

``/dev/kvm`` that opens proves nothing: paravirtual hosts offer one that a stock guest kernel hangs on. KVM is
used only where the processor itself shows hardware virtualisation (``vmx`` on Intel, ``svm`` on AMD).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.errors import ConfigError
from ballonet.vmm.config import Accel

#: Chooses the accelerator of every sandbox that has not chosen one itself.
VARIABLE = "BALLONET_ACCEL"
KVM_DEVICE = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class AccelChoice:
    """The accelerator in use, and why, in words for a person."""

    accel: Accel
    reason: str


def choose_accel(asked: Accel, *, kvm_opens: bool, cpu_flags: frozenset[str]) -> AccelChoice:
    """Decide. An explicit ``kvm`` or ``tcg`` is always obeyed."""
    if asked is not Accel.AUTO:
        return AccelChoice(asked, "asked for")
    virtualisation = cpu_flags & {"vmx", "svm"}
    if kvm_opens and virtualisation:
        return AccelChoice(Accel.KVM, f"/dev/kvm opens and the processor has {min(virtualisation)}")
    if kvm_opens:
        return AccelChoice(Accel.TCG, "/dev/kvm opens, but the processor shows neither vmx nor svm")
    if virtualisation:
        return AccelChoice(Accel.TCG, "the processor could virtualise, but /dev/kvm does not open read-write")
    return AccelChoice(Accel.TCG, "this host has no hardware virtualisation")


def detect_accel(asked: Accel = Accel.AUTO, env: Mapping[str, str] | None = None) -> AccelChoice:
    """:func:`choose_accel` with what this host shows. ``$BALLONET_ACCEL`` decides where ``asked`` does not.

    :param env: the environment to read; the process's own by default.
    :raises ConfigError: ``$BALLONET_ACCEL`` is no accelerator.
    """
    said = (os.environ if env is None else env).get(VARIABLE)
    if asked is Accel.AUTO and said:
        if said not in list(Accel):
            raise ConfigError(f"{VARIABLE} {said!r} is unknown", hint=f"choose one of {', '.join(Accel)}")
        asked = Accel(said)
        if asked is not Accel.AUTO:
            return AccelChoice(asked, f"{VARIABLE} is set")
    return choose_accel(asked, kvm_opens=_opens_read_write(KVM_DEVICE), cpu_flags=read_cpu_flags())


def usable_accels(has: Collection[str]) -> list[Accel]:
    """What guests can boot with on this host, the default first.

    :param has: the engine's accelerators.
    """
    shown = choose_accel(
        Accel.AUTO, kvm_opens=_opens_read_write(KVM_DEVICE), cpu_flags=read_cpu_flags()
    ).accel
    return [accel for accel in dict.fromkeys((detect_accel().accel, shown, Accel.TCG)) if accel in has]


def read_cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The first processor's feature flags; empty when the file cannot be read."""
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
