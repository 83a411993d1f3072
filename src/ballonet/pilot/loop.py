"""The autopilot's loop: observe, decide, check, apply, record. The policy decides; the checks guard its decisions.

A tick runs once per period, and immediately when a sandbox's own pressure relief has raised its target, since the
others may then have to make room. When the loop ends, targets stay as they are; pressure relief, which is part of each
sandbox's process, continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.host.memory import read_host_memory
from ballonet.pilot import lock, state
from ballonet.pilot.checks import RULES, Seen, check_decision, problem_of, remember
from ballonet.pilot.fleet import Fleet
from ballonet.pilot.host_view import host_view
from ballonet.pilot.journal import Journal
from ballonet.pilot.model import DEFAULT_OVERCOMMIT, Decision, HostView, Input, Policy, SandboxView, Verdict

log = logging.getLogger(__name__)

#: How often the registry is read for new, removed and changed sandboxes (seconds).
DISCOVER_S = 2.0

DEFAULT_POLICY = "ballonet"
#: The rules that are enforced for every policy. The other rules of :mod:`ballonet.pilot.checks` are enforced for the
#: default policy only: the policies of other projects do not promise them and run as they are.
RULES_FOR_ALL = ("verdict", "range", "problem", "pause")
_NUMBER = re.compile(r"\d+(\.\d+)?")
#: Minimum time between two ticks, however often pressure relief triggers one (seconds).
LEAST_PERIOD_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of an autopilot."""

    only: tuple[str, ...] = ()
    #: Host memory that all sandboxes together may hold; ``None``: the whole host.
    budget_mib: int | None = None
    reserve_mib: int | None = None
    overcommit: float = DEFAULT_OVERCOMMIT
    dry_run: bool = False


@dataclass(frozen=True)
class Tick:
    """What one tick observed, decided and did."""

    #: Unix time.
    at: float
    host: HostView
    sandboxes: Sequence[SandboxView]
    verdicts: Sequence[Verdict]
    #: By sandbox: the target that was requested.
    moved: Mapping[str, int]
    #: By sandbox: the caches that its guest was requested to drop (MiB).
    trimmed: Mapping[str, int]
    #: By sandbox: why its target could not be set.
    errors: Mapping[str, str]
    notes: Sequence[str]
    paused: bool
    #: The sandboxes that are being paused since this tick.
    pausing: Sequence[str] = ()


class Pilot:
    """The autopilot. :meth:`run` it while holding :class:`~ballonet.pilot.lock.PilotLock`; :meth:`stop` ends it."""

    def __init__(
        self, policy: Policy, settings: Settings, *, on_tick: Callable[[Tick], None] = lambda tick: None
    ) -> None:
        self._policy = policy
        self._settings = settings
        self._on_tick = on_tick
        self._fleet = Fleet(settings.only)
        self._memory: Any = None
        self._began = time.monotonic()
        self._discovered = -DISCOVER_S
        self._seen: Seen | None = None
        self._enforced = RULES if policy.name == DEFAULT_POLICY else RULES_FOR_ALL
        self._stop = asyncio.Event()
        self._said: dict[str, str] = {}
        self._notes: set[str] = set()
        self._journal = None if settings.dry_run else Journal(lock.pilot_dir())

    def stop(self) -> None:
        """End after the current tick."""
        self._stop.set()

    async def run(self, ticks: int | None = None) -> None:
        """Tick until :meth:`stop`, or ``ticks`` times. An exception from ``on_tick`` ends it."""
        try:
            done = 0
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    tick = await self.tick()
                except BallonetError as error:  # may be temporary: a locked registry, a full disk
                    self._say_once("pilot", f"this tick failed: {error.message}")
                else:
                    self._on_tick(tick)
                done += 1
                if done == ticks:
                    break
                await self._pause(began)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections to the sandboxes; :meth:`run` does so when it ends."""
        await self._fleet.close()

    async def tick(self) -> Tick:
        """Run one tick.

        :raises BallonetError: the registry cannot be read.
        """
        now = time.monotonic()
        if now - self._discovered >= DISCOVER_S:
            await self._fleet.discover()
            self._discovered = now
        self._fleet.raised.clear()
        sandboxes = [self._judged(view) for view in await self._fleet.observe()]
        host = host_view(
            read_host_memory(),
            time.monotonic() - self._began,
            sandboxes,
            budget_mib=self._settings.budget_mib,
            reserve_mib=self._settings.reserve_mib,
            overcommit=self._settings.overcommit,
        )
        if state.paused_since() is not None:
            self._memory = self._seen = None  # start afresh when it is resumed
            idle = [Verdict(view.name, None, "the autopilot is paused") for view in sandboxes]
            tick = Tick(time.time(), host, sandboxes, idle, {}, {}, {}, (), True)
        else:
            tick = await self._decide(host, sandboxes)
        self._write_down(tick)
        return tick

    async def _decide(self, host: HostView, sandboxes: Sequence[SandboxView]) -> Tick:
        decision = self._policy.decide(host, sandboxes, self._memory)
        self._memory = decision.memory
        verdicts = self._checked(host, sandboxes, decision)
        self._seen = remember(host, sandboxes, self._seen, decision._replace(verdicts=verdicts))
        # Setting the same target again is intended: a guest that stopped at its guard, or refused, then continues.
        moves = {
            verdict.sandbox: verdict.target_mib
            for verdict in verdicts
            if verdict.target_mib is not None and not verdict.pause
        }
        trims = {
            verdict.sandbox: verdict.trim_mib
            for verdict in verdicts
            if verdict.trim_mib > 0 and not verdict.pause
        }
        pausing = [verdict.sandbox for verdict in verdicts if verdict.pause]
        errors: Mapping[str, str] = {}
        if not self._settings.dry_run:
            for name in pausing:
                self._fleet.pause(name)
            self._fleet.trim(trims, {verdict.sandbox for verdict in verdicts if verdict.gentle})
            errors = await self._fleet.apply(moves)
        for name in moves:
            if name in errors:
                self._say_once(f"set {name}", f"sandbox {name}: the target could not be set: {errors[name]}")
            else:
                self._said.pop(f"set {name}", None)
        self._say_notes(decision.notes)
        return Tick(
            time.time(), host, sandboxes, verdicts, moves, trims, errors, decision.notes, False, pausing
        )

    def _checked(self, host: HostView, sandboxes: Sequence[SandboxView], decision: Decision) -> list[Verdict]:
        """The verdicts, without those that break a rule: a policy's defect is logged and not carried out."""
        targets = {view.name: view.target_mib for view in sandboxes}
        verdicts = {verdict.sandbox: verdict for verdict in decision.verdicts if verdict.sandbox in targets}
        for violation in check_decision(host, sandboxes, decision, self._seen):
            if violation.rule not in self._enforced:
                continue
            self._say_once(
                f"{violation.rule} {violation.sandbox}", f"policy {self._policy.name}: {violation.message}"
            )
            for name, verdict in verdicts.items():
                # If the sandboxes together are promised too much, none may grow; shrinking is still allowed.
                grows = verdict.target_mib is not None and verdict.target_mib > targets[name]
                together = grows if violation.rule != "pause" else verdict.pause
                if violation.sandbox == name or (violation.sandbox is None and together):
                    verdicts[name] = verdict._replace(
                        target_mib=None, trim_mib=0, pause=False, reason=f"not applied: {violation.message}"
                    )
        return list(verdicts.values())

    def _judged(self, view: SandboxView) -> SandboxView:
        """``view`` with its problem, if inputs are missing or impossible. The problem is logged once."""
        problem = problem_of(view)
        if problem is None:
            if self._said.pop(view.name, None) is not None:
                log.warning("sandbox %s is managed again", view.name)
            return view
        self._say_once(view.name, f"sandbox {view.name} is left alone: {problem}")
        return view._replace(problem=problem)

    def _say_notes(self, notes: Sequence[str]) -> None:
        """Log the notes that the last tick did not have."""
        before, self._notes = self._notes, {_NUMBER.sub("#", note) for note in notes}
        for note in notes:
            if _NUMBER.sub("#", note) not in before:
                log.warning("%s", note)

    def _say_once(self, about: str, words: str) -> None:
        """Log ``words``, unless they differ from the last ones about the same only in their numbers."""
        kind = _NUMBER.sub("#", words)
        if self._said.get(about) != kind:
            self._said[about] = kind
            log.warning("%s", words)

    def _write_down(self, tick: Tick) -> None:
        if self._journal is None:
            return
        views = {view.name: view for view in tick.sandboxes}
        entries = [
            {
                "sandbox": verdict.sandbox,
                "old_mib": views[verdict.sandbox].target_mib,
                "target_mib": verdict.target_mib,
                "trim_mib": verdict.trim_mib,
                "gentle": verdict.gentle,
                "pause": verdict.pause,
                "reason": verdict.reason,
                "error": tick.errors.get(verdict.sandbox),
                "problem": views[verdict.sandbox].problem,
                "policy": self._policy.name,
                "inputs": _inputs(tick.host, views[verdict.sandbox], verdict),
            }
            for verdict in tick.verdicts
        ]
        try:
            state.write_status(
                {
                    "at": tick.at,
                    "policy": self._policy.name,
                    "settings": asdict(self._settings),
                    "paused": tick.paused,
                    "notes": list(tick.notes),
                    "host": tick.host._asdict(),
                    "price": tick.host.price,
                    "sandboxes": [view._asdict() for view in tick.sandboxes],
                    "moved": dict(tick.moved),
                }
            )
            self._journal.add(tick.at, entries)
        except BallonetError as error:  # a full disk must not stop the autopilot
            self._say_once("journal", error.message)

    async def _pause(self, began: float) -> None:
        """Wait for the next period, or until another client raised a target."""
        left = max(0.0, began + self._policy.period_s - time.monotonic())
        waits = {
            asyncio.ensure_future(self._fleet.raised.wait()),
            asyncio.ensure_future(self._stop.wait()),
        }
        try:
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._stop.is_set():
            early = began + LEAST_PERIOD_S - time.monotonic()
            if early > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), early)


def _inputs(host: HostView, view: SandboxView, verdict: Verdict) -> dict[str, Input]:
    """All inputs of a verdict: what was observed, and what the policy adds."""
    seen: dict[str, Input] = view._asdict()
    del seen["name"]
    seen |= {f"host_{name}": value for name, value in host._asdict().items()}
    return {**seen, "host_price": host.price, **verdict.inputs}
