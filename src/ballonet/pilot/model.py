"""What a policy sees and what it returns. Pure data without I/O or a clock: time is an input.

Sizes are MiB of guest-visible or host memory, as named. ``None`` means *unknown*, never zero. These are named tuples
because a simulation creates some hundred thousand of them per second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ballonet.pilot.price import price_of

#: A value that a decision was based on, as ``pilot explain`` shows it.
Input = int | float | str | None

#: How many MiB are promised for each MiB that is there, by default.
DEFAULT_OVERCOMMIT = 2.0


class HostView(NamedTuple):
    """The host at one tick. With a budget: as if the host had no more memory than the budget."""

    #: Seconds since the loop (or the simulation) started.
    at_s: float
    total_mib: int
    #: What new programs could use without swapping. With a budget: the part of it that the sandboxes do not hold,
    #: negative if they hold more.
    available_mib: int | None
    #: Memory that is never promised to sandboxes.
    reserve_mib: int = 0
    #: Time since boot during which some, and all, of the host's tasks stalled on memory (PSI totals, microseconds).
    pressure_some_us: int | None = None
    pressure_full_us: int | None = None
    #: How many MiB may be promised for each MiB that is there, while enough is available: see :func:`promisable_mib`.
    overcommit: float = 1.0

    @property
    def price(self) -> float | None:
        """The price of memory, from 0 to 1 (:mod:`ballonet.pilot.price`); ``None`` if it is unknown."""
        return price_of(self.available_mib, self.reserve_mib, self.total_mib)


class SandboxView(NamedTuple):
    """One running sandbox at one tick."""

    name: str
    ceiling_mib: int
    floor_mib: int
    #: The target in force, whoever set it: pressure relief raises it as well.
    target_mib: int
    actual_mib: int | None
    #: The balloon's state: see :class:`ballonet.vmm.convergence.State`.
    state: str = "applied"
    #: Share of memory relative to other sandboxes (default 100).
    weight: int = 100
    #: Guest-visible memory that is never taken away.
    reserve_mib: int = 0
    #: Host memory of the engine's process, and the part of it that is the guest's RAM.
    resident_mib: int | None = None
    guest_ram_mib: int | None = None
    #: What the guest reports, and how old the report is.
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
    #: File contents that the guest read again after they had been reclaimed.
    refault_mib: int | None = None
    #: Seconds since the guest was up.
    age_s: float = 0.0
    #: Why the sandbox must be left alone: an input is missing or impossible, or it did not answer.
    problem: str | None = None
    #: Caches that the guest's kernel would reclaim first: not used again lately.
    guest_inactive_mib: int | None = None
    #: Totals of the engine's process since it started: processor time, and bytes read and written.
    engine_cpu_s: float | None = None
    engine_io_mib: int | None = None
    #: Whether the autopilot may pause it.
    pausable: bool = False

    @property
    def least_mib(self) -> int:
        """The lowest target a policy may set: the floor or the reserve, whichever is higher, up to the ceiling."""
        return min(self.ceiling_mib, max(self.floor_mib, self.reserve_mib))


class Verdict(NamedTuple):
    """The decision about one sandbox."""

    sandbox: str
    #: The target to set; ``None``: leave it as it is.
    target_mib: int | None
    #: The reason in words, with the numbers that led to it.
    reason: str
    #: All inputs of the decision.
    inputs: Mapping[str, Input] = {}
    #: Clean caches that the guest should drop (MiB). Free-page reporting returns them to the host without the balloon.
    trim_mib: int = 0
    #: Whether it drops them only while it is idle, at the lowest priority.
    gentle: bool = False
    #: Whether the sandbox is paused. Its target is not set then and its guest drops nothing, unless that fails: the
    #: next decision sees it.
    pause: bool = False


class Decision(NamedTuple):
    """The result of one tick: a verdict for each sandbox, and what the policy remembers for the next tick."""

    verdicts: Sequence[Verdict]
    memory: Any
    #: Remarks about the whole host, for example that not all floors can be met.
    notes: Sequence[str] = ()


class Policy(Protocol):
    """A rule that sets targets. Deterministic: the same inputs give the same decision."""

    @property
    def name(self) -> str: ...

    @property
    def period_s(self) -> float:
        """Seconds between two decisions."""
        ...

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        """:param memory: what the last decision remembered; ``None`` at the start and after a restart."""
        ...


def backed_mib(host: HostView, sandboxes: Sequence[SandboxView]) -> int | None:
    """Memory that is there for guests: what they hold and what is still available, less the host's reserve. The
    engines' own memory does not count. ``None``: the host does not report its available memory."""
    if host.available_mib is None:
        return None
    guest_ram = sum(sandbox.guest_ram_mib or 0 for sandbox in sandboxes)
    return max(0, host.available_mib + guest_ram - host.reserve_mib)


def promisable_mib(host: HostView, sandboxes: Sequence[SandboxView]) -> int | None:
    """The limit for the sum of all targets: :func:`backed_mib`, or up to ``host.overcommit`` times as much as long as
    the host has memory available.

    Guests rarely need their full targets at the same time, and unused room costs the host nothing. The overcommit
    shrinks as the price of memory rises: it applies in full at price 0, and not at all at price 1.
    """
    backed = backed_mib(host, sandboxes)
    price = host.price
    if backed is None or price is None or host.overcommit <= 1:
        return backed
    return int(backed * (1 + (host.overcommit - 1) * (1 - price)))


def promise_limit_mib(
    host: HostView, sandboxes: Sequence[SandboxView], kept: Mapping[str, int]
) -> int | None:
    """:func:`promisable_mib`, or more if guests at work keep targets that they do not fill.

    :param kept: the lowest targets of guests (:func:`ballonet.pilot.price.kept_mib`), by name. What is available may be
        promised to others all the same; otherwise a guest could not grow while memory is plenty.
    """
    backed, promisable = backed_mib(host, sandboxes), promisable_mib(host, sandboxes)
    if backed is None or promisable is None:
        return None
    unfilled = sum(
        max(0, kept[view.name] - max(view.least_mib, view.guest_ram_mib or 0))
        for view in sandboxes
        if view.name in kept
    )
    return max(promisable, backed + unfilled)
