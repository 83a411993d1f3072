"""Writes the events of a sandbox's memory: its balloon was resized, or its guest got relief."""

from __future__ import annotations

from collections.abc import Callable

from ballonet.machine.event_file import EventFile
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.convergence import State


class MemoryEvents:
    """Follows one balloon.

    :param pausing: whether the sandbox is being paused, which makes the guest smaller for the file only.
    """

    def __init__(self, file: EventFile, balloon: Balloon, pausing: Callable[[], bool]) -> None:
        self._pausing = pausing
        self._file = file
        self._balloon = balloon
        #: The target of the last event (MiB).
        self._target_mib = balloon.status.target_mib

    async def follow(self) -> None:
        """Write an event whenever the balloon has settled at another target."""
        version = -1
        while True:
            version, status = await self._balloon.wait_change(version)
            settled = status.state is not State.CONVERGING and not self._pausing()
            if not settled or status.target_mib == self._target_mib:
                continue
            self._write("resized", f"{status.state}: {status.detail}" if status.detail else str(status.state))

    def relieved(self) -> None:
        """The guest got memory back because it stalled."""
        self._write("relief", self._balloon.status.detail)

    def _write(self, event: str, detail: str | None) -> None:
        old_mib, self._target_mib = self._target_mib, self._balloon.status.target_mib
        self._file.append(event, old_mib=old_mib, new_mib=self._target_mib, detail=detail)
