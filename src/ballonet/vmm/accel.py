"""Hardware virtualisation or emulation: how the choice is made.

``/dev/kvm`` that opens proves nothing: paravirtual hosts offer one that a stock guest kernel hangs on. KVM is
used only where the processor itself shows hardware virtualisation (``vmx`` on Intel, ``svm`` on AMD).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ballonet.vmm.config import Accel

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


def detect_accel(asked: Accel = Accel.AUTO) -> AccelChoice:
    """:func:`choose_accel` with what this host shows."""
    return choose_accel(asked, kvm_opens=_opens_read_write(KVM_DEVICE), cpu_flags=read_cpu_flags())


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
