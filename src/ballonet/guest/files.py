"""Access to a guest's files from the host: read, write, list, remove, copy. Uses the agent's file programs
(``docs/agent.md``), which do not depend on the guest's image.

Paths are absolute in the guest; a relative path is relative to ``/``. Names that are not UTF-8 are represented as by
:func:`os.fsdecode`.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.arguments import check_number, check_path, to_bytes, wrong_type
from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, GuestError, GuestFileError
from ballonet.base.text import printable

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess

#: The default limit of :meth:`GuestFiles.read`, in bytes.
MAX_READ_BYTES = 256 << 20
#: Limit of error messages and lists of names.
_MAX_WORDS_BYTES = 64 << 20
_MAX_SHOWN = 1000

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
}


@dataclass(frozen=True)
class FileInfo:
    """A file of the guest: its name and path, its kind (``file``, ``directory``, ``link`` etc.), its size in bytes,
    its permission bits, and its modification time (Unix seconds, the guest's clock)."""

    name: str
    path: str
    kind: str
    size: int
    mode: int
    mtime: int


class GuestFiles:
    """The files of one guest, accessed as root, whichever user its commands run as.

    Every call raises :class:`~ballonet.errors.GuestFileError` if it fails, with the error message of the guest.

    :param connect: returns a client of its agent.
    """

    def __init__(self, connect: Callable[[], Awaitable[AgentClient]]) -> None:
        """:param connect: gives a client of the guest's agent."""
        self._connect = connect

    async def read(self, path: str, *, limit: int = MAX_READ_BYTES) -> bytes:
        """Read a file. An error if it is longer than ``limit`` bytes."""
        return await self._run("read", _absolute(path), path=path, limit=limit)

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        """Read a file piece by piece."""
        async with await self._start("read", _absolute(path)) as process:
            async for piece in process.stdout:
                yield piece
            await _finish(process, path)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644, parents: bool = False) -> None:
        """Replace a file, atomically. If ``path`` is a link, the file that it points to is replaced. A device, or a
        file of ``/proc`` or ``/sys``, is written to instead.

        :param data: bytes, or text that is written as UTF-8.
        :param parents: create the directories above it first.
        """
        content = to_bytes("data", data)
        await self._run(*_write_words(path, mode, parents), path=path, stdin=content)

    async def write_stream(
        self, path: str, pieces: AsyncIterable[bytes], *, mode: int = 0o644, parents: bool = False
    ) -> None:
        """Like :meth:`write`, with content that arrives in pieces."""
        content = bytes_of("pieces", pieces, text=True)
        await self._feed(content, path, *_write_words(path, mode, parents))

    async def list(self, path: str) -> list[FileInfo]:
        """List a directory, sorted by name. If ``path`` is a link to a directory, that directory is listed."""
        where = _absolute(path)
        out = await self._run("list", where, path=path)
        found = [_info(record, where, path) for record in out.split(b"\0")[:-1]]
        return sorted(found, key=lambda info: info.name)

    async def stat(self, path: str) -> FileInfo:
        """Describe a path. Links are not followed."""
        where = _absolute(path)
        return _info((await self._run("stat", where, path=path)).rstrip(b"\0"), where, path)

    async def exists(self, path: str) -> bool:
        """Whether the path exists. A link exists even if its target does not."""
        return (await self._collect("stat", _absolute(path)))[0] == 0

    async def is_directory(self, path: str) -> bool:
        """Whether the path is a directory, or a link to one."""
        found = await self.follow(path)
        return found is not None and found.kind == "directory"

    async def follow(self, path: str) -> FileInfo | None:
        """Describe the file that a path leads to, with links followed; ``None`` if it does not exist."""
        where = _absolute(path)
        status, out, _ = await self._collect("follow", where)
        return _info(out.rstrip(b"\0"), where, path) if status == 0 else None

    async def resolve(self, path: str) -> str:
        """The path with a link in its last part resolved. The target need not exist."""
        return os.fsdecode((await self._run("resolve", _absolute(path), path=path)).rstrip(b"\0"))

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Create a directory.

        :param parents: create the directories above it first. An existing directory is then not an error.
        """
        await self._run("mkdir", _absolute(path), *(["parents"] if parents else []), path=path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or an empty directory; with ``recursive``, also a directory and everything in it."""
        await self._run("remove", _absolute(path), *(["recursive"] if recursive else []), path=path)

    async def copy_in(
        self,
        source: Path | str,
        target: str,
        *,
        contents: bool = False,
        follow: bool = False,
        owners: bool = False,
    ) -> None:
        """Copy a file or directory of the host to ``target``, which is the name of the copy. Links stay links.

        :param contents: ``source`` is a directory, whose contents are copied into the directory ``target``.
        :param follow: if ``source`` is a link, copy the file or directory that it points to.
        :param owners: keep the numeric owner and group; otherwise the copy belongs to root.
        :raises ConfigError: something cannot be read. Everything else was copied, unless it is ``source`` itself.
        """
        from ballonet.guest.archive import pack

        check_path("source", source, none=False)
        where = _absolute(target)
        parent, name = (where, ".") if contents else posixpath.split(where)
        problems: list[str] = []
        words = ["unpack", parent, *(["owners"] if owners else [])]
        await self._feed(pack(Path(source), name or ".", follow=follow, problems=problems), target, *words)
        if problems:
            raise ConfigError("; ".join(problems)[:_MAX_SHOWN])

    async def copy_out(
        self,
        source: str,
        target: Path | str,
        *,
        contents: bool = False,
        follow: bool = False,
        owners: bool = False,
    ) -> None:
        """Copy a file or directory of the guest to ``target`` on the host, which is the name of the copy.

        The guest is not trusted: nothing outside ``target`` is written, links that point outside it and devices are
        refused, and set-user-ID bits are dropped.

        :param contents: ``target`` is an existing directory; only its contents change.
        :param follow: if ``source`` is a link, copy the file or directory that it points to.
        :param owners: keep the numeric owner and group, where that is permitted (as root).
        """
        from ballonet.guest.archive import unpack

        check_path("target", target, none=False)
        where = _absolute(source)
        if not follow:
            await self.stat(source)  # a clear error if it does not exist
        async with await self._start("pack", where, "copy", *(["follow"] if follow else [])) as process:
            found = await unpack(
                process.stdout, Path(target), "copy", source, owners=owners, keep_top=contents
            )
            await _finish(process, source)
            if not found:
                raise GuestFileError(f"{source!r}: the guest sent an empty archive")

    async def unpack_stream(self, tar: AsyncIterable[bytes], directory: str) -> None:
        """Unpack a tar stream in a directory of the guest, with the owners that it contains. It may be compressed with
        gzip, bzip2 or xz."""
        from ballonet.guest.decompression import uncompressed

        content = uncompressed(bytes_of("tar", tar))
        await self._feed(content, directory, "unpack", _absolute(directory), "owners")

    async def pack_stream(self, path: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """Pack a file or directory of the guest as a tar stream, in which it has the last part of ``path`` as its
        name. The stream comes from the guest unchecked."""
        where = _absolute(path)
        name = last_part(where) or "."
        async with await self._start("pack", where, name, *(["follow"] if follow else [])) as process:
            async for piece in process.stdout:
                yield piece
            await _finish(process, path)

    async def _feed(self, pieces: AsyncIterator[bytes], path: str, *words: str) -> None:
        async with await self._start(*words, stdin=True) as process:
            async for piece in pieces:
                if process.exit_status is not None:
                    break
                await process.write_stdin(piece)
            await process.close_stdin()
            await _finish(process, path)

    async def _start(self, *words: str, stdin: bool = False) -> GuestProcess:
        return await (await self._connect()).exec(words, stdin=stdin, builtin=True)

    async def _collect(
        self, *words: str, stdin: bytes | None = None, limit: int = _MAX_WORDS_BYTES
    ) -> tuple[int, bytes, bytes]:
        async with await self._start(*words, stdin=stdin is not None) as process:
            out, said = await process.communicate(stdin or b"", limit=limit)
            return (await process.wait()).returncode, out, said

    async def _run(
        self, *words: str, path: str, stdin: bytes | None = None, limit: int = _MAX_WORDS_BYTES
    ) -> bytes:
        try:
            status, out, said = await self._collect(*words, stdin=stdin, limit=limit)
        except GuestFileError:
            raise
        except GuestError as error:
            raise GuestFileError(f"{path!r} in the guest: {error.message}", hint=error.hint) from error
        _check(status, path, said)
        return out


def last_part(path: str) -> str:
    """The name of a copy of ``path`` that keeps its source's name; empty for the root directory, and for a path that
    ends with ``/.``."""
    name = posixpath.basename(path.rstrip("/"))
    if name == ".":
        return ""
    return posixpath.basename(posixpath.normpath("/" + path)) if name == ".." else name


async def _finish(process: GuestProcess, path: str) -> None:
    """Wait until a file program has ended, and raise its error if it failed."""
    said = await process.stderr.read_all(_MAX_WORDS_BYTES)
    _check((await process.wait()).returncode, path, said)


def bytes_of(what: str, pieces: object, *, text: bool = False) -> AsyncIterator[bytes]:
    """The pieces of an argument, each of which must be bytes or, with ``text``, text.

    :raises ConfigError: they cannot be iterated over; the iteration raises it for a piece of a wrong type.
    """
    if not isinstance(pieces, AsyncIterable):
        raise wrong_type(what, "an asynchronous iterable of bytes", pieces)
    kinds = (bytes, bytearray, memoryview, *((str,) if text else ()))

    async def checked(items: AsyncIterable[object]) -> AsyncIterator[bytes]:
        async for item in items:
            if not isinstance(item, kinds):
                raise wrong_type(f"each item of {what}", "bytes or text" if text else "bytes", item)
            yield to_bytes(f"each item of {what}", item)

    return checked(pieces)


def _write_words(path: str, mode: int, parents: bool) -> list[str]:
    check_number("mode", mode, 0, 0xFFFF)  # as in st_mode, whose file type is ignored here
    return ["write", _absolute(path), f"{mode & 0o7777:o}", *(["parents"] if parents else [])]


def _absolute(path: str) -> str:
    if not isinstance(path, str):
        raise ConfigError(f"a path in the guest must be text, not {type(path).__name__} ({path!r})")
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is not a valid path in a guest")
    # Not normalised further: "a/../b" is not "b" where a is a link.
    return "/" + path.strip("/") if path.strip("/") else "/"


def _check(status: int, path: str, words: bytes) -> None:
    if status:
        said = (
            words.decode(errors="replace").strip() or f"the agent's file program exited with status {status}"
        )
        lines = [line.strip() for line in said[:_MAX_SHOWN].splitlines()]
        raise GuestFileError(f"{path!r} in the guest: {printable('; '.join(lines))}")


def _info(record: bytes, where: str, path: str) -> FileInfo:
    """Parse a record of the guest: mode, size, time, and the name of an entry of ``where``, or none for itself."""
    try:
        raw, size, mtime, name = record.split(b" ", 3)
        mode = int(raw, 8)
        if name:
            base, full = os.fsdecode(name), posixpath.join(where, os.fsdecode(name))
        else:
            base, full = posixpath.basename(where) or "/", where
        kind = _KINDS.get(stat.S_IFMT(mode), "other")
        return FileInfo(base, full, kind, int(size), stat.S_IMODE(mode), int(mtime))
    except ValueError:
        raise GuestFileError(f"{path!r}: the guest sent an invalid record: {record[:80]!r}") from None
