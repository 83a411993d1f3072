"""Writes bytes to standard output or standard error without blocking.

While a slow reader is waited for, signals are still handled. The stream's flags stay unchanged: other programs share
its file description, and a shell would find its terminal in non-blocking mode.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from ballonet.cli.standard_streams import stream_error

if TYPE_CHECKING:
    import asyncio

_writers: dict[int, ByteWriter] = {}


async def write_stdout(data: bytes, fd: int = 1) -> None:
    """Write all of ``data``.

    :param fd: 1, or 2 for standard error.
    :raises BrokenPipeError: the stream's reader is gone.
    :raises StreamError: the stream cannot be written, for example because the disk is full.
    """
    writer = _writers.get(fd)
    if writer is None:
        writer = _writers[fd] = ByteWriter(fd)
    await writer.write(data)


class ByteWriter:
    """Writes to one file descriptor."""

    def __init__(self, fd: int) -> None:
        self._name_fd = fd
        self._fd = fd
        self._lock: asyncio.Lock | None = None
        # Writes as much as possible; raises BlockingIOError if nothing can be written now.
        self._write: Callable[[memoryview], int] = self._choose()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._fd

    def write_some(self, view: memoryview) -> int:
        """Write as much as possible, and return how much.

        :raises BlockingIOError: nothing can be written now.
        :raises BrokenPipeError: the stream's reader is gone.
        :raises StreamError: the stream cannot be written, for example because the disk is full.
        """
        try:
            return self._write(view)
        except BlockingIOError:
            raise
        except ConnectionError as error:
            raise BrokenPipeError(*error.args) from error
        except OSError as error:
            raise stream_error(self._name_fd, error) from error

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, while the event loop goes on: see :func:`write_stdout`."""
        import asyncio

        if self._lock is None:
            self._lock = asyncio.Lock()
        view = memoryview(data)
        async with self._lock:
            while view:
                try:
                    view = view[self.write_some(view) :]
                except BlockingIOError:
                    await self._writable()

    def _choose(self) -> Callable[[memoryview], int]:
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):
            return self._send
        if not (stat.S_ISFIFO(mode) or os.isatty(self._fd)) or not os.get_blocking(self._fd):
            return self._write_plainly
        try:
            # A new file description of the same pipe or terminal, so that only this one is non-blocking.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._fd = os.open(f"/proc/self/fd/{self._fd}", flags)
        except OSError:  # it belongs to another user, or the reader is gone
            return self._write_little
        return self._write_plainly

    def _write_plainly(self, view: memoryview) -> int:
        return os.write(self._fd, view)

    def _send(self, view: memoryview) -> int:
        with socket.socket(fileno=os.dup(self._fd)) as line:
            return line.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _write_little(self, view: memoryview) -> int:
        """Write at most what a pipe accepts without blocking once it is ready (pipe(7))."""
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        if not ready.poll(0):
            raise BlockingIOError
        return os.write(self._fd, view[: select.PIPE_BUF])

    async def _writable(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)
