"""Reads standard input without blocking the event loop."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from ballonet.base.errors import ConfigError, StreamError

_READ_BYTES = 65536


def check_stdin() -> None:
    """:raises ConfigError: standard input is not readable: it is a directory, or open for writing only."""
    if stat.S_ISDIR(os.fstat(0).st_mode):
        raise ConfigError("standard input is a directory", hint="redirect a file or a pipe to it")
    if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise ConfigError("standard input is not open for reading", hint="redirect a file or a pipe to it")


async def read_stdin() -> bytes:
    """The next bytes of standard input; empty at its end.

    Uses no thread, because a blocking read could not be interrupted, and leaves the stream's flags unchanged. If
    another program has set ``O_NONBLOCK``, a read without data is retried.

    :raises StreamError: standard input cannot be read.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            loop.add_reader(0, ready.set)
        except PermissionError:
            return read_ready()  # a regular file: always ready
        try:
            await ready.wait()
        finally:
            loop.remove_reader(0)
        try:
            return read_ready()
        except BlockingIOError:
            continue


def read_ready() -> bytes:
    """The next bytes of standard input, which is ready; empty at its end.

    :raises BlockingIOError: it is in non-blocking mode and not ready after all.
    :raises StreamError: it cannot be read.
    """
    try:
        return os.read(0, _READ_BYTES)
    except BlockingIOError:
        raise
    except ConnectionError:
        return b""
    except OSError as error:
        if error.errno == errno.EIO and os.isatty(0):
            return b""  # the terminal is gone
        raise StreamError(f"standard input: {error.strerror}") from error
