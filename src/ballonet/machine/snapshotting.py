"""Saves a running sandbox for a snapshot, into a directory that the requesting program has made and locked.

The guest is stopped while its memory is written. Its disk is copied before, as far as possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, HostError, os_hint
from ballonet.base.file_copy import new_private_file
from ballonet.base.threads import in_thread
from ballonet.control.backend import TrimRequest
from ballonet.host.proc import read_cpu_s, read_guest_ram_bytes
from ballonet.machine.guest_setup import DISK_SERIAL
from ballonet.machine.live_save import LiveSave
from ballonet.vmm.processor_wait import ProcessorWait

log = logging.getLogger(__name__)

#: A guest is at work if its engine uses, or waits for, more than this share of a processor during this time (seconds).
_WORK_SHARE, _WORK_LOOK_S = 0.25, 0.2
#: How long the guest may take to give up caches and free memory (seconds).
_TRIM_S = 10.0


class Snapshotting:
    """Makes snapshots of one sandbox, one after the other."""

    def __init__(self, live: LiveSave) -> None:
        self._live = live
        self._turn = asyncio.Lock()

    async def save(self, state_path: Path, disk_path: Path, *, trim: bool) -> dict[str, Any]:
        """Save the guest and its disk in new files; returns what the snapshot's description needs.

        :param trim: have the guest give caches and free memory to the host first, if it is idle.
        :raises BallonetError: that failed; the sandbox runs on.
        """
        try:
            async with self._turn:
                return await self._save(state_path, disk_path, trim)
        except OSError as error:
            where = error.filename or state_path.parent
            raise HostError(
                f"the snapshot of sandbox {self._live.name!r} cannot be written to {where}: {error.strerror}",
                hint=os_hint(error, state_path),
            ) from error

    async def _save(self, state_path: Path, disk_path: Path, trim: bool) -> dict[str, Any]:
        live = self._live
        key = live.check()
        resident = read_guest_ram_bytes(live.vm.pid)
        if trim:
            await self._trim()
        async with contextlib.AsyncExitStack() as stack:
            state = _created(stack, state_path)
            copy = None
            if any(disk.serial == DISK_SERIAL for disk in live.vm.spec.disks):
                copy = live.vm.copy_disk(DISK_SERIAL, _created(stack, disk_path))
                stack.push_async_callback(copy.close)
                await copy.prepare()
            stopped_s = await live.save(state, first=None if copy is None else copy.take, for_another=True)
            await in_thread(lambda: os.fsync(state))
            if copy is not None:
                await copy.finish()
        return {
            "state_key": key,
            "stopped_s": round(stopped_s, 4),
            "resident_bytes": resident,
            "command_runs": live.command is not None,
        }

    async def _trim(self) -> None:
        """Make the saved state smaller. Nothing is taken from a guest at work, and the target stays as it is. That may
        fail: the state is then larger."""
        live = self._live
        try:
            if await _works(live.vm.pid):
                log.info("saved without a trim: the guest is at work")
                return
            request = TrimRequest(compact=False, inflate=False, gentle=True, timeout_s=_TRIM_S)
            result = await live.services.trim(request)
            if result.complete and live.vm.balloon is not None:
                # The balloon takes free memory for a moment, which the host then has back.
                await live.services.trim(replace(request, caches_percent=0, inflate=True))
            elif not result.complete:
                log.info("saved after a part of a trim: %s", result.detail)
        except BallonetError as error:
            log.info("saved without a trim: %s", error)


async def _works(engine_pid: int) -> bool:
    """Whether the guest is at work. One that works on a busy host uses little, but waits for a processor."""
    waits, before = ProcessorWait(engine_pid), read_cpu_s(engine_pid)
    await asyncio.sleep(_WORK_LOOK_S)
    after = read_cpu_s(engine_pid)
    if before is None or after is None:
        return True
    return after - before + waits.since_last() > _WORK_SHARE * _WORK_LOOK_S


def _created(stack: contextlib.AsyncExitStack, path: Path) -> int:
    file = new_private_file(path)
    stack.callback(os.close, file)
    return file
