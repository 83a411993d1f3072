"""What one guest needs, judged from what it reports: the part of our policy that looks at one sandbox. Pure.

*Used* is what the guest has less what it calls available: right whether its kernel counts the balloon as used
(``deflate-on-oom``) or takes it off its total. Caches are idle memory until they prove otherwise: when taking them
made the guest stall or fault, the level that hurt is kept for it, and tried again much later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ballonet.pilot.limits import STALE_S, Left, Totals, follows, pressure, raised, refaulted_mib, totals
from ballonet.pilot.model import SandboxView


@dataclass(frozen=True)
class Tuning:
    """How our policy judges a guest. Times in seconds, sizes in MiB or as shares of the ceiling."""

    #: Use rises at once and falls by half in this long; the highest use of late, from which bursts are foreseen, in
    #: the second.
    need_half_life_s: float = 20.0
    peak_half_life_s: float = 240.0
    #: What a guest has available beyond its need at the least: the sandbox's own guard (``vmm/guard.py``).
    guard_min_mib: int = 64
    guard_share: float = 0.1
    #: What a guest may grow by at once when it wastes nothing, beside what it did of late.
    burst_share: float = 0.1
    #: Guest RAM on the host beyond the need is waste from this on, until it falls to half of it.
    waste_min_mib: int = 32
    waste_share: float = 1 / 32
    #: Waste is borne for a while: an eighth of the ceiling so long, more of it less long.
    patience_s: float = 10.0
    #: Then the guest is held to its need for so long; each time that it wastes again soon, twice as long.
    tight_s: float = 15.0
    tight_most_s: float = 600.0
    #: A guest that read so much again since it last told, after it had been reclaimed, missed its caches.
    refault_mib: int = 4
    #: After pressure nothing is taken for so long.
    hold_s: float = 5.0
    #: How long a level of caches that hurt is kept before less is tried; doubled each time that hurts again.
    retry_s: float = 300.0
    retry_most_s: float = 4800.0
    #: Idle caches are borne likewise, but for less long: to drop them is little work.
    trim_patience_s: float = 4.0
    #: A guest that twice did not drop half of the caches that it was asked to, by so long afterwards, has them taken by
    #: its balloon.
    trim_s: float = 6.0
    deaf_after: int = 2
    #: A guest that did not follow is asked again after so long, doubled each time, up to the second.
    refused_s: float = 30.0
    refused_most_s: float = 960.0


class Kept(NamedTuple):
    """What is remembered of one guest."""

    first_s: float
    at_s: float
    used_mib: int
    need_mib: float
    peak_mib: float
    #: Caches now, and those that are kept because taking them hurt.
    caches_mib: int
    hot_mib: float
    retry_at_s: float
    retry_wait_s: float
    #: When it was last under pressure.
    pressed_s: float
    #: Held tight until then, and for how long that was.
    tight: bool
    tight_until_s: float
    tight_wait_s: float
    #: Waste over time (MiB times seconds) since there was none.
    wasted: float
    #: The same of caches that proved of no use; how much of them the guest was last asked to drop, when, and how often
    #: in a row it did not.
    idle_caches: float
    trimmed_mib: int
    trimmed_s: float
    deaf: int
    #: When a guest that does not follow is asked again, and how long that was.
    ask_again_s: float
    ask_wait_s: float
    totals: Totals


class Judgement(NamedTuple):
    """One guest at one tick. Sizes in MiB, all within its least and its ceiling."""

    #: Why it is left alone; the rest says nothing then.
    alone: str | None
    #: It refused before and is asked again: what it is to give is not counted on.
    doubted: bool
    #: Why it gets everything back, if it does.
    pressed: str | None
    #: What it uses now, kept caches and guard included; what it needs; that with room for what it may do next; what it
    #: should have if there is enough for all.
    now_mib: int
    work_mib: int
    room_mib: int
    want_mib: int
    #: Caches that it is to drop.
    trim_mib: int
    #: The numbers of the above, in words.
    why: str
    kept: Kept | None


def guard_mib(ceiling_mib: int, tuning: Tuning) -> int:
    """What a guest keeps available beyond its need."""
    return max(tuning.guard_min_mib, int(ceiling_mib * tuning.guard_share))


def judge(view: SandboxView, at_s: float, kept: Kept | None, left: Left | None, tuning: Tuning) -> Judgement:
    """What ``view`` needs at ``at_s``, given what was remembered of it.

    :param left: the target that it was left with.
    """
    blind = _blind(view)
    if blind is not None:
        return _alone(blind, kept)
    actual, available = view.actual_mib, view.guest_available_mib
    assert actual is not None and available is not None
    used = max(0, actual - available)
    caches = min(view.guest_caches_mib or 0, available)
    if kept is None:
        kept = _first(view, at_s, used, caches, tuning)
    refuses, kept = _refuses(view, at_s, kept, tuning)
    if refuses is not None:
        return _alone(refuses, kept)
    passed = max(0.0, at_s - kept.at_s)
    told = totals(view, at_s)
    pressed = raised(view, left) or pressure(told, kept.totals)
    need = max(used, _fall(kept.need_mib, used, passed, tuning.need_half_life_s))
    peak = max(used, _fall(kept.peak_mib, used, passed, tuning.peak_half_life_s))
    refaulted = refaulted_mib(told, kept.totals)
    hot, retry_at, retry_wait = _hot_caches(
        view, at_s, kept, used, caches, refaulted, pressed is not None, tuning
    )
    guard = guard_mib(view.ceiling_mib, tuning)
    trim, kept = _trim(view, at_s, kept, passed, caches - hot, pressed is not None, tuning)
    # What the guest can be asked to drop is not worth a move of its balloon.
    apart = 0.0 if kept.deaf >= tuning.deaf_after else max(0.0, caches - hot)
    tight, tight_until, tight_wait, wasted = _tightness(
        view, at_s, kept, passed, need + hot + guard + apart, tuning
    )
    now = _within(view, used + hot + guard)
    work = _within(view, need + hot + guard)
    room = max(work, _within(view, max(peak, need + view.ceiling_mib * tuning.burst_share) + hot + guard))
    # One who wastes nothing keeps what it has: free memory costs the host nothing, and a burst finds it there.
    want = work if tight else max(room, _within(view, view.target_mib))
    pressed_s = at_s if pressed is not None else kept.pressed_s
    why = f"uses {used} MiB, needs {need:.0f} + {hot:.0f} of caches + {guard} to spare"
    if trim:
        why += f"; is to drop {trim} MiB of {caches} of caches"
    if pressed is not None:
        want = view.ceiling_mib
    elif at_s - pressed_s < tuning.hold_s:
        want = max(want, _within(view, view.target_mib))
        why += f", was under pressure {at_s - pressed_s:.1f} s ago"
    kept = kept._replace(
        at_s=at_s,
        used_mib=used,
        need_mib=need,
        peak_mib=peak,
        caches_mib=caches,
        hot_mib=hot,
        retry_at_s=retry_at,
        retry_wait_s=retry_wait,
        pressed_s=pressed_s,
        tight=tight,
        tight_until_s=tight_until,
        tight_wait_s=tight_wait,
        wasted=wasted,
        totals=told,
    )
    return Judgement(
        None, kept.ask_wait_s > tuning.refused_s, pressed, now, work, room, want, trim, why, kept
    )


def _alone(why: str, kept: Kept | None) -> Judgement:
    """It is left alone."""
    return Judgement(why, False, None, 0, 0, 0, 0, 0, "", kept)


def _blind(view: SandboxView) -> str | None:
    """Why nothing can be said of it."""
    if view.problem is not None:
        return view.problem
    if view.actual_mib is None:
        return "the engine does not tell its actual memory"
    if view.guest_available_mib is None:
        return "the guest does not tell its available memory"
    if view.guest_age_s is not None and view.guest_age_s > STALE_S:
        return f"the guest's word is {view.guest_age_s:.0f} s old"
    return None


def _refuses(view: SandboxView, at_s: float, kept: Kept, tuning: Tuning) -> tuple[str | None, Kept]:
    """Why its balloon is not asked; one that refused is asked again, less and less often."""
    if follows(view):
        return None, kept._replace(ask_wait_s=tuning.refused_s) if view.state == "applied" else kept
    why = f"its balloon does not follow: {view.state}"
    if view.state != "guest-refused":
        return why, kept
    if kept.ask_again_s == 0:
        return why, kept._replace(ask_again_s=at_s + kept.ask_wait_s)
    if at_s < kept.ask_again_s:
        return f"{why}; it is asked again in {kept.ask_again_s - at_s:.0f} s", kept
    wait = min(2 * kept.ask_wait_s, tuning.refused_most_s)
    return None, kept._replace(ask_again_s=0.0, ask_wait_s=wait)


def _first(view: SandboxView, at_s: float, used: int, caches: int, tuning: Tuning) -> Kept:
    return Kept(
        first_s=at_s,
        at_s=at_s,
        used_mib=used,
        need_mib=used,
        peak_mib=used,
        caches_mib=caches,
        hot_mib=0.0,
        retry_at_s=0.0,
        retry_wait_s=tuning.retry_s,
        pressed_s=float("-inf"),
        tight=False,
        tight_until_s=at_s,
        tight_wait_s=tuning.tight_s,
        wasted=0.0,
        idle_caches=0.0,
        trimmed_mib=0,
        trimmed_s=float("-inf"),
        deaf=0,
        ask_again_s=0.0,
        ask_wait_s=tuning.refused_s,
        totals=totals(view, at_s),
    )


def _fall(before: float, now: float, passed_s: float, half_life_s: float) -> float:
    return float(now + (before - now) * 0.5 ** (passed_s / half_life_s))


def _within(view: SandboxView, mib: float) -> int:
    return min(view.ceiling_mib, max(view.least_mib, round(mib)))


def _hot_caches(
    view: SandboxView,
    at_s: float,
    kept: Kept,
    used: int,
    caches: int,
    refaulted: int | None,
    pressed: bool,
    tuning: Tuning,
) -> tuple[float, float, float]:
    """Caches to keep, when less is tried, and how long that waits."""
    hot, retry_at, wait = kept.hot_mib, kept.retry_at_s, kept.retry_wait_s
    if refaulted is not None:
        missed = refaulted >= tuning.refault_mib
    else:
        # Nobody allocated, yet it stalled: it is taken to have missed what was taken from its caches.
        missed = pressed and used - kept.used_mib <= max(32, view.ceiling_mib // 32)
    if missed:
        level = 1.125 * max(caches, kept.caches_mib)
        if level > hot:
            wait = min(2 * wait, tuning.retry_most_s) if hot > 0 else wait
            hot = level
        return hot, at_s + wait, wait
    if hot > 0 and at_s >= retry_at and not pressed:
        hot = hot * 0.75 if hot > tuning.waste_min_mib else 0.0
        return hot, at_s + wait, wait
    return hot, retry_at, wait


def _worth(view: SandboxView, tuning: Tuning) -> float:
    """Waste below this is let be (MiB)."""
    return max(tuning.waste_min_mib, view.ceiling_mib * tuning.waste_share)


def _trim(
    view: SandboxView, at_s: float, kept: Kept, passed_s: float, idle: float, pressed: bool, tuning: Tuning
) -> tuple[int, Kept]:
    """How much of its idle caches it is to drop now: borne for a while, like all waste, then all at once."""
    if kept.trimmed_mib:
        if at_s - kept.trimmed_s < tuning.trim_s:
            return 0, kept
        left = view.guest_caches_mib or 0
        heard = kept.caches_mib - left >= 0 and left <= kept.trimmed_mib / 2 + kept.hot_mib
        kept = kept._replace(trimmed_mib=0, deaf=0 if heard else kept.deaf + 1)
    if kept.deaf >= tuning.deaf_after or pressed:
        return 0, kept._replace(idle_caches=0.0)
    worth = _worth(view, tuning)
    if idle < worth:
        return 0, kept._replace(idle_caches=0.0)
    borne = kept.idle_caches + idle * passed_s
    if borne < view.ceiling_mib / 8 * tuning.trim_patience_s:
        return 0, kept._replace(idle_caches=borne)
    return int(idle), kept._replace(idle_caches=0.0, trimmed_mib=int(idle), trimmed_s=at_s)


def _tightness(
    view: SandboxView, at_s: float, kept: Kept, passed_s: float, work: float, tuning: Tuning
) -> tuple[bool, float, float, float]:
    """Whether it is to be held at what it needs since it holds more of the host than that, until when, how long that
    is, and its waste over time."""
    held = view.guest_ram_mib
    if held is None:
        held = (view.actual_mib or 0) - (view.guest_free_mib or 0)
    waste = held - work
    worth = _worth(view, tuning)
    until, wait = kept.tight_until_s, kept.tight_wait_s
    if kept.tight:
        if waste >= worth:
            return True, max(until, at_s + tuning.tight_s), wait, 0.0
        return (True, until, wait, 0.0) if at_s < until or waste > worth / 2 else (False, at_s, wait, 0.0)
    wasted = kept.wasted + waste * passed_s if waste >= worth else 0.0
    if wasted < view.ceiling_mib / 8 * tuning.patience_s:
        return False, until, wait, wasted
    again = kept.tight_until_s > kept.first_s and at_s - until < 2 * wait + 2 * tuning.patience_s
    wait = min(2 * wait, tuning.tight_most_s) if again else tuning.tight_s
    return True, at_s + wait, wait, 0.0
