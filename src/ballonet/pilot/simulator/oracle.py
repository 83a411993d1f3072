"""An oracle: it knows each guest's trace and sets exactly the targets that the work needs, in time. A lower bound that
no real policy can reach.

A guest gets the memory of its work and its kernel, and the files that the work soon reads again. It grows early enough
for the balloon's speed. Floors and guards limit the oracle like every policy.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

from ballonet.pilot.limits import dead_band_mib
from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.pilot.simulator.physics import Physics
from ballonet.pilot.simulator.simulation import Scenario
from ballonet.pilot.simulator.spec import GuestSpec
from ballonet.pilot.simulator.trace import Trace
from ballonet.vmm.guard import default_guard_mib

#: How far ahead it looks for files that are read again, and for memory that is needed again (seconds).
KEEP_FILES_S = 60.0
KEEP_S = 5.0


class Oracle:
    """A policy for one scenario."""

    name = "oracle"
    period_s = 0.5

    def __init__(self, scenario: Scenario) -> None:
        self._plans = {
            spec.name: _plan(spec, scenario.physics, scenario.duration_s, self.period_s)
            for spec in scenario.guests
        }

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        at = round(host.at_s / self.period_s)
        verdicts = []
        for view in sandboxes:
            plan = self._plans[view.name]
            needed = int(plan[min(at, len(plan) - 1)]) + 1
            target = min(view.ceiling_mib, max(view.least_mib, needed))
            band = dead_band_mib(view.ceiling_mib)
            far = target > view.target_mib or target <= view.target_mib - band
            verdicts.append(
                Verdict(
                    view.name,
                    target if far else None,
                    f"it will need {needed} MiB",
                    {"needed_mib": needed},
                )
            )
        return Decision(verdicts, None)


def _plan(spec: GuestSpec, physics: Physics, duration_s: float, period_s: float) -> array[float]:
    """What the guest must have in each period to have enough until the next, and later at the balloon's speed."""
    count = int(duration_s / period_s) + 2
    need = array("d", [0.0] * count)
    guard = default_guard_mib(spec.ceiling_mib) if spec.guard_mib is None else spec.guard_mib
    fixed = physics.kernel_mib + spec.ceiling_mib * physics.kernel_share + physics.watermark_mib
    hot = _files(spec.trace, count, period_s)
    work = _work(spec.trace, count, period_s)
    for at in range(count):
        # Files that are read again also fit into the memory that the guard keeps available.
        need[at] = fixed + work[at] + max(hot[at], float(guard))
    plan = array("d", need)
    slope = physics.deflate_mib_s * period_s
    for at in range(count - 2, -1, -1):
        plan[at] = max(need[at], need[at + 1], plan[at + 1] - slope)
    reach = int(KEEP_S / period_s)
    return array("d", [max(plan[at : at + reach + 1]) for at in range(count)])


def _work(trace: Trace, count: int, period_s: float) -> array[float]:
    """The maximum that the work needs within each period."""
    values = array("d", [0.0] * count)
    points = trace.points
    for here, after in zip(points, (*points[1:], None), strict=True):
        start = int(here.at_s / period_s)
        end = count - 1 if after is None else min(count - 1, int(after.at_s / period_s))
        for at in range(start, end + 1):
            low, high = at * period_s, (at + 1) * period_s
            for moment in (max(low, here.at_s), high if after is None else min(high, after.at_s)):
                share = 0.0 if after is None else (moment - here.at_s) / (after.at_s - here.at_s)
                value = (
                    here.work_mib
                    if after is None
                    else here.work_mib + share * (after.work_mib - here.work_mib)
                )
                values[at] = max(values[at], value)
    return values


def _files(trace: Trace, count: int, period_s: float) -> array[float]:
    """Files read now, or read again within :data:`KEEP_FILES_S`."""
    now = array("d", [0.0] * count)
    points = trace.points
    for here, after in zip(points, (*points[1:], None), strict=True):
        end = count - 1 if after is None else min(count - 1, int(after.at_s / period_s))
        for at in range(int(here.at_s / period_s), end + 1):
            now[at] = max(now[at], here.hot_mib)
    kept = array("d", now)
    last: deque[int] = deque(maxlen=1)
    reach = int(KEEP_FILES_S / period_s)
    for at in range(count):
        if now[at] > 0:
            if last and 1 < at - last[0] <= reach:
                for between in range(last[0] + 1, at):
                    kept[between] = min(now[last[0]], now[at])
            last.append(at)
    return kept
