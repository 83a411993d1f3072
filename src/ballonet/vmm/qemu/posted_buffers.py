"""Takes from a stopped guest the buffers that it has posted to the device of its agent's channel, which nobody reads
before the device has written to them.

Linux fills each receive queue of virtio-serial with buffers of one page. On a microvm a queue has 1,024 places,
so that a guest with one channel holds 8 MiB for it. They are found in the queues' rings (virtio 1.2 §2.7, split
virtqueues).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

from ballonet.base.errors import EngineError, EngineExitedError
from ballonet.vmm.qemu.qmp import Qmp
from ballonet.vmm.saved_state import PAGE

#: Queues of the device with one port beside the console's: for each, one to receive and one to send; the second pair is
#: for control messages.
_RECEIVING = (2, 4)
#: Below it, a guest's addresses are places in its RAM with every machine type.
_LOW_BYTES = 2 << 30
_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_AVAILABLE = struct.Struct("<HH")  # flags, index; the ring follows
_WRITE = 2
_LARGEST_QUEUE = 32768


async def drop_posted_buffers(qmp: Qmp, ram: int) -> int:
    """Discard the memory of these buffers; returns its size in bytes.

    The VM is stopped, and nothing is sent to the guest meanwhile: the device would write to a buffer that is being
    discarded.

    :param ram: the file with the guest's RAM.
    :raises EngineExitedError: the engine has ended.
    """
    pages: set[int] = set()
    try:
        devices = await qmp.execute("x-query-virtio")
        path = next(device["path"] for device in devices if device["name"] == "virtio-serial")
        for queue in _RECEIVING:
            status = await qmp.execute("x-query-virtio-queue-status", path=path, queue=queue)
            pages |= posted_pages(ram, status)
    except EngineExitedError:
        raise
    except (EngineError, StopIteration, LookupError, TypeError, OSError):
        pass  # the commands are marked experimental: a QEMU may lack them, or answer in another way
    with mmap.mmap(ram, os.fstat(ram).st_size) as mapped:
        for start, end in _runs(pages):
            with contextlib.suppress(OSError):
                mapped.madvise(mmap.MADV_REMOVE, start, end - start)
    return len(pages) * PAGE


def posted_pages(ram: int, status: dict[str, Any]) -> set[int]:
    """The places of whole pages in a queue's buffers that the device has not begun to use.

    :param status: QEMU's of the queue (``VirtQueueStatus`` in its QMP reference).
    :raises LookupError, TypeError: it is not such a status.
    :raises OSError: the RAM cannot be read.
    """
    size, ring, first = status["vring-num"], status["vring-avail"], status["last-avail-idx"]
    limit = min(_LOW_BYTES, os.fstat(ram).st_size)
    if not 0 < size <= _LARGEST_QUEUE or size & (size - 1):
        return set()
    content = _read(ram, ring, _AVAILABLE.size + 2 * size, limit)
    table = _read(ram, status["vring-desc"], _DESCRIPTOR.size * size, limit)
    if content is None or table is None:
        return set()
    _, end = _AVAILABLE.unpack_from(content)
    heads = struct.unpack_from(f"<{size}H", content, _AVAILABLE.size)
    posted = (end - first) & 0xFFFF
    if posted > size:  # what the guest says cannot be
        return set()
    found = set()
    for number in range(first, first + posted):
        head = heads[number % size]
        if head < size:
            address, length, flags, _ = _DESCRIPTOR.unpack_from(table, _DESCRIPTOR.size * head)
            if flags == _WRITE and length == PAGE and address % PAGE == 0 and address + PAGE <= limit:
                found.add(address)
    return found


def _read(ram: int, at: int, length: int, limit: int) -> bytes | None:
    return os.pread(ram, length, at) if 0 <= at <= limit - length else None


def _runs(pages: set[int]) -> Iterator[tuple[int, int]]:
    """Adjacent pages together: start and end."""
    start = end = -1
    for page in sorted(pages):
        if page != end:
            if start >= 0:
                yield start, end
            start = page
        end = page + PAGE
    if start >= 0:
        yield start, end
