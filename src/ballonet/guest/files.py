"""A guest's files, from outside: read, write, list, remove, copy. By the guest's own small programs (cat, stat, find,
tar, mv), so that it works in every root; paths travel as arguments and are never part of a script.

Paths are absolute in the guest; a relative one counts from ``/``. Names that are not UTF-8 are carried as
:func:`os.fsdecode` does.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.errors import ConfigError, GuestError, GuestFileError

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess

#: The most that :meth:`GuestFiles.read` takes unless told otherwise (bytes).
MAX_READ_BYTES = 256 << 20
#: Error texts and lists of names.
_MAX_WORDS_BYTES = 64 << 20

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
}
# $1 directory, $2 path, $3 mode, $4 "parents" or empty
_WRITE = """set -e
[ -z "$4" ] || mkdir -p "$1"
t=$(mktemp "$1/.ballonet.XXXXXX")
trap 'rm -f "$t"' EXIT
cat >"$t"
chmod "$3" "$t"
if [ -d "$2" ]; then echo "is a directory" >&2; exit 1; fi
mv -f "$t" "$2"
trap - EXIT
"""
_STAT_FORMAT = "%f %s %Y"


@dataclass(frozen=True)
class FileInfo:
    """A file of the guest: its name and path, ``file``, ``directory``, ``link`` and the like, its size in bytes, its
    permission bits, and when it was last changed (unix seconds, the guest's clock)."""

    name: str
    path: str
    kind: str
    size: int
    mode: int
    mtime: int


class GuestFiles:
    """The files of one guest. :param connect: gives a client of its agent.

    Every call raises :class:`~ballonet.errors.GuestFileError` with the guest's own words when it cannot be done.
    """

    def __init__(self, connect: Callable[[], Awaitable[AgentClient]]) -> None:
        self._connect = connect

    async def read(self, path: str, *, limit: int = MAX_READ_BYTES) -> bytes:
        """A file's content; an error if it is longer than ``limit`` bytes."""
        return await self._run(["cat", _absolute(path)], path, limit=limit)

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        """A file's content, piece by piece."""
        async with await self._start(["cat", _absolute(path)]) as process:
            async for piece in process.stdout:
                yield piece
            words = await process.stderr.read_all(_MAX_WORDS_BYTES)
            _check((await process.wait()).returncode, path, words)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644, parents: bool = False) -> None:
        """Replace a file's content: whole, or not at all.

        :param data: bytes, or text that is written as UTF-8.
        :param parents: make the directories above it first.
        """
        if not isinstance(data, str | bytes):
            raise ConfigError(f"what is written must be bytes or text, not {type(data).__name__}")
        where = _absolute(path)
        words = [posixpath.dirname(where), where, f"{mode & 0o7777:o}", "parents" if parents else ""]
        content = data.encode() if isinstance(data, str) else data
        await self._run(["/bin/sh", "-c", _WRITE, "sh", *words], path, stdin=content)

    async def list(self, path: str) -> list[FileInfo]:
        """What is in a directory, by name."""
        where = _absolute(path)
        # A path that is a link to a directory is meant as that directory.
        argv = ["find", posixpath.join(where, "."), "-mindepth", "1", "-maxdepth", "1"]
        argv += ["-exec", "stat", "-c", _STAT_FORMAT, "{}", ";", "-print0"]
        out = await self._run(argv, path, limit=_MAX_WORDS_BYTES)
        found = []
        for entry in out.split(b"\0")[:-1]:
            facts, _, name = entry.partition(b"\n")
            base = posixpath.basename(_decode(name))
            found.append(_info(facts, posixpath.join(where, base), path))
        return sorted(found, key=lambda info: info.name)

    async def stat(self, path: str) -> FileInfo:
        """What a path is; a link is told as a link."""
        where = _absolute(path)
        return _info(await self._run(["stat", "-c", _STAT_FORMAT, where], path), where, path)

    async def exists(self, path: str) -> bool:
        """Whether there is something at that path (a link counts even if it leads nowhere)."""
        done = await self._collect(["stat", "-c", _STAT_FORMAT, _absolute(path)])
        return done[0] == 0

    async def is_directory(self, path: str) -> bool:
        """Whether there is a directory, or a link to one."""
        return (await self._collect(["test", "-d", _absolute(path)]))[0] == 0

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        await self._run(["mkdir", *(["-p"] if parents else []), _absolute(path)], path)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file or an empty directory; with ``recursive``, whatever it is and all in it."""
        where = _absolute(path)
        if recursive:
            await self.stat(path)
            await self._run(["rm", "-rf", where], path)
        elif (await self.stat(path)).kind == "directory":
            await self._run(["rmdir", where], path)
        else:
            await self._run(["rm", "-f", where], path)

    async def copy_in(self, source: Path | str, target: str) -> None:
        """Copy a file or directory of the host to ``target``, which becomes its name. Links stay links."""
        from ballonet.guest.archive import pack

        where = _absolute(target)
        parent, name = posixpath.split(where)
        process = await self._start(["tar", "-x", "-f", "-", "-C", parent], stdin=True)
        async with process:
            await self._feed(process, pack(Path(source), name), target)

    async def copy_out(self, source: str, target: Path | str) -> None:
        """Copy a file or directory of the guest to ``target`` on the host, which becomes its name.

        The guest is not trusted: nothing outside ``target`` is written, links that lead out of it are refused, devices
        are refused, and setuid bits are dropped.
        """
        from ballonet.guest.archive import unpack

        await self.stat(source)  # a source that is not there is told in plain words
        parent, name = posixpath.split(_absolute(source))
        argv = ["tar", "-c", "-f", "-", "-C", parent, f"./{name}"]
        async with await self._start(argv) as process:
            await unpack(process.stdout, Path(target), f"./{name}", source)
            words = await process.stderr.read_all(_MAX_WORDS_BYTES)
            _check((await process.wait()).returncode, source, words)

    async def unpack_stream(self, tar: AsyncIterator[bytes], directory: str) -> None:
        """Unpack a tar stream in a directory of the guest."""
        process = await self._start(["tar", "-x", "-f", "-", "-C", _absolute(directory)], stdin=True)
        async with process:
            await self._feed(process, tar, directory)

    async def pack_stream(self, path: str) -> AsyncIterator[bytes]:
        """A file or directory of the guest as a tar stream, as the guest makes it."""
        parent, name = posixpath.split(_absolute(path))
        async with await self._start(["tar", "-c", "-f", "-", "-C", parent, f"./{name}"]) as process:
            async for piece in process.stdout:
                yield piece
            words = await process.stderr.read_all(_MAX_WORDS_BYTES)
            _check((await process.wait()).returncode, path, words)

    async def _feed(self, process: GuestProcess, pieces: AsyncIterator[bytes], path: str) -> None:
        async for piece in pieces:
            await process.write_stdin(piece)
        _, words = await process.communicate(limit=_MAX_WORDS_BYTES)
        _check((await process.wait()).returncode, path, words)

    async def _start(self, argv: Sequence[str], *, stdin: bool = False) -> GuestProcess:
        return await (await self._connect()).exec(argv, stdin=stdin)

    async def _collect(
        self, argv: Sequence[str], *, stdin: bytes | None = None, limit: int = _MAX_WORDS_BYTES
    ) -> tuple[int, bytes, bytes]:
        async with await self._start(argv, stdin=stdin is not None) as process:
            out, words = await process.communicate(stdin or b"", limit=limit)
            return (await process.wait()).returncode, out, words

    async def _run(
        self, argv: Sequence[str], path: str, *, stdin: bytes | None = None, limit: int = _MAX_WORDS_BYTES
    ) -> bytes:
        try:
            status, out, words = await self._collect(argv, stdin=stdin, limit=limit)
        except GuestFileError:
            raise
        except GuestError as error:
            raise GuestFileError(f"{path!r} in the guest: {error.message}", hint=error.hint) from error
        _check(status, path, words)
        return out


def _absolute(path: str) -> str:
    if not isinstance(path, str):
        raise ConfigError(f"a path in the guest must be text, not {type(path).__name__} ({path!r})")
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is no path in a guest")
    # Not normalised beyond this: "a/../b" is not "b" where a is a link. A path never begins with "-".
    return "/" + path.strip("/") if path.strip("/") else "/"


def _check(status: int, path: str, words: bytes) -> None:
    if status:
        said = words.decode(errors="replace").strip()[-500:] or f"status {status}"
        raise GuestFileError(f"{path!r} in the guest: {said}")


def _info(facts: bytes, where: str, path: str) -> FileInfo:
    try:
        raw, size, mtime = facts.split()
        mode = int(raw, 16)
        name = posixpath.basename(where) or "/"
        kind = _KINDS.get(stat.S_IFMT(mode), "other")
        return FileInfo(name, where, kind, int(size), stat.S_IMODE(mode), int(mtime))
    except ValueError:
        raise GuestFileError(f"{path!r}: the guest's stat answered {facts[:80]!r}") from None


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
