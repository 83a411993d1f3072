"""Saves a running sandbox for a snapshot, into a directory that the requesting program has made and locked.

The guest is stopped while its memory is written. Its disk is copied before, as far as possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from ballonet.base.errors import HostError, os_hint
from ballonet.base.file_copy import new_private_file
from ballonet.base.threads import in_thread
from ballonet.host.proc import read_guest_ram_bytes
from ballonet.machine.guest_setup import DISK_SERIAL
from ballonet.machine.live_save import LiveSave


class Snapshotting:
    """Makes snapshots of one sandbox, one after the other."""

    def __init__(self, live: LiveSave) -> None:
        self._live = live
        self._turn = asyncio.Lock()

    async def save(self, state_path: Path, disk_path: Path) -> dict[str, Any]:
        """Save the guest and its disk in new files; returns what the snapshot's description needs.

        :raises BallonetError: that failed; the sandbox runs on.
        """
        try:
            async with self._turn:
                return await self._save(state_path, disk_path)
        except OSError as error:
            where = error.filename or state_path.parent
            raise HostError(
                f"the snapshot of sandbox {self._live.name!r} cannot be written to {where}: {error.strerror}",
                hint=os_hint(error, state_path),
            ) from error

    async def _save(self, state_path: Path, disk_path: Path) -> dict[str, Any]:
        live = self._live
        key = live.check()
        async with contextlib.AsyncExitStack() as stack:
            state = _created(stack, state_path)
            copy = None
            if any(disk.serial == DISK_SERIAL for disk in live.vm.spec.disks):
                copy = live.vm.copy_disk(DISK_SERIAL, _created(stack, disk_path))
                stack.push_async_callback(copy.close)
                await copy.prepare()
            resident = read_guest_ram_bytes(live.vm.pid)
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


def _created(stack: contextlib.AsyncExitStack, path: Path) -> int:
    file = new_private_file(path)
    stack.callback(os.close, file)
    return file
