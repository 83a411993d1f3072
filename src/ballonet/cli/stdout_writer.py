"""Bytes to our standard output, all of them, whether or not it blocks."""

from __future__ import annotations

import asyncio
import os
import select

_STDOUT = 1


async def write_stdout(data: bytes) -> None:
    """Write all of ``data``. A pipe or terminal that another program has made non-blocking is waited for.

    :raises OSError: it cannot be written.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[await asyncio.to_thread(os.write, _STDOUT, view) :]
        except BlockingIOError:
            await asyncio.to_thread(_wait_writable)


def _wait_writable() -> None:
    poll = select.poll()
    poll.register(_STDOUT, select.POLLOUT)
    poll.poll()
