"""Rules that every decision of every policy must keep; checked before anything is carried out. Pure.

The loop does not apply a verdict that breaks a rule. The simulator counts violations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.pilot.idleness import Activity, observe_all, quiet_s
from ballonet.pilot.limits import (
    STALE_S,
    LastTarget,
    Totals,
    commitment_mib,
    follows,
    pressure,
    raised,
    room_band_mib,
    step_mib,
    totals,
)
from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict, promise_limit_mib
from ballonet.pilot.pausing import PAUSE_QUIET_S, is_full, may_be_paused
from ballonet.pilot.price import is_idle, kept_mib, share_of_work

#: All rules. ``promise`` concerns all sandboxes together, the others a single one.
RULES = ("verdict", "range", "problem", "pressure", "price", "step", "pause", "promise")
_NUMBERS = (int, float)


class Violation(NamedTuple):
    """A decision breaks a rule."""

    rule: str
    #: ``None``: all sandboxes together.
    sandbox: str | None
    message: str


def problem_of(view: SandboxView) -> str | None:
    """Why the inputs of a sandbox cannot be used; ``None`` if they can."""
    if view.problem is not None:
        return view.problem
    for name, value in zip(view._fields, view, strict=True):
        if isinstance(value, _NUMBERS) and value < 0:
            return f"{name} is {value}: it cannot be negative"
    if view.floor_mib > view.ceiling_mib:
        return f"its floor, {view.floor_mib} MiB, is above its ceiling, {view.ceiling_mib}"
    if view.target_mib > view.ceiling_mib:
        return f"its target, {view.target_mib} MiB, is above its ceiling, {view.ceiling_mib}"
    if view.actual_mib is None:
        return "the engine does not report its actual memory"
    if view.actual_mib > view.ceiling_mib:
        return (
            f"its actual memory, {view.actual_mib} MiB, is above its ceiling, {view.ceiling_mib}: "
            f"the guest reports wrong values"
        )
    if view.guest_available_mib is None:
        return "the guest does not report its available memory"
    if view.guest_age_s is None:
        return "the age of the guest's statistics is unknown"
    if view.guest_age_s > STALE_S:
        return f"the guest's statistics are {view.guest_age_s:.0f} s old, more than {STALE_S:.0f}"
    total = view.guest_total_mib
    if total is not None:
        for name in ("guest_available_mib", "guest_free_mib", "guest_caches_mib"):
            value = getattr(view, name)
            if value is not None and value > total:
                return f"{name} is {value} MiB, more than the guest's total of {total}"
        if total > view.ceiling_mib:
            return f"the guest reports a total of {total} MiB, more than its ceiling of {view.ceiling_mib}"
    return None


class Seen(NamedTuple):
    """What the checks remember of the previous tick."""

    at_s: float
    first_s: Mapping[str, float]
    totals: Mapping[str, Totals]
    #: The targets after that tick; empty if they are not known.
    targets: Mapping[str, LastTarget]
    activity: Mapping[str, Activity]


def remember(
    host: HostView, sandboxes: Sequence[SandboxView], before: Seen | None, decision: Decision | None = None
) -> Seen:
    """What the next :func:`check_decision` needs.

    :param decision: what was decided; without it, a target raised by another client goes unnoticed.
    """
    first = {} if before is None else before.first_s
    asked = {} if decision is None else {verdict.sandbox: verdict.target_mib for verdict in decision.verdicts}
    left = {}
    for view in sandboxes if decision is not None else ():
        target = asked.get(view.name)
        left[view.name] = LastTarget(view.target_mib, view.target_mib if target is None else target)
    return Seen(
        host.at_s,
        {view.name: first.get(view.name, host.at_s) for view in sandboxes},
        {view.name: totals(view, host.at_s) for view in sandboxes},
        left,
        observe_all(sandboxes, host.at_s, None if before is None else before.activity),
    )


def check_decision(
    host: HostView, sandboxes: Sequence[SandboxView], decision: Decision, before: Seen | None = None
) -> list[Violation]:
    """Find the rules that ``decision`` breaks.

    - ``verdict``: there is exactly one verdict for each sandbox, with a reason, and none for anything else.
    - ``range``: a target lies between the sandbox's ``least_mib`` and its ceiling.
    - ``problem``: no target is set for a sandbox whose inputs cannot be used or whose balloon cannot follow, or while
      the host does not report its available memory.
    - ``pressure``: no memory is taken from a guest under pressure.
    - ``price``: a guest at work loses no more, and drops no more caches, than the price of memory allows
      (:mod:`~ballonet.pilot.price`): at price 0, nothing.
    - ``step``: no reduction exceeds :func:`~ballonet.pilot.limits.step_mib`, unless ``promise`` requires it.
    - ``pause``: at most one sandbox is paused, only while the host is nearly full, and only one that allows it, is not
      under pressure and has been quiet for long enough (:mod:`~ballonet.pilot.pausing`).
    - ``promise``: the sum of all targets does not exceed what may be promised while any target could be lower.

    :param before: what :func:`remember` returned at the previous tick; without it pressure is unknown, and every
        guest counts as being at work.
    """
    asked = {verdict.sandbox: verdict for verdict in decision.verdicts}
    found = [
        Violation("verdict", name, f"there is a verdict for {name}, which was not observed")
        for name in asked.keys() - {view.name for view in sandboxes}
    ]
    if len(asked) != len(decision.verdicts):
        found.append(Violation("verdict", None, "a sandbox has more than one verdict"))
    price = host.price or 0.0
    activity = observe_all(sandboxes, host.at_s, None if before is None else before.activity)
    kept = {
        view.name: kept_mib(
            price,
            is_idle(price, quiet_s(activity[view.name], host.at_s)),
            view.least_mib,
            min(view.target_mib, view.ceiling_mib),
        )
        for view in sandboxes
        if problem_of(view) is None and follows(view)
    }
    promisable = promise_limit_mib(host, sandboxes, kept)
    together = 0
    #: Sandboxes whose target could be lower, and those that lose more than a step.
    could: list[str] = []
    steep: list[tuple[SandboxView, int]] = []
    slack = 0
    for view in sandboxes:
        verdict = asked.get(view.name)
        if verdict is None or not verdict.reason:
            found.append(
                Violation("verdict", view.name, f"there is no verdict with a reason for {view.name}")
            )
            continue
        target = verdict.target_mib
        problem = problem_of(view)
        usable = problem is None and follows(view)
        new = view.target_mib if target is None else target
        if host.price is not None and not is_idle(price, quiet_s(activity[view.name], host.at_s)):
            found.extend(_beyond_price(view, verdict, price, kept.get(view.name)))
        pressed = None
        if before is not None and view.name in before.totals:
            pressed = raised(view, before.targets.get(view.name)) or pressure(
                totals(view, host.at_s), before.totals[view.name]
            )
        if verdict.pause:
            why = _why_not_paused(host, view, quiet_s(activity[view.name], host.at_s), problem, pressed)
            if why is not None:
                found.append(Violation("pause", view.name, f"{view.name} is paused although {why}"))
        if target is not None:
            if problem is None and view.state in ("no-driver", "failed"):
                problem = f"its balloon is in the state {view.state}"
            if promisable is None and problem is None:
                problem = "the host does not report its available memory"
            if problem is not None:
                message = f"{view.name} gets a new target although {problem}"
                found.append(Violation("problem", view.name, message))
            if not view.least_mib <= target <= view.ceiling_mib:
                message = (
                    f"the target of {view.name}, {target} MiB, is not between "
                    f"{view.least_mib} and {view.ceiling_mib} MiB"
                )
                found.append(Violation("range", view.name, message))
            if pressed is not None and target < min(view.target_mib, view.actual_mib or 0):
                message = f"{view.name} shrinks from {view.target_mib} to {target} MiB although {pressed}"
                found.append(Violation("pressure", view.name, message))
            first_s = host.at_s if before is None else before.first_s.get(view.name, host.at_s)
            step = step_mib(view.ceiling_mib, host.at_s - first_s)
            if view.target_mib - target > step:
                steep.append((view, view.target_mib - target - step))
        together += new if usable else max(new, commitment_mib(view))
        least = view.least_mib if pressed is None else max(view.least_mib, view.actual_mib or 0)
        least = max(least, kept.get(view.name, 0))
        if usable:
            slack += room_band_mib(view.ceiling_mib)
            if new > least:
                could.append(view.name)
    if sum(verdict.pause for verdict in asked.values()) > 1:
        found.append(Violation("pause", None, "more than one sandbox is paused at once"))
    if promisable is None:
        return found
    for view, excess in steep:
        if together + excess + slack <= promisable:
            message = f"{view.name} shrinks by {excess} MiB more than one step allows, without need"
            found.append(Violation("step", view.name, message))
    if together > promisable and could:
        message = f"{together} of {promisable} MiB are promised although {', '.join(could)} could have less"
        found.append(Violation("promise", None, message))
    return found


def _why_not_paused(
    host: HostView, view: SandboxView, quiet_s: float | None, problem: str | None, pressed: str | None
) -> str | None:
    """Why the sandbox must not be paused."""
    if problem is not None or pressed is not None:
        return problem or pressed
    if not view.pausable:
        return "it does not allow it"
    if not is_full(host):
        return f"the host is not full: the price is {host.price or 0.0:.2f}"
    if not may_be_paused(view, quiet_s):
        return f"it has been quiet for {quiet_s or 0.0:.0f} s, less than {PAUSE_QUIET_S:.0f}"
    return None


def _beyond_price(view: SandboxView, verdict: Verdict, price: float, kept_mib: int | None) -> list[Violation]:
    """What a guest at work would lose beyond what the price allows."""
    found = []
    target, most = verdict.target_mib, share_of_work(price) * (view.guest_caches_mib or 0)
    if verdict.trim_mib > most:
        message = (
            f"{view.name} is at work and should drop {verdict.trim_mib} MiB of caches; at price {price:.2f}, "
            f"{most:.0f} MiB are allowed"
        )
        found.append(Violation("price", view.name, message))
    if target is not None and kept_mib is not None and target < min(kept_mib, view.target_mib):
        message = (
            f"{view.name} is at work and shrinks from {view.target_mib} to {target} MiB; at price {price:.2f}, "
            f"{kept_mib} MiB are kept"
        )
        found.append(Violation("price", view.name, message))
    return found
