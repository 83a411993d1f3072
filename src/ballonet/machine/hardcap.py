"""The hard cap: the engine's process in a cgroup whose limit follows the balloon.

The balloon is best effort: a hostile guest ignores it. The cap is the host's own. It is raised before the guest may
grow, and lowered only after the guest's actual memory came down, so that a guest that does as asked never meets it;
one that does not is held at what it was last allowed.
"""

from __future__ import annotations

import asyncio
import logging
from zlib import crc32

from ballonet.base.memory import MIB, bytes_to_mib, mib_to_bytes
from ballonet.base.paths import run_dir
from ballonet.host.cgroup import MemoryGroup, open_group
from ballonet.host.proc import read_resident
from ballonet.vmm.balloon import Balloon

log = logging.getLogger(__name__)

#: What the engine needs beside the guest's memory: measured, but never taken to be less than this (MiB). Under
#: emulation its translation cache (64 MiB) fills up over time.
OVERHEAD_MIN_MIB = 192
#: On top of the measured overhead: page tables, kernel memory, and what the engine has not yet touched (MiB).
OVERHEAD_MARGIN_MIB = 64
#: What the names of our cgroups begin with.
GROUP_PREFIX = "ballonet-"
#: A limit that the kernel could not enforce yet is tried again after this long (seconds).
_RETRY_S = 1.0


def allowed_bytes(allowed: int, target: int, actual: int | None) -> int:
    """The guest memory to allow next, in bytes: up at once with the target, down only as actual came down."""
    if target >= allowed:
        return target
    return allowed if actual is None else min(allowed, max(target, actual))


class HardCap:
    """One sandbox's cap."""

    def __init__(self, name: str, initial_bytes: int) -> None:
        """:raises HostError: this host gives no writable memory controller."""
        # The same name may run at once under another run directory.
        self._group: MemoryGroup = open_group(f"{GROUP_PREFIX}{name}-{crc32(bytes(run_dir())):08x}")
        self._allowed = initial_bytes
        self._overhead = (OVERHEAD_MIN_MIB + OVERHEAD_MARGIN_MIB) * MIB
        self._engine_pid: int | None = None
        self._follower: asyncio.Task[None] | None = None
        self.limit_bytes = 0
        self._enforce()

    @property
    def procs_file(self) -> str:
        """For the engine's process: written before it executes."""
        return str(self._group.procs_file)

    @property
    def limit_mib(self) -> int:
        """The limit in force."""
        return bytes_to_mib(self.limit_bytes)

    def follow(self, engine_pid: int, balloon: Balloon) -> None:
        """Let the limit follow ``balloon`` from now on."""
        self._engine_pid = engine_pid
        balloon.before_retarget = self.allow
        self._follower = asyncio.create_task(self._follow(balloon), name="hard cap")

    def allow(self, target_bytes: int) -> None:
        """The guest may grow to ``target_bytes``: raise the limit before it does."""
        if target_bytes > self._allowed:
            self._allowed = target_bytes
            self._enforce()

    def kills(self) -> int:
        """How often the kernel killed the engine for going over the limit."""
        return self._group.kills()

    async def close(self) -> None:
        """Stop following and remove the group; the engine must be gone."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        self._group.remove()

    async def _follow(self, balloon: Balloon) -> None:
        version = -1
        while True:
            version, status = await balloon.wait_change(version)
            self._allowed = allowed_bytes(self._allowed, mib_to_bytes(status.target_mib), status.actual_bytes)
            while not self._enforce():  # noqa: ASYNC110  (the kernel does not tell when it could)
                await asyncio.sleep(_RETRY_S)

    def _enforce(self) -> bool:
        if self._engine_pid is not None and (resident := read_resident(self._engine_pid)) is not None:
            measured = resident.engine_bytes
            self._overhead = max(self._overhead, measured + OVERHEAD_MARGIN_MIB * MIB)
        wanted = self._allowed + self._overhead
        if wanted == self.limit_bytes:
            return True
        if not self._group.set_limit(wanted):
            return False
        self.limit_bytes = wanted
        log.info("hard cap: %d MiB", self.limit_mib)
        return True
