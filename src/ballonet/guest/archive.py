"""Trees of files as tar streams: packed on the host, and unpacked there when the maker is not to be trusted.

tarfile is synchronous and runs in a thread; a pipe joins it to the stream, so that memory stays bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import secrets
import stat
import tarfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, GuestFileError, HostError, os_hint

_PIECE_BYTES = 64 << 10
_ZEROS = bytes(_PIECE_BYTES)
#: What is no choice of a place: nothing that could have been known before.
_HOSTS_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def pack(
    source: Path, name: str, *, follow: bool = False, problems: list[str] | None = None
) -> AsyncIterator[bytes]:
    """``source``, a file or directory, as a tar stream in which it is called ``name``. Links stay links.

    :param follow: a ``source`` that is a link is meant as what it leads to.
    :param problems: gets a line for each file in a directory that could not be read; ``None``: it is an error.
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
    """Unpack a stream whose members all lie at or below ``root``; that one becomes ``target``.

    :param what: names the source in errors.
    :param owners: keep the numbers of owner and group where we may (as root); set-user-id bits are dropped anyway.
    :param keep_top: ``root`` must be a directory, and ``target`` is one whose own mode and time stay.
    :returns: whether there was anything in it.
    :raises GuestFileError: a member, or a link, leads out of ``target``, or is a device; what came before it stays.
    :raises ConfigError: ``target`` cannot be written there.
    :raises HostError: there is no room for it.
    """
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
                tree = _Unpacking(tar, Path.cwd() / target, root, what, owners, keep_top)
                while (member := tar.next()) is not None:
                    tree.take(member)
                    found = True
                    # What tarfile remembers would grow with the tree.
                    tar.members.clear()  # type: ignore[attr-defined]
                tree.leave(None)
        except (tarfile.TarError, ValueError) as error:
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
            raise write_error(error, error.filename or target) from error
    return found


def write_error(error: OSError, place: object) -> BallonetError:
    """What to tell of a file here that cannot be written: it was badly chosen, or the host has no room for it."""
    kind = HostError if error.errno in _HOSTS_FAILURES else ConfigError
    return kind(f"{place} cannot be written: {error.strerror}", hint=os_hint(error, place))


class _Unpacking:
    """Puts members in their places, through directories that are opened one by one and never through a link."""

    def __init__(
        self, tar: tarfile.TarFile, target: Path, root: str, what: str, owners: bool, keep_top: bool
    ) -> None:
        self._tar = tar
        self._target = target
        self._root = root
        self._what = what
        self._owners = owners and os.geteuid() == 0
        self._keep_top = keep_top
        #: The directories that the stream is in, and their times, which are set when it has left them.
        self._within: list[tuple[tuple[str, ...], float]] = []

    def take(self, member: tarfile.TarInfo) -> None:
        inside = _below(member.name, self._root, self._what)
        if not inside and self._keep_top:
            if not member.isdir():
                raise GuestFileError(f"{self._what!r} in the guest is not a directory")
            return
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            raise GuestFileError(
                f"{self._what!r}: {_shown(member, inside, self._what)} is a device or a pipe; those are not copied"
            )
        self.leave(inside)
        try:
            with _opened(self._target.parent, self._places(inside)[:-1]) as directory:
                self._put(member, inside, directory)
        except OSError as error:
            # Names relative to a directory say nothing to a person.
            where = str(self._target.joinpath(*inside))
            raise OSError(error.errno, error.strerror or str(error), where) from error

    def leave(self, inside: tuple[str, ...] | None) -> None:
        """Set the times of the directories that are left when the stream comes to ``inside``."""
        while self._within and (inside is None or inside[: len(self._within[-1][0])] != self._within[-1][0]):
            directory, changed = self._within.pop()
            with _opened(self._target.parent, self._places(directory)) as fd, contextlib.suppress(OSError):
                os.utime(fd, (changed, changed))

    def _places(self, inside: tuple[str, ...]) -> tuple[str, ...]:
        return (self._target.name, *inside) if self._target.name else inside

    def _put(self, member: tarfile.TarInfo, inside: tuple[str, ...], directory: int) -> None:
        name = self._places(inside)[-1]
        if member.isdir():
            self._put_directory(member, inside, name, directory)
            return
        # Beside what is there, which stays as it is until the new one is whole. A file has no name until then where the
        # file system has such files: nothing is left of it when we are killed.
        beside = f".ballonet-{secrets.token_hex(8)}"
        try:
            self._make(member, inside, beside, directory)
            # Between two names of one file rename(2) does nothing, and leaves both.
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=directory)

    def _make(self, member: tarfile.TarInfo, inside: tuple[str, ...], name: str, directory: int) -> None:
        if member.issym():
            _check_link(member.linkname, inside, self._what)
            os.symlink(member.linkname, name, dir_fd=directory)
            if self._owners:
                os.chown(name, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        elif member.islnk():
            *above, other_name = self._places(_below(member.linkname, self._root, self._what))
            with _opened(self._target.parent, above) as other:
                os.link(other_name, name, src_dir_fd=other, dst_dir_fd=directory, follow_symlinks=False)
        else:
            self._put_file(member, name, directory)

    def _put_directory(
        self, member: tarfile.TarInfo, inside: tuple[str, ...], name: str, directory: int
    ) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        try:
            if self._owners:
                os.fchown(fd, member.uid, member.gid)
            # Whoever copies a tree must be able to remove it again.
            os.fchmod(fd, (member.mode & 0o777) | stat.S_IRWXU)
        finally:
            os.close(fd)
        self._within.append((inside, member.mtime))

    def _put_file(self, member: tarfile.TarInfo, name: str, directory: int) -> None:
        try:
            fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
            named = False
        except OSError:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=directory)
            named = True
        with os.fdopen(fd, "wb") as file:
            content = self._tar.extractfile(member)
            while content is not None and (piece := content.read(_PIECE_BYTES)):
                if piece == _ZEROS[: len(piece)]:
                    file.seek(
                        len(piece), os.SEEK_CUR
                    )  # a hole: a sparse file of the guest must not fill the disk
                else:
                    file.write(piece)
            file.flush()
            file.truncate(member.size)
            if self._owners:
                os.fchown(fd, member.uid, member.gid)
            os.fchmod(fd, member.mode & 0o777)
            # One that the file system cannot hold is no reason to fail.
            with contextlib.suppress(OSError, OverflowError):
                os.utime(fd, (member.mtime, member.mtime))
            if not named:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory)  # follows that link


def _shown(member: tarfile.TarInfo, inside: tuple[str, ...], what: str) -> str:
    return repr(posixpath.join(what, *inside)) if inside else repr(what)


def _below(name: str, root: str, what: str) -> tuple[str, ...]:
    """The parts of ``name`` below ``root``."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    wanted = [part for part in root.split("/") if part not in ("", ".")]
    if ".." in parts or parts[: len(wanted)] != wanted or name.startswith("/"):
        raise GuestFileError(f"{what!r}: the guest's archive has {name!r}, outside of what was asked for")
    return tuple(parts[len(wanted) :])


def _check_link(link: str, inside: tuple[str, ...], what: str) -> None:
    """A link may go up from its own directory, which is a real one, as far as the top; and from there only down: what
    ``a/..`` is depends on ``a``, which may be a link itself."""
    parts = [part for part in link.split("/") if part not in ("", ".")]
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if link.startswith("/") or (up > 0 and up > len(inside) - 1) or ".." in parts[up:]:
        name = "/".join(inside) or "it"
        raise GuestFileError(
            f"{what!r}: {name} is a link to {link!r}, which leads out of what is copied",
            hint="copy what it points to (ballonet cp --follow-link), or make a tar stream: ballonet cp NAME:PATH -",
        )


@contextlib.contextmanager
def _opened(top: Path, parts: Sequence[str]) -> Iterator[int]:
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


async def uncompressed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A stream that may be compressed with gzip, bzip2 or xz, as it was before.

    :raises ConfigError: it is damaged, or compressed in another way.
    """
    head = b""
    async for piece in stream:
        head += piece
        if len(head) >= _MAGIC_BYTES:
            break
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        raise ConfigError(
            "the archive is compressed with zstd, which is not supported",
            hint="unpack it on its way: zstd -dc | ballonet cp - NAME:PATH",
        )
    make = next((make for magic, make in _decompressors().items() if head.startswith(magic)), None)
    if make is None:
        if head:
            yield head
        async for piece in stream:
            yield piece
        return
    expander = _Expander(make)
    for out in expander.feed(head):
        yield out
    async for piece in stream:
        for out in expander.feed(piece):
            yield out
    expander.end()


_MAGIC_BYTES = 6


def _decompressors() -> dict[bytes, Callable[[], Any]]:
    import bz2
    import lzma
    import zlib

    return {
        b"\x1f\x8b": lambda: zlib.decompressobj(31),
        b"BZh": bz2.BZ2Decompressor,
        b"\xfd7zXZ\0": lzma.LZMADecompressor,
    }


class _Expander:
    """One compressed stream after the other, in pieces of bounded size: a small one may expand to very much."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._one = make()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._feed(data)
        except (OSError, EOFError, ValueError) as error:
            raise ConfigError(f"the archive's compression is damaged: {error}") from error
        except Exception as error:  # zlib.error and lzma.LZMAError have no common ancestor but this
            if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
                raise
            raise ConfigError(f"the archive's compression is damaged: {error}") from error

    def _feed(self, data: bytes) -> Iterator[bytes]:
        while data or not getattr(self._one, "needs_input", True):
            if self._one.eof:
                self._one, self._begun = self._make(), False
            if not self._begun and not data.strip(b"\0"):
                return  # padding after the last stream
            self._begun = True
            out = self._one.decompress(data, _PIECE_BYTES)
            if out:
                yield out
            # zlib gives back what it did not take; the others keep it.
            data = self._one.unused_data if self._one.eof else getattr(self._one, "unconsumed_tail", b"")
            if self._one.eof and not data:
                return

    def end(self) -> None:
        if self._begun and not self._one.eof:
            raise ConfigError("the archive's compression ends early")


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
