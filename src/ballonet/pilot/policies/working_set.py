"""Estimates what one guest needs from what it reports: the part of the ``ballonet`` policy for one sandbox. Pure.

*Used* is the guest's actual memory minus its available memory. This is correct whether its kernel counts the balloon
as used (``deflate-on-oom``) or subtracts it from the total. Caches count as idle memory until reclaiming them makes the
guest stall or fault: then the guest keeps that much cache, and less is tried again much later.
"""

from __future__ import annotations

from typing import NamedTuple

from ballonet.pilot.limits import (
    STALE_S,
    LastTarget,
    follows,
    pressure,
    raised,
    refaulted_mib,
    totals,
)
from ballonet.pilot.model import SandboxView
from ballonet.pilot.policies.guest_state import GuestState, Tuning, guard_mib, waste_threshold_mib
from ballonet.pilot.price import caches_to_drop, is_idle, patience


class Assessment(NamedTuple):
    """The estimate for one guest at one tick. Sizes in MiB, all between ``least_mib`` and the ceiling."""

    #: Why the sandbox is left alone; the other fields are meaningless then.
    alone: str | None
    #: It refused before and is requested again: its memory is not counted on.
    doubted: bool
    #: Why it is under pressure and gets its ceiling, if it does.
    pressed: str | None
    #: What it uses now, including kept caches and guard; what it needs; that with room to grow; and what it should
    #: have if there is enough for all.
    now_mib: int
    work_mib: int
    room_mib: int
    want_mib: int
    #: Caches that it should drop, and whether only while it is idle.
    trim_mib: int
    gentle: bool
    #: How long it has been quiet; ``None``: it is at work, or that is unknown.
    quiet_s: float | None
    #: These numbers in words.
    why: str
    kept: GuestState | None


def assess(
    view: SandboxView,
    at_s: float,
    price: float,
    quiet: float | None,
    kept: GuestState | None,
    left: LastTarget | None,
    tuning: Tuning,
) -> Assessment:
    """Estimate what ``view`` needs at ``at_s``.

    :param price: the price of memory (:mod:`ballonet.pilot.price`).
    :param quiet: how long it has been quiet (seconds); ``None``: it is at work, or that is unknown.
    :param kept: what was remembered about it; ``None`` at the first tick.
    :param left: the target before and after the last decision.
    """
    missing_input = _missing_input(view)
    if missing_input is not None:
        return _left_alone(missing_input, kept)
    actual, available = view.actual_mib, view.guest_available_mib
    assert actual is not None and available is not None
    used = max(0, actual - available)
    caches = min(view.guest_caches_mib or 0, available)
    if kept is None:
        kept = _first_state(view, at_s, used, caches, tuning)
    refuses, kept = _refusal(view, at_s, kept, tuning)
    if refuses is not None:
        return _left_alone(refuses, kept)
    elapsed = max(0.0, at_s - kept.at_s)
    current = totals(view, at_s)
    pressed = raised(view, left) or pressure(current, kept.totals)
    need = max(used, _decay(kept.need_mib, used, elapsed, tuning.need_half_life_s))
    peak = max(used, _decay(kept.peak_mib, used, elapsed, tuning.peak_half_life_s))
    refaulted = refaulted_mib(current, kept.totals)
    hot, retry_at, retry_wait = _hot_caches(
        view, at_s, kept, used, caches, refaulted, pressed is not None, tuning
    )
    guard = guard_mib(view.ceiling_mib, tuning)
    idle = is_idle(price, quiet)
    trim, kept = _trim(view, at_s, price, quiet, kept, elapsed, caches - hot, pressed is not None, tuning)
    # Caches that the guest can drop on request do not need its balloon.
    droppable = 0.0 if kept.ignored >= tuning.ignored_most else max(0.0, caches - hot)
    tight, tight_until, tight_wait, wasted = _tightness(
        view, at_s, patience(price, idle), kept, elapsed, need + hot + guard + droppable, tuning
    )
    now = _within(view, used + hot + guard)
    work = _within(view, need + hot + guard)
    room = max(work, _within(view, max(peak, need + view.ceiling_mib * tuning.burst_share) + hot + guard))
    # Without waste it keeps what it has: memory free in the guest costs the host nothing and is there for a burst.
    want = work if tight and (idle or price > 0) else max(room, _within(view, view.target_mib))
    pressed_s = at_s if pressed is not None else kept.pressed_s
    why = f"uses {used} MiB, needs {need:.0f} + {hot:.0f} for caches + {guard} as reserve"
    if trim:
        why += f"; should drop {trim} of {caches} MiB of caches" + (
            " while it is idle" if kept.gentle else ""
        )
    why += f"; price {price:.2f}, " + ("at work" if quiet is None else f"quiet for {quiet:.0f} s")
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
        totals=current,
    )
    doubted = kept.retry_balloon_wait_s > tuning.refused_s
    gentle = trim > 0 and kept.gentle
    return Assessment(None, doubted, pressed, now, work, room, want, trim, gentle, quiet, why, kept)


def _left_alone(why: str, kept: GuestState | None) -> Assessment:
    """The estimate for a sandbox that is left alone."""
    return Assessment(why, False, None, 0, 0, 0, 0, 0, False, None, "", kept)


def _missing_input(view: SandboxView) -> str | None:
    """Which input is missing or too old; ``None`` if none is."""
    if view.problem is not None:
        return view.problem
    if view.actual_mib is None:
        return "the engine does not report its actual memory"
    if view.guest_available_mib is None:
        return "the guest does not report its available memory"
    if view.guest_age_s is not None and view.guest_age_s > STALE_S:
        return f"the guest's statistics are {view.guest_age_s:.0f} s old"
    return None


def _refusal(
    view: SandboxView, at_s: float, kept: GuestState, tuning: Tuning
) -> tuple[str | None, GuestState]:
    """Why its balloon gets no request. One that refused is requested again, at growing intervals."""
    if follows(view):
        return None, kept._replace(retry_balloon_wait_s=tuning.refused_s) if view.state == "applied" else kept
    why = f"its balloon does not follow: {view.state}"
    if view.state != "guest-refused":
        return why, kept
    if kept.retry_balloon_s == 0:
        return why, kept._replace(retry_balloon_s=at_s + kept.retry_balloon_wait_s)
    if at_s < kept.retry_balloon_s:
        return f"{why}; next attempt in {kept.retry_balloon_s - at_s:.0f} s", kept
    wait = min(2 * kept.retry_balloon_wait_s, tuning.refused_most_s)
    return None, kept._replace(retry_balloon_s=0.0, retry_balloon_wait_s=wait)


def _first_state(view: SandboxView, at_s: float, used: int, caches: int, tuning: Tuning) -> GuestState:
    return GuestState(
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
        trimmed_from_mib=0,
        trimmed_s=float("-inf"),
        gentle=False,
        gentle_wait_s=tuning.gentle_s,
        ignored=0,
        retry_balloon_s=0.0,
        retry_balloon_wait_s=tuning.refused_s,
        totals=totals(view, at_s),
    )


def _decay(before: float, now: float, elapsed_s: float, half_life_s: float) -> float:
    return float(now + (before - now) * 0.5 ** (elapsed_s / half_life_s))


def _within(view: SandboxView, mib: float) -> int:
    return min(view.ceiling_mib, max(view.least_mib, round(mib)))


def _hot_caches(
    view: SandboxView,
    at_s: float,
    kept: GuestState,
    used: int,
    caches: int,
    refaulted: int | None,
    pressed: bool,
    tuning: Tuning,
) -> tuple[float, float, float]:
    """How much cache to keep, when less is tried, and the waiting time."""
    hot, retry_at, wait = kept.hot_mib, kept.retry_at_s, kept.retry_wait_s
    if refaulted is not None:
        missed = refaulted >= tuning.refault_mib
    else:
        # It stalled without allocating: assume that it needed the caches that were reclaimed.
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


def _trim(
    view: SandboxView,
    at_s: float,
    price: float,
    quiet: float | None,
    kept: GuestState,
    elapsed_s: float,
    caches: float,
    pressed: bool,
    tuning: Tuning,
) -> tuple[int, GuestState]:
    """How much of its idle caches to drop now. How long they are tolerated depends on the price and on its activity."""
    if kept.trimmed_mib:
        if at_s - kept.trimmed_s < _trim_wait_s(price, kept, tuning):
            return 0, kept
        kept = _after_trim(view, kept, tuning)
    if kept.ignored >= tuning.ignored_most or pressed:
        return 0, kept._replace(idle_caches=0.0)
    threshold = waste_threshold_mib(view, tuning)
    if caches < threshold:
        return 0, kept._replace(idle_caches=0.0)
    kept = kept._replace(idle_caches=kept.idle_caches + caches * elapsed_s)
    idle = is_idle(price, quiet)
    if kept.idle_caches < view.ceiling_mib / 8 * tuning.trim_patience_s * patience(price, idle):
        return 0, kept
    drop = int(caches_to_drop(price, quiet, caches, view.guest_inactive_mib))
    if drop < int(threshold):
        return 0, kept
    return drop, kept._replace(
        idle_caches=0.0,
        trimmed_mib=drop,
        trimmed_from_mib=int(caches),
        trimmed_s=at_s,
        gentle=idle and price < 1,
    )


def _trim_wait_s(price: float, kept: GuestState, tuning: Tuning) -> float:
    """How long the result of the last request is waited for."""
    gentle_s = kept.gentle_wait_s * (1 - price) if kept.gentle else 0.0
    return max(tuning.trim_s, gentle_s)


def _after_trim(view: SandboxView, kept: GuestState, tuning: Tuning) -> GuestState:
    """The state after a request to drop caches: whether the guest dropped half of them."""
    left = view.guest_caches_mib or 0
    half = kept.trimmed_from_mib - kept.trimmed_mib / 2
    obeyed = left <= kept.caches_mib and left <= half + kept.hot_mib
    if kept.gentle:
        # A guest that went to work instead did nothing wrong.
        wait = tuning.gentle_s if obeyed else min(2 * kept.gentle_wait_s, tuning.gentle_most_s)
        return kept._replace(trimmed_mib=0, gentle_wait_s=wait)
    return kept._replace(trimmed_mib=0, ignored=0 if obeyed else kept.ignored + 1)


def _tightness(
    view: SandboxView,
    at_s: float,
    patience: float,
    kept: GuestState,
    elapsed_s: float,
    work: float,
    tuning: Tuning,
) -> tuple[bool, float, float, float]:
    """Whether to limit it to its need because it holds more host memory than that, until when, for how long, and its
    accumulated waste."""
    held = view.guest_ram_mib
    if held is None:
        held = (view.actual_mib or 0) - (view.guest_free_mib or 0)
    waste = held - work
    threshold = waste_threshold_mib(view, tuning)
    until, wait = kept.tight_until_s, kept.tight_wait_s
    if kept.tight:
        if waste >= threshold:
            return True, max(until, at_s + tuning.tight_s), wait, 0.0
        return (True, until, wait, 0.0) if at_s < until or waste > threshold / 2 else (False, at_s, wait, 0.0)
    wasted = kept.wasted + waste * elapsed_s if waste >= threshold else 0.0
    if wasted < view.ceiling_mib / 8 * tuning.patience_s * patience:
        return False, until, wait, wasted
    again = kept.tight_until_s > kept.first_s and at_s - until < 2 * wait + 2 * tuning.patience_s
    wait = min(2 * wait, tuning.tight_most_s) if again else tuning.tight_s
    return True, at_s + wait, wait, 0.0
