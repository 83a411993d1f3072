"""A copy of a disk at one moment, while the guest runs before and after it.

Where the file system shares blocks, the copy is made at that moment (reflink). Elsewhere the disk is copied while the
guest runs, and QEMU records in a dirty bitmap what the guest writes meanwhile. At the moment itself, a backup job
copies these parts (docs/interop/live-block-operations.rst, docs/interop/bitmaps.rst). The guest does not run then,
because a migration would make the disks inactive under the job, and because a job that cannot write fails the guest's
writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from pathlib import Path

from ballonet.base.errors import EngineError, EngineExitedError
from ballonet.base.file_copy import copy_data, reflink
from ballonet.base.threads import in_thread
from ballonet.vmm.engine import DiskCopy
from ballonet.vmm.qemu.qmp import Qmp

#: Names in QEMU. There is one copy at a time.
_BITMAP, _JOB, _NODE = "ballonet-copy", "ballonet-copy", "ballonet-copy"
_FDSET = 7001
#: The parts in which changes are recorded (bytes).
_GRANULARITY = 64 << 10
#: How often the end of the job is looked for (seconds).
_LOOK_S = 0.002
#: Room that stays on the file system of the copy (bytes).
_SPARE_BYTES = 16 << 20
#: While more than this has changed (bytes), it is copied before the guest is stopped, at most so many times.
_MOST_CHANGED_BYTES = 16 << 20
_MOST_PASSES = 3


class QemuDiskCopy(DiskCopy):
    """See :class:`~ballonet.vmm.engine.DiskCopy`.

    :param node: QEMU's name of the disk. :param source: its file.
    :param target: the empty file for the copy, open for reading and writing.
    """

    def __init__(self, qmp: Qmp, node: str, source: Path, target: int) -> None:
        self._qmp = qmp
        self._node = node
        self._source = source
        self._target = target
        self._file = -1
        self._has_bitmap = self._has_fdset = self._has_node = self._has_job = False

    async def prepare(self) -> None:
        self._file = os.open(self._source, os.O_RDONLY | os.O_CLOEXEC)
        # What has been written reaches the disk now, and not while the guest is stopped.
        source, target = self._file, self._target
        await in_thread(lambda: os.fdatasync(source))
        if reflink(self._file, self._target):
            return  # it is made again at the moment itself
        await self._qmp.execute(
            "block-dirty-bitmap-add", node=self._node, name=_BITMAP, granularity=_GRANULARITY
        )
        self._has_bitmap = True
        await in_thread(lambda: copy_data(source, target))
        await self._qmp.add_descriptor(_FDSET, self._target)
        self._has_fdset = True
        file = {"driver": "file", "filename": f"/dev/fdset/{_FDSET}", "locking": "off"}
        await self._qmp.execute("blockdev-add", driver="raw", node_name=_NODE, discard="unmap", file=file)
        self._has_node = True
        for _ in range(_MOST_PASSES):
            if await self._changed_bytes() <= _MOST_CHANGED_BYTES:
                break
            await self._copy_changes()

    async def take(self) -> None:
        if self._has_node:
            await self._copy_changes()
            await self._release()
        else:
            reflink(self._file, self._target)

    async def finish(self) -> None:
        await in_thread(lambda: os.fsync(self._target))

    async def close(self) -> None:
        with contextlib.suppress(EngineExitedError):
            if self._has_job:
                with contextlib.suppress(EngineError):
                    await self._qmp.execute("job-cancel", id=_JOB)
                await self._job_end()
            await self._release()
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    async def _copy_changes(self) -> None:
        """Copy what the bitmap records, and clear it.

        :raises OSError: there is no room. :raises EngineError: it could not be copied.
        """
        changed = await self._changed_bytes()
        found = os.fstatvfs(self._target)
        if found.f_bavail * found.f_frsize < 2 * changed + _SPARE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await self._qmp.execute(
            "blockdev-backup",
            job_id=_JOB,
            device=self._node,
            target=_NODE,
            sync="bitmap",
            bitmap=_BITMAP,
            bitmap_mode="on-success",
            auto_dismiss=False,
        )
        self._has_job = True
        if (problem := await self._job_end()) is not None:
            raise EngineError(f"the changes of the disk could not be copied: {problem}")

    async def _changed_bytes(self) -> int:
        nodes = await self._qmp.execute("query-named-block-nodes", flat=True)
        bitmaps = next(node.get("dirty-bitmaps", []) for node in nodes if node["node-name"] == self._node)
        return sum(int(bitmap["count"]) for bitmap in bitmaps if bitmap.get("name") == _BITMAP)

    async def _job_end(self) -> str | None:
        """Wait for the end of the job; returns why it failed."""
        while True:
            jobs = await self._qmp.execute("query-jobs")
            job = next((job for job in jobs if job["id"] == _JOB), None)
            if job is None or job["status"] == "concluded":
                break
            await asyncio.sleep(_LOOK_S)
        self._has_job = False
        if job is None:
            return "QEMU does not know the job any more"
        await self._qmp.execute("job-dismiss", id=_JOB)
        return None if job.get("error") is None else str(job["error"])

    async def _release(self) -> None:
        """Remove from QEMU what this copy has added."""
        if self._has_node:
            self._has_node = False
            await self._qmp.execute("blockdev-del", node_name=_NODE)
        if self._has_fdset:
            self._has_fdset = False
            await self._qmp.execute("remove-fd", fdset_id=_FDSET)
        if self._has_bitmap:
            self._has_bitmap = False
            await self._qmp.execute("block-dirty-bitmap-remove", node=self._node, name=_BITMAP)
