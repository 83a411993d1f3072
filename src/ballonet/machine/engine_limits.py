"""The limits of what a sandbox takes of the host's processors and disks, which may change while it runs.

Processor time is limited by a cgroup with the engine and the programs that serve it. The engine itself limits its
disks.
"""

from __future__ import annotations

import logging
import os

from ballonet.base.errors import HostError
from ballonet.host.cgroup import open_cpu_group
from ballonet.host.cpu_group import CpuGroup
from ballonet.host.memory_group import MemoryGroup
from ballonet.host.proc import read_children
from ballonet.machine.hardcap import group_name
from ballonet.vmm.config import VmConfig
from ballonet.vmm.engine import Vm

log = logging.getLogger(__name__)


class EngineLimits:
    """The limits of one sandbox.

    :param memory: the cgroup of its hard cap, if it has one.
    """

    def __init__(self, name: str, memory: MemoryGroup | None) -> None:
        self._name = name
        self._memory = memory
        self._cpu: CpuGroup | None = None
        #: The files to which a process of the sandbox is written before exec. A group is added when there is one.
        self.procs_files: list[str] = [] if memory is None else [str(memory.procs_file)]

    def set_cpu_quota(self, percent: int | None) -> None:
        """Limit processor time, in percent of one processor; ``None``: no limit.

        :raises HostError: this host has no writable cpu controller, or the kernel refuses the limit.
        """
        if self._cpu is None:
            if percent is None:
                return
            self._cpu = open_cpu_group(group_name(self._name), beside=self._memory)
        self._cpu.set_quota(percent)
        if (path := str(self._cpu.procs_file)) not in self.procs_files:
            self.procs_files.append(path)
        log.info("cpu quota: %s", "none" if percent is None else f"{percent} %")

    async def change(self, vm: Vm, old: VmConfig, new: VmConfig) -> None:
        """Use the limits of ``new`` for a sandbox that runs with those of ``old``.

        :raises BallonetError: a limit cannot be set; others may have been.
        """
        if new.cpu_quota_percent != old.cpu_quota_percent:
            self.set_cpu_quota(new.cpu_quota_percent)
            if self._cpu is not None:
                try:
                    _add_children(self._cpu)
                except HostError:
                    self._cpu.set_quota(None)  # not of some of its processes only
                    raise
        if new.io_limits != old.io_limits:
            await vm.limit_io(new.io_limits)
            log.info("limits of the disks: %s", new.io_limits)

    def close(self) -> None:
        """Remove the cgroup. Its processes must have ended."""
        if self._cpu is not None:
            self._cpu.remove()


def _add_children(group: CpuGroup) -> None:
    """Move the processes that this one has started to the group, where most are already."""
    waiting = read_children(os.getpid())
    while waiting:
        pid = waiting.pop()
        waiting += read_children(pid)
        try:
            group.procs_file.write_text(str(pid))
        except ProcessLookupError:
            continue  # it has ended
        except OSError as error:
            raise HostError(
                f"process {pid} of the running sandbox cannot be moved to {group.procs_file.parent}: {error.strerror}",
                hint="restart the sandbox: the quota applies then",
            ) from error
