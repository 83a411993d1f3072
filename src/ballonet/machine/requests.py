"""Requests of the sandbox's owner to its process (MANAGE, on the agent socket): pause it, save it for a snapshot,
change its limits.

They are not on the control socket, which others may be allowed to use and a sandbox without a balloon does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError, NotRunningError, StillRunningError
from ballonet.machine.lifetime import Lifetime
from ballonet.machine.live_save import LiveSave
from ballonet.settings.flags import RESOURCE_FIELDS
from ballonet.vmm.config import OnIdle, VmConfig

if TYPE_CHECKING:
    from ballonet.machine.engine_limits import EngineLimits
    from ballonet.machine.health import HealthChecks
    from ballonet.machine.pausing import Pausing
    from ballonet.machine.snapshotting import Snapshotting

_LAST_SIGNAL = 64

# What carries a request out is loaded with the first one.


class Requests:
    """Carries out requests to one sandbox.

    :param ending: whether the sandbox ends.
    """

    def __init__(
        self,
        live: LiveSave,
        limits: EngineLimits,
        ending: Callable[[], bool],
        config: VmConfig,
        modified: Callable[[VmConfig], None],
        stop: Callable[[str], None],
        ran_s: float,
    ) -> None:
        self._live = live
        self._limits = limits
        self._ending = ending
        self._config = config
        self._modified = modified
        self._pausing: Pausing | None = None
        self._snapshotting: Snapshotting | None = None
        self.lifetime = Lifetime(live, config, ran_s, pause=lambda: self._pause(force=False), stop=stop)
        self._health: HealthChecks | None = None
        live.ran_s = lambda: self.lifetime.ran_s

    async def carry_out(self, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request; returns the facts of the reply.

        :raises BallonetError: it failed, or is unknown.
        """
        if do == "pause":
            if arguments.get("if_idle") is True and (why := await self.lifetime.in_use()) is not None:
                raise StillRunningError(f"sandbox {self._live.name!r} was not paused: {why}")
            return await self._pause(force=arguments.get("force") is True)
        if do == "snapshot":
            return await self._snapshot(arguments)
        if do == "touch":
            self.lifetime.touch()
            return {}
        if do == "signal":
            return await self._signal(arguments.get("number"))
        if do == "lifetime":
            return self._set_lifetime(arguments)
        if do == "limits":
            return await self._set_limits(arguments)
        raise ConfigError(
            f"sandbox {self._live.name!r} does not know the request {do!r}"[:200],
            hint="it was started by another version of ballonet: restart it",
        )

    def check_health(self, changed: Callable[[str, str | None], None]) -> None:
        """Start checking the guest's health, if that is configured."""
        if self._config.has_health_check:
            from ballonet.machine.health import HealthChecks

            self._health = HealthChecks(self._live, self._config, changed)
            self._health.start()

    @property
    def paused(self) -> bool:
        """Whether the guest was saved, and its engine ended."""
        return self._pausing is not None and self._pausing.done

    async def close(self, *, wait: bool) -> None:
        """The sandbox ends.

        :param wait: until no request is being carried out that must not be interrupted.
        """
        if wait and self._pausing is not None:
            await self._pausing.settle()
        if self._health is not None:
            await self._health.close()
        await self.lifetime.close()

    def _set_lifetime(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Use other limits (fields of the configuration) from now on."""
        try:
            on_idle = OnIdle(arguments["on_idle"])
            limits = {field: arguments[field] for field in ("ttl_s", "idle_timeout_s")}
            pausable = arguments.get("pausable", self._config.pausable) is True
        except (KeyError, ValueError) as error:
            raise ConfigError(f"invalid limits: {error}") from error
        if not all(limit is None or isinstance(limit, int) for limit in limits.values()):
            raise ConfigError(f"invalid limits: {limits}")
        self._config = replace(self._config, on_idle=on_idle, pausable=pausable, **limits)
        self.lifetime.set(self._config)
        self._modified(self._config)
        return {}

    async def _set_limits(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Use other limits of processors and disks (fields of the configuration) from now on."""
        limits = {field: arguments[field] for field in RESOURCE_FIELDS if field in arguments}
        whole = all(limit is None or (isinstance(limit, int) and limit > 0) for limit in limits.values())
        if not limits or not whole:
            raise ConfigError(f"invalid limits: {arguments}"[:200])
        config = replace(self._config, **limits)
        await self._limits.change(self._live.vm, self._config, config)
        self._config = config
        self.lifetime.set(config)
        self._modified(config)
        return {}

    async def _signal(self, number: object) -> dict[str, Any]:
        """Send a signal to the sandbox's own command."""
        command, name = self._live.command, self._live.name
        if not isinstance(number, int) or not 1 <= number <= _LAST_SIGNAL:
            raise ConfigError(f"invalid signal: {number!r}"[:80])
        if command is None:
            raise ConfigError(
                f"sandbox {name!r} has no command of its own, so that there is nothing to send a signal to",
                hint="signal a process in it: ballonet exec NAME kill -SIGNAL PID; or end it: ballonet kill NAME",
            )
        if not command.running:
            raise NotRunningError(f"the command of sandbox {name!r} has ended")
        await command.signal(number)
        return {}

    async def _snapshot(self, arguments: dict[str, Any]) -> dict[str, Any]:
        paths = [arguments.get(name) for name in ("state", "disk")]
        if not all(isinstance(path, str) and path.startswith("/") for path in paths):
            raise ConfigError("the request 'snapshot' needs two absolute paths")
        if self._snapshotting is None:
            from ballonet.machine.snapshotting import Snapshotting

            self._snapshotting = Snapshotting(self._live)
        return await self._snapshotting.save(*map(Path, map(str, paths)), trim=arguments.get("trim") is True)

    async def _pause(self, *, force: bool) -> dict[str, Any]:
        if self._pausing is None:
            from ballonet.machine.pausing import Pausing

            self._pausing = Pausing(self._live, self._ending)
        return await self._pausing.pause(force=force)
