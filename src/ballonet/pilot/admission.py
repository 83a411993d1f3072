"""Whether a host can take one more sandbox: a pure judgement, with its numbers.

What the others could give back counts as there: all that they hold above what they use and their guard, but never
below their floor or reserve. A sandbox whose balloon does not follow, or that tells nothing, gives nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ballonet.pilot.checks import problem_of
from ballonet.pilot.limits import claim_mib, follows
from ballonet.pilot.model import HostView, SandboxView, backed_mib
from ballonet.vmm.guard import default_guard_mib

#: What a guest needs to boot and run a small program, beside the page tables of its ceiling (1/64): a Debian cloud
#: kernel and the built-in root (``docs/decisions.md``, 13: 153 of 256 MiB were still available).
BOOT_MIB = 100
#: The engine's own memory under emulation (measured: about 97 MiB); on KVM it is less.
ENGINE_MIB = 100


class Admission(NamedTuple):
    """The answer, and why: a sentence with the numbers."""

    ok: bool
    reason: str
    #: What the newcomer needs, and what could be given to it at most (MiB).
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
    """Judge a sandbox that is about to start."""
    needed = needed_mib(ceiling_mib, initial_mib, floor_mib, reserve_mib)
    promisable = backed_mib(host, sandboxes)
    if promisable is None:
        return Admission(False, "the host does not tell its available memory", needed, None)
    held = sum(held_mib(view) for view in sandboxes)
    free = max(0, promisable - held)
    asks = (
        f"it needs {needed} MiB ({needed - ENGINE_MIB} for the guest, {ENGINE_MIB} for its engine); of the host's "
        f"{host.total_mib} MiB, {host.reserve_mib} are its reserve, and of the {promisable} that sandboxes may be "
        f"promised, the {len(sandboxes)} that run cannot do with less than {held}"
    )
    if needed <= free:
        return Admission(True, f"{asks}: {free} MiB are left for it", needed, free)
    return Admission(False, f"{asks}: only {free} MiB are left for it", needed, free)


def needed_mib(ceiling_mib: int, initial_mib: int, floor_mib: int, reserve_mib: int) -> int:
    """What a sandbox needs that starts (MiB): its floor or reserve, and what a guest needs to boot, but that within its
    initial memory; and its engine."""
    boot = min(initial_mib, BOOT_MIB + ceiling_mib // 64 + default_guard_mib(ceiling_mib))
    return min(ceiling_mib, max(floor_mib, reserve_mib, boot)) + ENGINE_MIB


def held_mib(view: SandboxView) -> int:
    """What cannot be taken from a sandbox now (MiB)."""
    if problem_of(view) is not None or not follows(view):
        return claim_mib(view)
    assert view.actual_mib is not None and view.guest_available_mib is not None
    works = view.actual_mib - view.guest_available_mib + default_guard_mib(view.ceiling_mib)
    return min(view.ceiling_mib, max(view.least_mib, works))
