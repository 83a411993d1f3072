"""This host with less memory, as a machine for tests: a cgroup with a limit, in which the kernel really kills."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from ballonet.base.errors import HostError
from ballonet.base.memory import mib_to_bytes, parse_size
from ballonet.host.cgroup import open_group
from ballonet.host.memory_group import MemoryGroup
from tests.machines.catalogue import ROOT, Machine
from tests.machines.host import HostMachine, HostProcess
from tests.machines.inner import InnerRun, NotHereError, Place

_ENTER = 'echo $$ >"$0" && exec "$@"'


class LimitedMachine(HostMachine):
    """As :class:`~tests.machines.outer.OuterMachine`, without a guest around it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._group: MemoryGroup | None = None

    def start(self) -> None:
        """Make the cgroup.

        :raises NotHereError: this host has no memory controller that may be used.
        """
        self._engine = shutil.which("qemu-system-x86_64") or ""
        try:
            self._group = open_group(f"ballonet-{self.machine.name}-{os.getpid()}")
            self._group.set_limit(mib_to_bytes(parse_size(self.machine.memory)))
        except HostError as error:
            raise NotHereError(str(error)) from error

    def begin(self, tests: Sequence[str]) -> None:
        """Run these tests; :meth:`result` waits for each."""
        assert self._group is not None
        enter = ["sh", "-c", _ENTER, str(self._group.procs_file)]
        place = Place(str(ROOT), sys.executable, {"PYTHONPATH": f"{ROOT}/src:{ROOT}"})
        self._run = InnerRun(lambda words: HostProcess([*enter, *words]), self.machine, tests, place)

    def close(self) -> None:
        super().close()
        if self._group is not None:
            self._group.remove()
