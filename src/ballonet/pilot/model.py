"""What a policy sees and what it says. Pure data; no I/O, no clock: time is an input like any other.

Sizes are MiB of guest-visible or host memory, as named. ``None`` is *unknown*, never zero. Named tuples, because a
simulation makes some hundred thousand of them a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

#: A value that went into a decision, as ``pilot explain`` shows it.
Input = int | float | str | None

#: How much is promised for each MiB that is there if nobody says otherwise.
DEFAULT_OVERCOMMIT = 2.0
#: Available memory beyond the reserve, as a share of the host's, from which all of that is promised.
EASE_SHARE = 0.25


class HostView(NamedTuple):
    """The host at one tick. With a budget it is the budget's view: as if the host had no more memory than that."""

    #: Seconds since the loop (or the simulation) began.
    at_s: float
    total_mib: int
    #: What new programs could have without swapping; of a budget: what the sandboxes do not hold of it, negative when
    #: they hold more.
    available_mib: int | None
    #: Memory that sandboxes are never promised.
    reserve_mib: int = 0
    #: Time since boot in which some, and all, of the host's tasks stalled on memory (PSI totals, microseconds).
    pressure_some_us: int | None = None
    pressure_full_us: int | None = None
    #: How much may be promised for each MiB that is there, while enough is available: see :func:`promisable_mib`.
    overcommit: float = 1.0


class SandboxView(NamedTuple):
    """One running sandbox at one tick."""

    name: str
    ceiling_mib: int
    floor_mib: int
    #: The target in force, whoever set it: pressure relief raises it, too.
    target_mib: int
    actual_mib: int | None
    #: The balloon's state: see :class:`ballonet.vmm.convergence.State`.
    state: str = "applied"
    #: Share of memory, against 100 for others.
    weight: int = 100
    #: Guest-visible memory that is never taken from it.
    reserve_mib: int = 0
    #: Host memory of the engine's process, and of the guest's RAM in it alone.
    resident_mib: int | None = None
    guest_ram_mib: int | None = None
    #: The guest's own word, and how old it is.
    guest_total_mib: int | None = None
    guest_free_mib: int | None = None
    guest_available_mib: int | None = None
    guest_caches_mib: int | None = None
    guest_age_s: float | None = None
    #: Totals since the guest's boot.
    pressure_some_us: int | None = None
    pressure_full_us: int | None = None
    major_faults: int | None = None
    oom_kills: int | None = None
    #: Contents of files that it read again after they had been reclaimed.
    refault_mib: int | None = None
    #: Seconds since it was up.
    age_s: float = 0.0
    #: Why it is to be left alone: an input is missing or absurd, or it did not answer. ``None``: nothing is wrong.
    problem: str | None = None

    @property
    def least_mib(self) -> int:
        """The least that a policy may give it: its floor or what is reserved for it, within its ceiling."""
        return min(self.ceiling_mib, max(self.floor_mib, self.reserve_mib))


class Verdict(NamedTuple):
    """What is to become of one sandbox."""

    sandbox: str
    #: What to ask for; ``None``: it is left alone.
    target_mib: int | None
    #: A sentence for a person, with the numbers that decided.
    reason: str
    #: Every input of the decision.
    inputs: Mapping[str, Input] = {}
    #: Clean caches that the guest is to drop (MiB). With free-page reporting they leave the host, and no balloon moves.
    trim_mib: int = 0


class Decision(NamedTuple):
    """One tick's result: a verdict per sandbox that was seen, and what the policy remembers for the next tick."""

    verdicts: Sequence[Verdict]
    memory: Any
    #: About the whole host, such as that not all floors can be kept.
    notes: Sequence[str] = ()


class Policy(Protocol):
    """A rule that moves targets. Deterministic: the same inputs give the same decision."""

    @property
    def name(self) -> str: ...

    @property
    def period_s(self) -> float:
        """How often it wants to be asked."""
        ...

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        """:param memory: what the last decision remembered; ``None`` at first, and after a restart."""
        ...


def backed_mib(host: HostView, sandboxes: Sequence[SandboxView]) -> int | None:
    """What the sandboxes' guests hold and could still have, less the host's reserve: what is there for them. Their
    engines' own memory is not. ``None``: the host does not say."""
    if host.available_mib is None:
        return None
    guest_ram = sum(sandbox.guest_ram_mib or 0 for sandbox in sandboxes)
    return max(0, host.available_mib + guest_ram - host.reserve_mib)


def promisable_mib(host: HostView, sandboxes: Sequence[SandboxView]) -> int | None:
    """What all targets together may come to: :func:`backed_mib`, and more than that (``host.overcommit`` times as much)
    as long as the host has memory available.

    Guests seldom want all of it in the same minute, and room that is not used costs the host nothing. The less there
    is beyond the reserve, the less more is promised: at :data:`EASE_SHARE` of the host's memory all of it, at nothing
    no more than there is.
    """
    backed = backed_mib(host, sandboxes)
    if backed is None or host.available_mib is None or host.overcommit <= 1 or host.total_mib <= 0:
        return backed
    ease = (host.available_mib - host.reserve_mib) / (host.total_mib * EASE_SHARE)
    return int(backed * (1 + (host.overcommit - 1) * min(1.0, max(0.0, ease))))
