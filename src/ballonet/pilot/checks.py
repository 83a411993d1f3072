"""What must hold of every decision, whatever policy made it: pure, and asked before anything is carried out.

The loop does not apply a verdict that breaks one of these; the simulator counts them; tests break each on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.pilot.limits import (
    STALE_S,
    Left,
    Totals,
    claim_mib,
    follows,
    pressure,
    raised,
    room_band_mib,
    step_mib,
    totals,
)
from ballonet.pilot.model import Decision, HostView, SandboxView, promisable_mib

#: Rules that a decision may break. ``promise`` concerns all sandboxes, the others one.
RULES = ("verdict", "range", "problem", "pressure", "step", "promise")
_NUMBERS = (int, float)


class Violation(NamedTuple):
    """A rule that a decision breaks."""

    rule: str
    #: ``None``: all of them together.
    sandbox: str | None
    message: str


def problem_of(view: SandboxView) -> str | None:
    """Why the inputs about a sandbox cannot be used; ``None`` if they can."""
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
        return "its engine does not tell its actual memory"
    if view.actual_mib > view.ceiling_mib:
        return f"its actual memory, {view.actual_mib} MiB, is above its ceiling, {view.ceiling_mib}: the guest lies"
    if view.guest_available_mib is None:
        return "the guest does not tell its available memory"
    if view.guest_age_s is None:
        return "the age of the guest's word is unknown"
    if view.guest_age_s > STALE_S:
        return f"the guest's word is {view.guest_age_s:.0f} s old, more than {STALE_S:.0f}"
    total = view.guest_total_mib
    if total is not None:
        for name in ("guest_available_mib", "guest_free_mib", "guest_caches_mib"):
            value = getattr(view, name)
            if value is not None and value > total:
                return f"{name} is {value} MiB, more than the guest's total of {total}"
        if total > view.ceiling_mib:
            return f"the guest tells of {total} MiB in all, more than its ceiling of {view.ceiling_mib}"
    return None


class Seen(NamedTuple):
    """What was seen at the tick before, as far as the checks need it."""

    at_s: float
    first_s: Mapping[str, float]
    totals: Mapping[str, Totals]
    #: The targets that were left in force; empty where they are not known.
    targets: Mapping[str, Left]


def remember(
    host: HostView, sandboxes: Sequence[SandboxView], before: Seen | None, decision: Decision | None = None
) -> Seen:
    """For the next :func:`check_decision`.

    :param decision: what was decided; without it, a target that was raised meanwhile is not noticed.
    """
    first = {} if before is None else before.first_s
    asked = {} if decision is None else {verdict.sandbox: verdict.target_mib for verdict in decision.verdicts}
    left = {}
    for view in sandboxes if decision is not None else ():
        target = asked.get(view.name)
        left[view.name] = Left(view.target_mib, view.target_mib if target is None else target)
    return Seen(
        host.at_s,
        {view.name: first.get(view.name, host.at_s) for view in sandboxes},
        {view.name: totals(view, host.at_s) for view in sandboxes},
        left,
    )


def check_decision(
    host: HostView, sandboxes: Sequence[SandboxView], decision: Decision, before: Seen | None = None
) -> list[Violation]:
    """The rules that ``decision`` breaks.

    - ``verdict``: each sandbox has one, with a reason, and nobody else has.
    - ``range``: a target is within the sandbox's least and its ceiling.
    - ``problem``: nothing moves whose inputs cannot be used, or whose balloon cannot follow, or while the host is mute.
    - ``pressure``: nothing is taken from a guest under pressure.
    - ``step``: no more is taken at once than :func:`~ballonet.pilot.limits.step_mib`, unless the promise
      asks for it.
    - ``promise``: the targets together are not above what may be promised, while anybody could have less.

    :param before: what :func:`remember` kept of the tick before; without it pressure is unknown.
    """
    asked = {verdict.sandbox: verdict for verdict in decision.verdicts}
    found = [
        Violation("verdict", name, f"there is a verdict on {name}, which was not seen")
        for name in asked.keys() - {view.name for view in sandboxes}
    ]
    if len(asked) != len(decision.verdicts):
        found.append(Violation("verdict", None, "a sandbox has more than one verdict"))
    promisable = promisable_mib(host, sandboxes)
    together = 0
    #: Sandboxes that could have less, and those that lose more than a step.
    could: list[str] = []
    steep: list[tuple[SandboxView, int]] = []
    slack = 0
    for view in sandboxes:
        verdict = asked.get(view.name)
        if verdict is None or not verdict.reason:
            found.append(Violation("verdict", view.name, f"there is no verdict with a reason on {view.name}"))
            continue
        target = verdict.target_mib
        problem = problem_of(view)
        usable = problem is None and follows(view)
        new = view.target_mib if target is None else target
        pressed = None
        if before is not None and view.name in before.totals:
            pressed = raised(view, before.targets.get(view.name)) or pressure(
                totals(view, host.at_s), before.totals[view.name]
            )
        if target is not None:
            if problem is None and view.state in ("no-driver", "failed"):
                problem = f"its balloon is in the state {view.state}"
            if promisable is None and problem is None:
                problem = "the host does not tell its available memory"
            if problem is not None:
                found.append(Violation("problem", view.name, f"{view.name} is moved, though {problem}"))
            if not view.least_mib <= target <= view.ceiling_mib:
                message = f"{view.name}: {target} MiB is outside {view.least_mib} to {view.ceiling_mib}"
                found.append(Violation("range", view.name, message))
            if pressed is not None and target < min(view.target_mib, view.actual_mib or 0):
                message = f"{view.name} shrinks from {view.target_mib} to {target} MiB, though {pressed}"
                found.append(Violation("pressure", view.name, message))
            first_s = host.at_s if before is None else before.first_s.get(view.name, host.at_s)
            step = step_mib(view.ceiling_mib, host.at_s - first_s)
            if view.target_mib - target > step:
                steep.append((view, view.target_mib - target - step))
        together += new if usable else max(new, claim_mib(view))
        least = view.least_mib if pressed is None else max(view.least_mib, view.actual_mib or 0)
        if usable:
            slack += room_band_mib(view.ceiling_mib)
            if new > least:
                could.append(view.name)
    if promisable is None:
        return found
    for view, excess in steep:
        if together + excess + slack <= promisable:
            message = f"{view.name} shrinks by {excess} MiB more than a step, though the promise does not ask for it"
            found.append(Violation("step", view.name, message))
    if together > promisable and could:
        message = f"{together} MiB are promised of {promisable}, while {', '.join(could)} could have less"
        found.append(Violation("promise", None, message))
    return found
