"""The hard cap: a cgroup for the engine's process whose limit follows the balloon.

A hostile guest can ignore the balloon, but not the cap. The cap is raised before the guest may grow, and lowered after
its actual memory has decreased. So a cooperative guest never reaches it; any other guest stays below its last limit.
"""

from __future__ import annotations

import asyncio
import logging
from zlib import crc32

from ballonet.base.memory import MIB, bytes_to_mib, mib_to_bytes
from ballonet.base.paths import run_dir
from ballonet.host.cgroup import open_group
from ballonet.host.memory_group import MemoryGroup
from ballonet.host.proc import read_resident
from ballonet.vmm.balloon import Balloon

log = logging.getLogger(__name__)

#: The least allowance for the engine's own memory, which is measured (MiB). The translation cache for emulation (64
#: MiB) fills up over time.
OVERHEAD_MIN_MIB = 192
#: Added to the measured overhead for page tables, kernel memory, and memory that the engine will still use (MiB).
OVERHEAD_MARGIN_MIB = 64
#: Prefix of the names of cgroups.
GROUP_PREFIX = "ballonet-"
#: Interval between attempts to set a limit that the kernel could not enforce yet (seconds).
_RETRY_S = 1.0


def allowed_bytes(allowed: int, target: int, actual: int | None) -> int:
    """The guest memory to allow next, in bytes: raised at once with the target, lowered only as actual decreases."""
    if target >= allowed:
        return target
    return allowed if actual is None else min(allowed, max(target, actual))


def group_name(sandbox: str) -> str:
    """The name of a sandbox's cgroup. A sandbox with the same name may run with another run directory."""
    return f"{GROUP_PREFIX}{sandbox}-{crc32(bytes(run_dir())):08x}"


class HardCap:
    """The hard cap of one sandbox."""

    def __init__(self, name: str, initial_bytes: int) -> None:
        """:raises HostError: this host has no writable memory controller."""
        self.group: MemoryGroup = open_group(group_name(name))
        self._allowed = initial_bytes
        self._overhead = (OVERHEAD_MIN_MIB + OVERHEAD_MARGIN_MIB) * MIB
        self._engine_pid: int | None = None
        self._follower: asyncio.Task[None] | None = None
        self.limit_bytes = 0
        self._enforce()

    @property
    def limit_mib(self) -> int:
        """The current limit."""
        return bytes_to_mib(self.limit_bytes)

    def follow(self, engine_pid: int, balloon: Balloon) -> None:
        """Make the limit follow ``balloon`` from now on."""
        self._engine_pid = engine_pid
        balloon.before_retarget = self.allow
        self._follower = asyncio.create_task(self._follow(balloon), name="hard cap")

    def allow(self, target_bytes: int) -> None:
        """The guest may grow to ``target_bytes``: raise the limit before it does."""
        if target_bytes > self._allowed:
            self._allowed = target_bytes
            self._enforce()

    def kills(self) -> int:
        """How many times the kernel killed the engine because it exceeded the limit."""
        return self.group.kills()

    async def close(self) -> None:
        """Stop following, and remove the group. The engine must have ended."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        self.group.remove()

    async def _follow(self, balloon: Balloon) -> None:
        version = -1
        while True:
            version, status = await balloon.wait_change(version)
            self._allowed = allowed_bytes(self._allowed, mib_to_bytes(status.target_mib), status.actual_bytes)
            while not self._enforce():  # noqa: ASYNC110  (the kernel does not report when it can)
                await asyncio.sleep(_RETRY_S)

    def _enforce(self) -> bool:
        if self._engine_pid is not None and (resident := read_resident(self._engine_pid)) is not None:
            measured = resident.engine_bytes
            self._overhead = max(self._overhead, measured + OVERHEAD_MARGIN_MIB * MIB)
        wanted = self._allowed + self._overhead
        if wanted == self.limit_bytes:
            return True
        if not self.group.set_limit(wanted):
            return False
        self.limit_bytes = wanted
        log.info("hard cap: %d MiB", self.limit_mib)
        return True
