"""One simulation: guests on a host, a policy that is called as in the real loop, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ballonet.pilot.checks import Seen, Violation, check_decision, remember
from ballonet.pilot.model import DEFAULT_OVERCOMMIT, Decision, HostView, Policy, SandboxView
from ballonet.pilot.simulator.guest import Guest
from ballonet.pilot.simulator.paused_guests import PausedGuests
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.spec import GuestSpec

#: The engine's own memory (published: the PSS of QEMU with an idle guest on KVM is 119 MB, of which about 80 are guest
#: RAM).
ENGINE_MIB = 40
#: The host's tasks stall when less than this share of it is available.
HOST_STALLS_SHARE = 0.02


@dataclass(frozen=True)
class Scenario:
    """Guests and the host that they share."""

    name: str
    about: str
    guests: Sequence[GuestSpec]
    duration_s: float
    #: The host's memory or the budget, the part that is never promised, and what other programs use.
    host_mib: int
    reserve_mib: int = 0
    others_mib: int = 0
    #: How many MiB are promised for each MiB that is there, while enough is available.
    overcommit: float = DEFAULT_OVERCOMMIT
    physics: Physics = field(default_factory=Physics)


@dataclass
class Sample:
    """The whole host at one time, for a plot (MiB)."""

    at_s: float
    resident: float
    target: float
    used: float


@dataclass
class Outcome:
    """The results of a simulation."""

    policy: str
    scenario: str
    #: Host memory held by all guests, integrated over time.
    footprint_gib_min: float = 0.0
    peak_mib: float = 0.0
    #: Guest-seconds during which a guest had less than its work needed.
    below_s: float = 0.0
    #: Share of the guests' busy time that was lost.
    slowdown: float = 0.0
    #: The same for the guest that lost most.
    slowdown_worst: float = 0.0
    #: Processes killed in guests, MiB that balloons deflated on out-of-memory, how often the host ran out of memory.
    guest_oom_kills: int = 0
    oom_deflated_mib: float = 0.0
    host_oom: int = 0
    #: The lowest available memory of the host.
    host_available_mib: float = 0.0
    targets_moved: int = 0
    moved_gib: float = 0.0
    reliefs: int = 0
    #: How often a guest was paused.
    pauses: int = 0
    asked: int = 0
    sandbox_ticks: int = 0
    violations: list[Violation] = field(default_factory=list)
    notes: int = 0
    samples: list[Sample] = field(default_factory=list)


#: Called after every decision with the observations and the decision.
Watch = Callable[[HostView, Sequence[SandboxView], Decision], None]


def simulate(
    scenario: Scenario,
    policy: Policy,
    *,
    reporting: bool = True,
    tick_s: float = 0.1,
    sample_s: float | None = None,
    check: bool = True,
    watch: Watch | None = None,
) -> Outcome:
    """Simulate ``scenario`` under ``policy``.

    :param reporting: whether the guests report free pages.
    :param tick_s: time step; pressure relief reacts one step after a stall.
    :param sample_s: how often a :class:`Sample` is taken for a plot; ``None``: never.
    :param check: whether every decision is checked (:mod:`ballonet.pilot.checks`).
    """
    guests = [Guest(spec, scenario.physics, reporting=reporting) for spec in scenario.guests]
    by_name = {guest.spec.name: guest for guest in guests}
    paused = PausedGuests()
    out = Outcome(policy.name, scenario.name)
    memory = None
    seen: Seen | None = None
    next_ask = next_sample = 0.0
    host_stalls = 0.0
    short = False
    held = 0.0
    spare = float(scenario.host_mib - scenario.others_mib - ENGINE_MIB * len(guests))
    out.host_available_mib = spare
    ticks = round(scenario.duration_s / tick_s)
    for tick in range(ticks):
        at_s = tick * tick_s
        relieved = False
        total = 0.0
        for guest in guests:
            if paused and paused.stays(guest, at_s):
                continue
            guest.step(at_s, tick_s)
            if guest.relieved:
                guest.relieve(at_s)
                out.reliefs += 1
                relieved = True
            total += guest.kernel + guest.anon + guest.once + guest.hot + guest.fragments + guest.loose
        held += total
        if total > out.peak_mib:
            out.peak_mib = total
        available = spare - total + ENGINE_MIB * len(paused)
        if available < out.host_available_mib:
            out.host_available_mib = available
        if available < scenario.host_mib * HOST_STALLS_SHARE:
            host_stalls += tick_s
            if available < 0 and not short:
                out.host_oom += 1
        short = available < 0
        if sample_s is not None and at_s >= next_sample:
            next_sample += sample_s
            used = sum(guest.kernel + guest.anon for guest in guests)
            out.samples.append(Sample(at_s, total, sum(guest.target for guest in guests), used))
        if at_s >= next_ask - 1e-9 or relieved:
            if at_s >= next_ask - 1e-9:
                next_ask = at_s + policy.period_s
            stalls_us = int(host_stalls * 1e6)
            host = HostView(
                at_s,
                scenario.host_mib,
                int(available),
                scenario.reserve_mib,
                stalls_us,
                stalls_us,
                scenario.overcommit,
            )
            views = [_view(guest, at_s) for guest in guests if guest not in paused]
            decision = policy.decide(host, views, memory)
            out.asked += 1
            out.notes += bool(decision.notes)
            if check:
                out.violations.extend(check_decision(host, views, decision, seen))
                seen = remember(host, views, seen, decision)
            if watch is not None:
                watch(host, views, decision)
            memory = decision.memory
            for verdict in decision.verdicts:
                if verdict.pause:
                    paused.pause(by_name[verdict.sandbox])
                    out.pauses += 1
                    continue
                if verdict.trim_mib > 0:
                    by_name[verdict.sandbox].trim(verdict.trim_mib, verdict.gentle)
                if verdict.target_mib is not None:
                    guest = by_name[verdict.sandbox]
                    if verdict.target_mib != guest.target:
                        out.targets_moved += 1
                        out.moved_gib += abs(verdict.target_mib - guest.target) / 1024
                    guest.set_target(verdict.target_mib, at_s)
    out.footprint_gib_min = held * tick_s / 1024 / 60
    out.sandbox_ticks = ticks * len(guests)
    busy = sum(guest.busy_s for guest in guests)
    out.slowdown = sum(guest.lost_s for guest in guests) / busy if busy else 0.0
    out.slowdown_worst = max((guest.lost_s / guest.busy_s for guest in guests if guest.busy_s), default=0.0)
    out.below_s = sum(guest.below_s for guest in guests)
    out.guest_oom_kills = sum(guest.kills for guest in guests)
    out.oom_deflated_mib = sum(guest.oom_deflated for guest in guests)
    return out


def _view(guest: Guest, at_s: float) -> SandboxView:
    view = guest.view(at_s)
    return view._replace(pausable=True) if guest.spec.pausable else view
