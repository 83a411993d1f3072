"""QEMU's ``virtio-balloon`` device over its monitor (QMP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ballonet.base.errors import EngineError, EngineExitedError
from ballonet.vmm.config import Machine
from ballonet.vmm.qemu.command_line import BALLOON_ID
from ballonet.vmm.qemu.qmp import Qmp
from ballonet.vmm.qemu.statistics import parse_statistics
from ballonet.vmm.statistics import GuestStatistics

_OBJECT = f"/machine/peripheral/{BALLOON_ID}"


class QemuBalloonDevice:
    """A :class:`~ballonet.vmm.balloon_device.BalloonDevice`."""

    def __init__(self, machine: Machine, ceiling_mib: int, qmp: Qmp) -> None:
        self._qmp = qmp
        self._ceiling_mib = ceiling_mib
        self._status_path = _OBJECT if machine is Machine.MICROVM else f"{_OBJECT}/virtio-backend"
        self._statistics_on = False

    async def set_target(self, target_bytes: int) -> None:
        # QEMU refuses zero, which no guest could reach anyway: one byte rounds up to one page.
        await self._qmp.execute("balloon", value=max(1, target_bytes))

    async def read_actual(self) -> int:
        actual: int = (await self._qmp.execute("query-balloon"))["actual"]
        return actual

    async def has_driver(self) -> bool | None:
        """Read the device's status (virtio 1.2 §2.1, ``DRIVER_OK``)."""
        try:
            answer = await self._qmp.execute("x-query-virtio-status", path=self._status_path)
        except EngineExitedError:
            raise
        except EngineError:
            return None  # the command is marked experimental: a QEMU may lack it
        statuses = answer.get("status", {}).get("statuses", [])
        return any("DRIVER_OK" in str(status) for status in statuses)

    async def read_statistics(self) -> GuestStatistics:
        # QEMU refuses to read them until the interval has been set once.
        if not self._statistics_on:
            await self._set_interval(0)
        answer = await self._qmp.execute("qom-get", path=_OBJECT, property="guest-stats")
        return parse_statistics(answer, self._ceiling_mib)

    async def request_statistics(self) -> None:
        # Turning the timer off and on makes QEMU ask at once.
        await self._set_interval(0)
        await self._set_interval(1)

    async def quiet_statistics(self) -> None:
        await self._set_interval(0)

    async def _set_interval(self, seconds: int) -> None:
        prop = "guest-stats-polling-interval"
        await self._qmp.execute("qom-set", path=_OBJECT, property=prop, value=seconds)
        self._statistics_on = True


def changed_actual(event: str, data: Mapping[str, Any]) -> int | None:
    """The new actual in bytes if a monitor event reports one; ``None`` for other events. Pure."""
    actual = data.get("actual")
    return actual if event == "BALLOON_CHANGE" and isinstance(actual, int) else None
