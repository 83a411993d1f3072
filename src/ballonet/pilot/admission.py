"""Whether a host has room for one more sandbox, with the numbers. Pure.

Memory that the other sandboxes could give back counts as free: what they hold above their use and their guard, but not
below their floor or reserve. A sandbox whose balloon does not follow, or that reports nothing, cannot give anything
back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ballonet.pilot.checks import problem_of
from ballonet.pilot.limits import commitment_mib, follows
from ballonet.pilot.model import HostView, SandboxView, backed_mib
from ballonet.vmm.guard import default_guard_mib

#: What a guest needs to boot and run a small program, in addition to the page tables for its ceiling (1/64): a Debian
#: cloud kernel and the built-in root (``docs/decisions.md``, 13: 153 of 256 MiB were still available).
BOOT_MIB = 100
#: The engine's own memory under emulation (measured: about 97 MiB); less with KVM.
ENGINE_MIB = 100


class Admission(NamedTuple):
    """The answer, and the reason with the numbers."""

    ok: bool
    reason: str
    #: What the new sandbox needs, and what it could get at most (MiB).
    needed_mib: int
    free_mib: int | None


def admit(
    host: HostView,
    sandboxes: Sequence[SandboxView],
    ceiling_mib: int,
    initial_mib: int,
    floor_mib: int,
    reserve_mib: int,
) -> Admission:
    """Decide whether a sandbox may start."""
    needed = needed_mib(ceiling_mib, initial_mib, floor_mib, reserve_mib)
    promisable = backed_mib(host, sandboxes)
    if promisable is None:
        return Admission(False, "the host does not report its available memory", needed, None)
    held = sum(held_mib(view) for view in sandboxes)
    free = max(0, promisable - held)
    ok = needed <= free
    reason = (
        f"it needs {needed} MiB ({needed - ENGINE_MIB} for the guest, {ENGINE_MIB} for the engine), "
        f"{'and' if ok else 'but only'} {free} MiB are free: of the host's {host.total_mib} MiB, {host.reserve_mib} "
        f"are reserved and {promisable} may be promised to sandboxes; running sandboxes ({len(sandboxes)}) need "
        f"{held}"
    )
    return Admission(ok, reason, needed, free)


def needed_mib(ceiling_mib: int, initial_mib: int, floor_mib: int, reserve_mib: int) -> int:
    """What a sandbox needs to start (MiB): its engine, and for the guest its floor, its reserve or what it needs to
    boot (within its initial memory), whichever is most."""
    boot = min(initial_mib, BOOT_MIB + ceiling_mib // 64 + default_guard_mib(ceiling_mib))
    return min(ceiling_mib, max(floor_mib, reserve_mib, boot)) + ENGINE_MIB


def held_mib(view: SandboxView) -> int:
    """What cannot be taken from a sandbox at present (MiB)."""
    if problem_of(view) is not None or not follows(view):
        return commitment_mib(view)
    assert view.actual_mib is not None and view.guest_available_mib is not None
    works = view.actual_mib - view.guest_available_mib + default_guard_mib(view.ceiling_mib)
    return min(view.ceiling_mib, max(view.least_mib, works))
