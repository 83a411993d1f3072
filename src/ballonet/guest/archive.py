"""Trees of files on the host as tar streams: packing them, and unpacking streams from a guest that is not trusted.

tarfile is synchronous and runs in a thread. A pipe connects it to the stream, so that memory is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tarfile
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from ballonet.base.errors import BallonetError, ConfigError, GuestFileError, HostError, os_hint

_PIECE_BYTES = 64 << 10
#: Errors of the host that no choice of a target avoids.
_HOSTS_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE)


async def pack(
    source: Path, name: str, *, follow: bool = False, problems: list[str] | None = None
) -> AsyncIterator[bytes]:
    """Pack ``source``, a file or directory, as a tar stream in which it is called ``name``. Links stay links.

    :param follow: if ``source`` is a link, pack the file or directory that it points to.
    :param problems: gets a line for each file in a directory that could not be read; ``None``: that is an error.
    :raises ConfigError: it does not exist, or cannot be read.
    """
    from ballonet.guest.packing import write_tree

    try:
        top = source.stat() if follow else source.lstat()
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be read: {error.strerror}", hint=os_hint(error, source)
        ) from error
    if stat.S_ISSOCK(top.st_mode):
        raise ConfigError(f"{source} is a socket, which cannot be copied")
    reading, writing = os.pipe()
    met: list[str] = []

    def work() -> None:
        with os.fdopen(writing, "wb", buffering=_PIECE_BYTES) as pipe:
            write_tree(pipe, source, name, follow=follow, problems=met)

    packing = asyncio.create_task(asyncio.to_thread(work))
    try:
        async for piece in _pieces(reading):
            yield piece
    finally:
        os.close(reading)  # packing that goes on fails with EPIPE
        try:
            await packing
        except BrokenPipeError:
            pass
        except OSError as error:
            raise ConfigError(
                f"{error.filename or source} cannot be read: {error.strerror}",
                hint=os_hint(error, error.filename or source),
            ) from error
    if met and problems is None:
        raise ConfigError("; ".join(met))
    if problems is not None:
        problems += met


async def unpack(
    stream: AsyncIterable[bytes],
    target: Path,
    root: str,
    what: str,
    *,
    owners: bool = False,
    keep_top: bool = False,
) -> bool:
    """Unpack a stream whose members are all at or below ``root``, which becomes ``target``.

    :param what: the source, for error messages.
    :param owners: keep numeric owners and groups where permitted (as root). Set-user-ID bits are always dropped.
    :param keep_top: ``root`` must be a directory; ``target`` is a directory, whose mode and time are not changed.
    :returns: whether the stream contained anything.
    :raises GuestFileError: a member or a link points outside ``target``, or a member is a device. What was unpacked
        before it stays.
    :raises ConfigError: ``target`` cannot be written.
    :raises HostError: the host has no space left, or fails otherwise.
    """
    from ballonet.guest.unpacking import Unpacking

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    found = False

    def work() -> None:
        nonlocal found
        try:
            with (
                os.fdopen(reading, "rb") as pipe,
                tarfile.open(fileobj=pipe, mode="r|", errors="surrogateescape") as tar,
            ):
                tree = Unpacking(tar, Path.cwd() / target, root, what, owners, keep_top)
                while (member := tar.next()) is not None:
                    tree.take(member)
                    found = True
                    # Otherwise tarfile's list of members grows with the tree.
                    tar.members.clear()  # type: ignore[attr-defined]
                tree.leave(None)
        except (tarfile.TarError, ValueError) as error:
            raise GuestFileError(f"{what!r}: the guest sent an invalid archive ({error})") from error

    unpacking = asyncio.create_task(asyncio.to_thread(work))
    try:
        async for piece in stream:
            if not await _write_all(writing, piece, unpacking):
                break
    finally:
        os.close(writing)
        try:
            await unpacking
        except OSError as error:
            raise write_error(error, error.filename or target) from error
    return found


def write_error(error: OSError, place: object) -> BallonetError:
    """The error for a file on the host that cannot be written: its place was badly chosen, or the host has failed."""
    kind = HostError if error.errno in _HOSTS_FAILURES else ConfigError
    return kind(f"{place} cannot be written: {error.strerror}", hint=os_hint(error, place))


async def _pieces(fd: int) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    while True:
        ready.clear()
        loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(fd)
        piece = os.read(fd, _PIECE_BYTES)
        if not piece:
            return
        yield piece


async def _write_all(fd: int, data: bytes, other: asyncio.Task[None]) -> bool:
    """Write to the pipe. False: it is no longer read."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_writer(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_writer(fd)
        except BrokenPipeError:
            return False
        if other.done():
            return False
    return True
