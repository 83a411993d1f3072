"""The interface of a balloon device, which each engine implements."""

from __future__ import annotations

from typing import Protocol

from ballonet.vmm.statistics import GuestStatistics


class BalloonDevice(Protocol):
    """The balloon device of a running VM: what :class:`~ballonet.vmm.balloon.Balloon` drives.

    The methods raise ``EngineError`` if the engine refuses, and ``EngineExitedError`` if it has ended. The engine
    reports changes of actual with :meth:`~ballonet.vmm.balloon.Balloon.actual_changed`, at intervals of its own choice.
    """

    async def set_target(self, target_bytes: int) -> None:
        """Ask the guest for this size. Returns when the engine has the target, not when the guest has it."""
        ...

    async def read_actual(self) -> int:
        """The guest-visible memory in bytes, as the guest claims it: it may be anything."""
        ...

    async def has_driver(self) -> bool | None:
        """Whether a driver in the guest has taken the device; ``None`` if the engine cannot tell."""
        ...

    async def read_statistics(self) -> GuestStatistics:
        """The guest's newest report that the engine has."""
        ...

    async def request_statistics(self) -> None:
        """Have the guest report now, and from time to time until :meth:`quiet_statistics`."""
        ...

    async def quiet_statistics(self) -> None:
        """Do not ask the guest for reports any more."""
        ...
