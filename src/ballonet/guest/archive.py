"""Trees of files as tar streams: packed on the host, and unpacked there when the maker is not to be trusted.

tarfile is synchronous and runs in a thread; a pipe joins it to the stream, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import stat
import tarfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path

from ballonet.errors import ConfigError, GuestFileError, os_hint

_PIECE_BYTES = 64 << 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def pack(source: Path, name: str) -> AsyncIterator[bytes]:
    """``source``, a file or directory, as a tar stream in which it is called ``name``. Links stay links.

    :raises ConfigError: it does not exist, or cannot be read.
    """
    try:
        source.lstat()
    except OSError as error:
        raise ConfigError(
            f"{source} cannot be read: {error.strerror}", hint=os_hint(error, source)
        ) from error
    reading, writing = os.pipe()

    def work() -> None:
        with (
            os.fdopen(writing, "wb") as pipe,
            tarfile.open(fileobj=pipe, mode="w|", format=tarfile.GNU_FORMAT) as tar,
        ):
            tar.add(source, name, filter=_without_sockets)

    packing = asyncio.create_task(asyncio.to_thread(work))
    try:
        async for piece in _pieces(reading):
            yield piece
    finally:
        os.close(reading)  # one who still packs gets EPIPE
        try:
            await packing
        except BrokenPipeError:
            pass
        except OSError as error:
            raise ConfigError(
                f"{error.filename or source} cannot be read: {error.strerror}",
                hint=os_hint(error, error.filename or source),
            ) from error


async def unpack(stream: AsyncIterable[bytes], target: Path, root: str, what: str) -> None:
    """Unpack a stream whose members all lie at or below ``root``; that one becomes ``target``.

    :param what: names the source in errors.
    :raises GuestFileError: a member, or a link, leads out of ``target``, or is a device; what came before it stays.
    :raises ConfigError: ``target`` cannot be written.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def work() -> None:
        try:
            with (
                os.fdopen(reading, "rb") as pipe,
                tarfile.open(fileobj=pipe, mode="r|", errors="surrogateescape") as tar,
            ):
                found = False
                for member in tar:
                    _extract(tar, member, target, root, what)
                    found = True
                if not found:
                    raise tarfile.ReadError("empty")
        except tarfile.TarError as error:
            raise GuestFileError(f"{what!r}: the guest sent no usable archive ({error})") from error

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
            raise ConfigError(
                f"{error.filename or target} cannot be written: {error.strerror}",
                hint=os_hint(error, error.filename or target),
            ) from error
        except tarfile.TarError as error:
            raise GuestFileError(f"{what!r}: the guest sent no usable archive ({error})") from error


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, root: str, what: str) -> None:
    """Put one member in its place, through directories that are opened one by one and never through a link."""
    inside = _below(member.name, root, what)
    *above, name = (target.name, *inside)
    with _opened(target.parent, above) as directory:
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            fd = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                os.fchmod(fd, (member.mode & 0o777) | stat.S_IRWXU)
            finally:
                os.close(fd)
            return
        if not (member.isreg() or member.issym() or member.islnk()):
            raise GuestFileError(f"{what!r}: {member.name!r} is a device or a pipe; those are not copied")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        if member.issym():
            _check_link(member.linkname, inside, what)
            os.symlink(member.linkname, name, dir_fd=directory)
            return
        if member.islnk():
            *link_above, link_name = (target.name, *_below(member.linkname, root, what))
            with _opened(target.parent, link_above) as other:
                os.link(link_name, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        with os.fdopen(fd, "wb") as file:
            content = tar.extractfile(member)
            while content is not None and (piece := content.read(_PIECE_BYTES)):
                file.write(piece)
            file.flush()
            os.fchmod(fd, member.mode & 0o777)
            os.utime(fd, (member.mtime, member.mtime))


def _below(name: str, root: str, what: str) -> tuple[str, ...]:
    """The parts of ``name`` below ``root``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    wanted = [part for part in root.split("/") if part not in ("", ".")]
    if ".." in parts or parts[: len(wanted)] != wanted or name.startswith("/"):
        raise GuestFileError(f"{what!r}: the guest's archive has {name!r}, outside of what was asked for")
    return tuple(parts[len(wanted) :])


def _check_link(link: str, inside: tuple[str, ...], what: str) -> None:
    reached = (
        posixpath.normpath(posixpath.join(*inside[:-1], link)) if inside[:-1] else posixpath.normpath(link)
    )
    if link.startswith("/") or reached == ".." or reached.startswith("../"):
        name = "/".join(inside) or "it"
        raise GuestFileError(
            f"{what!r}: {name} is a link to {link!r}, which leads out of what is copied",
            hint="copy what it points to, or make a tar stream: ballonet cp NAME:PATH -",
        )


@contextlib.contextmanager
def _opened(top: Path, parts: list[str]) -> Iterator[int]:
    """The directory ``parts`` below ``top``, made if need be; none of the parts may be a link."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def _without_sockets(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isreg() or member.isdir() or member.issym() or member.islnk() else None


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
    """Write to the pipe; false once nobody reads it any more."""
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
