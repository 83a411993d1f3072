"""The loop: look, decide, check, apply, write down. All judgement is the policy's; all caution is the checks'.

A tick comes once a period, and at once when a sandbox's own pressure relief has raised its target: the others then
have to make room. When the loop ends, nothing moves any more: targets stay, and relief is each sandbox's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ballonet.base.errors import BallonetError
from ballonet.host.memory import read_host_memory
from ballonet.pilot import claim
from ballonet.pilot.checks import RULES, Seen, check_decision, problem_of, remember
from ballonet.pilot.fleet import Fleet
from ballonet.pilot.host import host_view
from ballonet.pilot.journal import Journal
from ballonet.pilot.model import DEFAULT_OVERCOMMIT, Decision, HostView, Input, Policy, SandboxView, Verdict

log = logging.getLogger(__name__)

#: How often the registry is read for sandboxes that have come, gone or changed (seconds).
DISCOVER_S = 2.0
#: The rule that is ours.
DEFAULT_POLICY = "ballonet"
#: What no policy may break. The others (see :mod:`ballonet.pilot.checks`) are what ours promises: peers' rules, which
#: promise less, are run as they are.
RULES_FOR_ALL = ("verdict", "range", "problem")
#: Between two ticks at the least, however many sandboxes are relieved (seconds).
LEAST_PERIOD_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an autopilot is run."""

    only: tuple[str, ...] = ()
    #: What all sandboxes together may hold of the host; ``None``: the host's own figures.
    budget_mib: int | None = None
    reserve_mib: int | None = None
    overcommit: float = DEFAULT_OVERCOMMIT
    dry_run: bool = False


@dataclass(frozen=True)
class Tick:
    """What one tick saw, said and did."""

    #: Unix time.
    at: float
    host: HostView
    sandboxes: Sequence[SandboxView]
    verdicts: Sequence[Verdict]
    #: By sandbox: the target that was asked for.
    moved: Mapping[str, int]
    #: By sandbox: the caches that its guest was asked to drop (MiB).
    trimmed: Mapping[str, int]
    #: By sandbox: why its target could not be set.
    errors: Mapping[str, str]
    notes: Sequence[str]
    paused: bool


class Pilot:
    """Make it, :meth:`run` it inside the claim, and have it :meth:`stop`."""

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
        self._journal = None if settings.dry_run else Journal(claim.pilot_dir())

    def stop(self) -> None:
        """End after the tick that is under way."""
        self._stop.set()

    async def run(self, ticks: int | None = None) -> None:
        """Tick until :meth:`stop`, or ``ticks`` times. What ``on_tick`` raises ends it."""
        try:
            done = 0
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    tick = await self.tick()
                except BallonetError as error:  # a registry that is locked, a disk that is full: it may pass
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
        """Let go of the sandboxes; :meth:`run` does it by itself."""
        await self._fleet.close()

    async def tick(self) -> Tick:
        """Once around.

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
        if claim.paused_since() is not None:
            self._memory = self._seen = None  # when it goes on it starts from what it finds then
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
        # The same target again is meant, too: it has a guest go on that had stopped at its guard, or refused.
        moves = {
            verdict.sandbox: verdict.target_mib for verdict in verdicts if verdict.target_mib is not None
        }
        trims = {verdict.sandbox: verdict.trim_mib for verdict in verdicts if verdict.trim_mib > 0}
        errors: Mapping[str, str] = {}
        if not self._settings.dry_run:
            self._fleet.trim(trims)
            errors = await self._fleet.apply(moves)
        for name, error in errors.items():
            self._say_once(name, f"sandbox {name}: its target was not set: {error}")
        for note in decision.notes:
            self._say_once("host", note)
        return Tick(time.time(), host, sandboxes, verdicts, moves, trims, errors, decision.notes, False)

    def _checked(self, host: HostView, sandboxes: Sequence[SandboxView], decision: Decision) -> list[Verdict]:
        """The verdicts, without those that break a rule: a policy's defect is loud, and not carried out."""
        targets = {view.name: view.target_mib for view in sandboxes}
        verdicts = {verdict.sandbox: verdict for verdict in decision.verdicts if verdict.sandbox in targets}
        for violation in check_decision(host, sandboxes, decision, self._seen):
            if violation.rule not in self._enforced:
                continue
            self._say_once(
                f"{violation.rule} {violation.sandbox}", f"policy {self._policy.name}: {violation.message}"
            )
            for name, verdict in verdicts.items():
                # What all together have too much is not made more; who gives something back may do so.
                grows = verdict.target_mib is not None and verdict.target_mib > targets[name]
                if violation.sandbox == name or (violation.sandbox is None and grows):
                    verdicts[name] = verdict._replace(
                        target_mib=None, reason=f"not done: {violation.message}"
                    )
        return list(verdicts.values())

    def _judged(self, view: SandboxView) -> SandboxView:
        """With its problem, if its figures are missing or absurd: loud, once, and it is left alone."""
        problem = problem_of(view)
        if problem is None:
            if self._said.pop(view.name, None) is not None:
                log.warning("sandbox %s is looked after again", view.name)
            return view
        self._say_once(view.name, f"sandbox {view.name} is left alone: {problem}")
        return view._replace(problem=problem)

    def _say_once(self, about: str, words: str) -> None:
        if self._said.get(about) != words:
            self._said[about] = words
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
                "reason": verdict.reason,
                "error": tick.errors.get(verdict.sandbox),
                "problem": views[verdict.sandbox].problem,
                "policy": self._policy.name,
                "inputs": _inputs(tick.host, views[verdict.sandbox], verdict),
            }
            for verdict in tick.verdicts
        ]
        try:
            claim.write_status(
                {
                    "at": tick.at,
                    "policy": self._policy.name,
                    "settings": asdict(self._settings),
                    "paused": tick.paused,
                    "notes": list(tick.notes),
                    "host": tick.host._asdict(),
                    "sandboxes": [view._asdict() for view in tick.sandboxes],
                    "moved": dict(tick.moved),
                }
            )
            self._journal.add(tick.at, entries)
        except BallonetError as error:  # a full disk must not keep it from its work
            self._say_once("journal", error.message)

    async def _pause(self, began: float) -> None:
        """Until the next period, or until a sandbox was relieved."""
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
    """All that a verdict was made from: what was seen, and what the policy says it reckoned with."""
    seen: dict[str, Input] = view._asdict()
    del seen["name"]
    return {**seen, **{f"host_{name}": value for name, value in host._asdict().items()}, **verdict.inputs}
