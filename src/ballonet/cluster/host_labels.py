"""The labels that a host gives itself."""

from __future__ import annotations

from ballonet.vmm.accel import detect_accel
from ballonet.vmm.config import Accel

#: Whether guests run with hardware virtualisation there: ``yes`` or ``no``.
KVM = "kvm"
OWN = frozenset({KVM})


def own_labels() -> dict[str, str]:
    return {KVM: "yes" if detect_accel().accel is Accel.KVM else "no"}
