"""The default policy: each guest keeps what it needs and room to grow; idle memory goes back to the host. Pure.

What may be promised is given out in this order: each sandbox's floor or reserve, and to a guest under pressure what it
has; what each guest uses now (:mod:`working_set`), by weight if there is not enough; the ceiling to guests under
pressure; what each guest needed recently, and room to grow. Idle memory is therefore taken first, and from sandboxes
of low weight before those of high weight. How much is taken, and whether from a guest at work at all, depends on the
price of memory (:mod:`ballonet.pilot.price`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ballonet.pilot.idleness import Activity, observe_all, quiet_s
from ballonet.pilot.limits import LastTarget, commitment_mib, dead_band_mib, room_band_mib, step_mib
from ballonet.pilot.model import (
    Decision,
    HostView,
    Input,
    SandboxView,
    Verdict,
    promisable_mib,
    promise_limit_mib,
)
from ballonet.pilot.pausing import Pauses, choose, describe
from ballonet.pilot.policies.guest_state import GuestState, Tuning, guard_mib
from ballonet.pilot.policies.shares import divide
from ballonet.pilot.policies.working_set import Assessment, assess
from ballonet.pilot.price import is_idle, kept_mib


class Memory(NamedTuple):
    """What the policy remembers from tick to tick."""

    at_s: float
    sandboxes: Mapping[str, GuestState]
    #: The target of each sandbox before and after the last decision.
    targets: Mapping[str, LastTarget]
    activity: Mapping[str, Activity]
    pauses: Pauses = Pauses()


@dataclass(frozen=True)
class Ballonet:
    """The default policy."""

    tuning: Tuning = field(default_factory=Tuning)
    name: str = "ballonet"
    period_s: float = 1.0
    #: A price to use instead of the host's, for comparisons: 1.0 takes from guests at work as from idle ones.
    fixed_price: float | None = None

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Memory | None) -> Decision:
        before: Mapping[str, GuestState] = {} if memory is None else memory.sandboxes
        left: Mapping[str, LastTarget] = {} if memory is None else memory.targets
        elapsed_s = self.period_s if memory is None else max(0.0, host.at_s - memory.at_s)
        price = self._price(host)
        activity = observe_all(sandboxes, host.at_s, None if memory is None else memory.activity)
        judged = [
            assess(
                view,
                host.at_s,
                price,
                quiet_s(activity[view.name], host.at_s),
                before.get(view.name),
                left.get(view.name),
                self.tuning,
            )
            for view in sandboxes
        ]
        kept = {
            view.name: found.kept
            for view, found in zip(sandboxes, judged, strict=True)
            if found.kept is not None
        }
        left_now = {view.name: LastTarget(view.target_mib, view.target_mib) for view in sandboxes}
        promisable = promisable_mib(host, sandboxes)
        if promisable is None:
            why = "left alone: the host does not report its available memory"
            verdicts = [Verdict(view.name, None, why, inputs(host, view, None, None)) for view in sandboxes]
            return Decision(verdicts, Memory(host.at_s, kept, left_now, activity), [why])
        notes: list[str] = []
        counted = [
            (view, found)
            for view, found in zip(sandboxes, judged, strict=True)
            if found.alone is None and not found.doubted
        ]
        names = {view.name for view, _ in counted}
        held = sum(commitment_mib(view) for view in sandboxes if view.name not in names)
        divided = self._divide(host, price, counted, sandboxes, held, elapsed_s, before, notes)
        targets = dict(zip((view.name for view, _ in counted), divided, strict=True))
        verdicts = []
        for view, found in zip(sandboxes, judged, strict=True):
            seen = inputs(host, view, promisable, found.quiet_s)
            if found.alone is not None:
                verdicts.append(Verdict(view.name, None, f"left alone: {found.alone}", seen))
                continue
            # A guest that refused before is requested to shrink again, but gets no more than is accounted for it.
            target = targets.get(view.name)
            if target is None:
                target = max(self._kept_mib(price, view, found), min(found.want_mib, commitment_mib(view)))
            left_now[view.name] = LastTarget(view.target_mib, target)
            again = _gave_up(view, self.tuning) or (found.doubted and view.state == "guest-refused")
            moved = target if target != view.target_mib or again else None
            verdicts.append(
                Verdict(
                    view.name, moved, _reason(view, found, target, again), seen, found.trim_mib, found.gentle
                )
            )
        quiet = {view.name: found.quiet_s for view, found in zip(sandboxes, judged, strict=True)}
        idlest, pauses = choose(host, sandboxes, quiet, Pauses() if memory is None else memory.pauses)
        verdicts = [
            verdict._replace(reason=describe(host, quiet[idlest]), pause=True)
            if verdict.sandbox == idlest
            else verdict
            for verdict in verdicts
        ]
        return Decision(verdicts, Memory(host.at_s, kept, left_now, activity, pauses), notes)

    def _divide(
        self,
        host: HostView,
        price: float,
        counted: Sequence[tuple[SandboxView, Assessment]],
        sandboxes: Sequence[SandboxView],
        held: int,
        elapsed_s: float,
        before: Mapping[str, GuestState],
        notes: list[str],
    ) -> list[int]:
        kept = {view.name: self._kept_mib(price, view, found) for view, found in counted}
        promisable = promise_limit_mib(host, sandboxes, kept) or 0
        budget = promisable - held
        least, now, pressed, work, room, keep, weights = [], [], [], [], [], [], []
        required = 0
        for view, found in counted:
            low = view.least_mib
            wanted = found.want_mib
            if found.pressed is not None:
                low = min(view.ceiling_mib, max(low, view.actual_mib or 0))
            required += low
            low = max(low, kept[view.name])
            if found.pressed is None and wanted < view.target_mib:
                wanted = max(wanted, view.target_mib - self._step(host, view, before, elapsed_s))
            elif found.pressed is None and found.work_mib <= view.target_mib:
                # Give room only to guests that must grow anyway. Otherwise each burst of one guest would move all
                # balloons, which costs their guests time.
                wanted = view.target_mib
            least.append(low)
            now.append(max(low, found.now_mib))
            pressed.append(view.ceiling_mib if found.pressed is not None else now[-1])
            work.append(max(low, found.work_mib))
            room.append(max(low, min(wanted, found.room_mib)))
            keep.append(max(low, wanted))
            weights.append(view.weight)
        if required > budget:
            notes.append(
                f"{promisable} MiB may be promised; sandboxes that are left alone hold {held} MiB, and floors, "
                f"reserves and guests under pressure require {required} MiB: "
                f"{held + required - promisable} MiB too much"
            )
        # Keep a margin when giving out room: otherwise each small growth of one guest would move all the others.
        spare = sum(dead_band_mib(view.ceiling_mib) for view, _ in counted)
        targets = least
        for most in (now, pressed, work):
            targets = divide(budget, targets, most, weights)
        for most in (room, keep):
            targets = divide(budget - spare, targets, most, weights)
        moved = [
            view.target_mib if _near(view, found, target) else target
            for (view, found), target in zip(counted, targets, strict=True)
        ]
        if sum(moved) > max(budget, sum(least)):
            # Together, the targets that may stay exceed the budget.
            moved = [min(stay, target) for stay, target in zip(moved, targets, strict=True)]
        return moved

    def _price(self, host: HostView) -> float:
        """The price of memory. If it is unknown, nothing is decided."""
        if self.fixed_price is not None:
            return self.fixed_price
        return 0.0 if host.price is None else host.price

    def _kept_mib(self, price: float, view: SandboxView, found: Assessment) -> int:
        return kept_mib(
            price, is_idle(price, found.quiet_s), view.least_mib, min(view.target_mib, view.ceiling_mib)
        )

    def _step(
        self, host: HostView, view: SandboxView, before: Mapping[str, GuestState], elapsed_s: float
    ) -> int:
        """The largest reduction now, to save memory (MiB)."""
        known = before.get(view.name)
        seen_s = 0.0 if known is None else host.at_s - known.first_s
        return int(step_mib(view.ceiling_mib, seen_s) * min(1.0, elapsed_s / self.period_s))


def inputs(
    host: HostView, view: SandboxView, promisable: int | None, quiet_s: float | None
) -> dict[str, Input]:
    """All inputs of a decision about ``view``."""
    seen: dict[str, Input] = view._asdict()
    del seen["name"]
    seen["host_available_mib"] = host.available_mib
    seen["host_reserve_mib"] = host.reserve_mib
    seen["host_price"] = host.price
    seen["quiet_s"] = quiet_s
    seen["promisable_mib"] = promisable
    return seen


def _near(view: SandboxView, found: Assessment, target: int) -> bool:
    """Whether the target in force is close enough to ``target``. Room alone is redistributed only in large steps."""
    if found.pressed is not None or not view.least_mib <= view.target_mib <= view.ceiling_mib:
        return False
    off = target - view.target_mib
    matters = view.target_mib < found.work_mib if off > 0 else found.want_mib == found.work_mib
    return abs(off) < (dead_band_mib(view.ceiling_mib) if matters else room_band_mib(view.ceiling_mib))


def _gave_up(view: SandboxView, tuning: Tuning) -> bool:
    """Whether the sandbox's guard stopped a shrink that it would allow now: it continues only when requested again."""
    if view.state != "guest-floor" or view.actual_mib is None or view.guest_available_mib is None:
        return False
    band = dead_band_mib(view.ceiling_mib)
    spare = view.guest_available_mib - guard_mib(view.ceiling_mib, tuning)
    return view.actual_mib - view.target_mib >= band and spare >= band


def _reason(view: SandboxView, found: Assessment, target: int, again: bool) -> str:
    if found.pressed is not None:
        lacking = (
            "" if target == view.ceiling_mib else f" of {view.ceiling_mib}: the host cannot promise more"
        )
        return f"{found.pressed}: it gets {target} MiB{lacking}"
    if target == view.target_mib and again:
        return f"requests {target} MiB again, the guest still has {view.actual_mib}: {found.why}"
    if target == view.target_mib:
        return f"stays at {target} MiB: {found.why}"
    if target > view.target_mib:
        return f"grows by {target - view.target_mib} to {target} MiB: {found.why}"
    forced = ""
    if target < found.work_mib:
        forced = f"; the host can promise only {target} MiB"
    return f"shrinks by {view.target_mib - target} to {target} MiB: {found.why}{forced}"
