"""Ends or pauses a sandbox by itself: when it was idle for some time, and when it has run for long enough.

A sandbox is in use while a command of a client runs in it, while a TCP connection through its network is open, and
while its guest uses :data:`IDLE_SHARE` of a processor or more. Only sandboxes with such a limit are watched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ballonet.base.duration import show_duration
from ballonet.base.errors import BallonetError, EngineError, HostError, StillRunningError
from ballonet.host.proc import read_cpu_s
from ballonet.vmm.attach import Net
from ballonet.vmm.config import OnIdle, VmConfig

if TYPE_CHECKING:
    from ballonet.machine.live_save import LiveSave

log = logging.getLogger(__name__)

#: A guest that uses less than this share of one processor is idle. One that waits uses 0.5 % with emulation, and 4 % if
#: its kernel ticks all the time (bench/metrics.py).
IDLE_SHARE = 0.10
#: A sandbox that was started, touched or changed within this time is not paused because of others (seconds).
TOUCHED_S = 60.0
#: How often a sandbox is looked at, at most and at least (seconds); between them ten times in its idle timeout.
_LOOK_MIN_S, _LOOK_MAX_S = 0.5, 5.0


def busy_share(config: VmConfig, most: float = IDLE_SHARE) -> float:
    """The share of one processor from which on a guest is at work: ``most``, or half of its quota if that is less."""
    return most if config.cpu_quota_percent is None else min(most, config.cpu_quota_percent / 200)


class Lifetime:
    """Watches one running sandbox.

    :param config: has the limits.
    :param ran_s: how long it had run before it was resumed (seconds).
    :param pause: pauses it.
    :param stop: ends it, with a reason for a person.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        live: LiveSave,
        config: VmConfig,
        ran_s: float,
        *,
        pause: Callable[[], Awaitable[object]],
        stop: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._live = live
        self._pause = pause
        self._stop = stop
        self._began = self._clock() - ran_s
        self._watching: asyncio.Task[None] | None = None
        self._told = False
        self.set(config)

    @property
    def ran_s(self) -> float:
        """How long it has run, without the time while it was paused (seconds)."""
        return self._clock() - self._began

    def set(self, config: VmConfig) -> None:
        """Use the limits of ``config`` from now on."""
        self._config = config
        self.touch()
        wanted = config.ttl_s is not None or config.idle_timeout_s is not None
        if wanted and (self._watching is None or self._watching.done()):
            self._watching = asyncio.create_task(self._watch(), name="lifetime")

    def touch(self) -> None:
        """The sandbox is used: it is idle from now on at the earliest."""
        self._used_at = self._clock()

    async def in_use(self) -> str | None:
        """Why the sandbox must not be paused because of others now; ``None`` if nothing is under way in it."""
        if self._clock() - self._used_at < TOUCHED_S:
            return f"it was started, touched or changed in the last {TOUCHED_S:.0f} s"
        cpu_s, opened = read_cpu_s(self._live.vm.pid), self._opened()
        await self._sleep(_LOOK_MIN_S)
        now_s = read_cpu_s(self._live.vm.pid)
        if self._live.clients or self._opened() != opened:
            return "a command is running in it"
        if cpu_s is None or now_s is None or now_s - cpu_s >= busy_share(self._config) * _LOOK_MIN_S:
            return "its guest is at work"
        return "a network connection is open" if await self._connected() else None

    async def close(self) -> None:
        """Stop watching."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def _watch(self) -> None:
        seen_cpu_s, seen_at = read_cpu_s(self._live.vm.pid), self._clock()
        seen_opened = self._opened()
        while True:
            ttl_s, idle_s = self._config.ttl_s, self._config.idle_timeout_s
            if ttl_s is None and idle_s is None:
                return
            if ttl_s is not None and self.ran_s >= ttl_s:
                self._stop(f"it had run for {show_duration(ttl_s)}, its time to live")
                return
            await self._sleep(self._wait_s(ttl_s, idle_s))
            cpu_s, now, opened = read_cpu_s(self._live.vm.pid), self._clock(), self._opened()
            share = (
                1.0
                if cpu_s is None or seen_cpu_s is None
                else (cpu_s - seen_cpu_s) / max(now - seen_at, 1e-3)
            )
            busy = share >= busy_share(self._config)
            if busy or opened != seen_opened or self._live.clients or await self._connected():
                self._used_at = now
            seen_cpu_s, seen_at, seen_opened = cpu_s, now, opened
            if idle_s is not None and now - self._used_at >= idle_s:
                await self._idle(idle_s)

    def _opened(self) -> int:
        """Changes whenever a process is started, except those of health checks."""
        return self._live.services.agent.opened - self._live.checks_started

    def _wait_s(self, ttl_s: int | None, idle_s: int | None) -> float:
        wait_s = _LOOK_MAX_S if idle_s is None else min(max(idle_s / 10, _LOOK_MIN_S), _LOOK_MAX_S)
        return wait_s if ttl_s is None else max(0.01, min(wait_s, ttl_s - self.ran_s))

    async def _connected(self) -> bool:
        if self._config.net is Net.NONE:
            return False
        try:
            return await self._live.open_connections() > 0
        except EngineError:
            return True  # it ends
        except HostError as error:
            if not self._told:  # once, not with each look
                log.warning("it is not paused or stopped when it is idle: %s", error)
            self._told = True
            return True

    async def _idle(self, idle_s: int) -> None:
        why = f"it was idle for {show_duration(idle_s)}"
        if self._config.on_idle is OnIdle.STOP:
            self._stop(why)
            return
        log.info("pausing: %s", why)
        try:
            await self._pause()
        except StillRunningError:
            pass  # a command was started at this moment
        except BallonetError as error:
            log.warning("not paused although %s: %s", why, error)
        self.touch()
