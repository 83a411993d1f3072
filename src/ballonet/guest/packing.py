"""Packing a tree of the host's files as a tar stream in the GNU format, piece by piece.

As with the agent's ``pack``, the stream is complete whatever happens to the files meanwhile, a file whose size is
wrong by ``stat`` (as in ``/proc``) is measured by reading it, and only the names of hard links are kept in memory.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import BinaryIO

_PIECE_BYTES = 256 << 10
_KINDS = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def write_tree(out: BinaryIO, source: Path, name: str, *, follow: bool, problems: list[str]) -> None:
    """Write ``source`` as ``name``, everything in it, and the end of the archive.

    :param follow: if ``source`` is a link, pack the file or directory that it points to.
    :param problems: gets a line for each file below ``source`` that could not be read.
    :raises OSError: ``source`` cannot be read, or ``out`` cannot be written.
    """
    packing = _Packing(out, problems)
    packing.put(str(source), name, follow)
    # Depth first, without recursion: the open directories are the current path.
    within = packing.entered
    while within:
        entries, directory = within[-1]
        entry = next(entries, None)
        if entry is None:
            entries.close()
            within.pop()
            continue
        try:
            packing.put(entry.path, f"{directory}/{entry.name}", False)
        except FileNotFoundError:
            continue  # removed meanwhile
        except BrokenPipeError:
            raise
        except OSError as error:
            problems.append(f"{entry.path} cannot be read: {error.strerror}")
    out.write(bytes(2 * tarfile.BLOCKSIZE))


class _Packing:
    def __init__(self, out: BinaryIO, problems: list[str]) -> None:
        self._out = out
        self._problems = problems
        self._names: dict[tuple[int, int], str] = {}
        #: Directories whose entries are still to be packed, with their names in the archive.
        self.entered: list[tuple[os._ScandirIterator[str], str]] = []

    def put(self, path: str, name: str, follow: bool) -> None:
        found = Path(path).stat(follow_symlinks=follow)
        kind = _KINDS.get(stat.S_IFMT(found.st_mode))
        if kind is None:
            return  # a socket, which is of no use without its program
        key = (found.st_dev, found.st_ino)
        if kind == tarfile.DIRTYPE:
            entries = os.scandir(path)
            self.entered.append((entries, name))
            self._header(name, kind, found)
            return
        if found.st_nlink > 1 and key in self._names:
            self._header(name, tarfile.LNKTYPE, found, link=self._names[key])
            return
        if kind == tarfile.REGTYPE:
            self._file(path, name, follow)
        else:
            link = os.readlink(path) if kind == tarfile.SYMTYPE else ""  # noqa: PTH115 (Path changes it)
            self._header(name, kind, found, link=link)
        if found.st_nlink > 1:
            self._names[key] = name

    def _header(
        self, name: str, kind: bytes, found: os.stat_result, *, link: str = "", size: int = 0
    ) -> None:
        member = tarfile.TarInfo(name)
        member.type = kind
        member.linkname = link
        member.size = size
        member.mode = stat.S_IMODE(found.st_mode)
        member.uid, member.gid = found.st_uid, found.st_gid
        member.mtime = found.st_mtime_ns // 10**9
        if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            member.devmajor, member.devminor = os.major(found.st_rdev), os.minor(found.st_rdev)
        self._out.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))

    def _file(self, path: str, name: str, follow: bool) -> None:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        fd = os.open(path, flags)
        with os.fdopen(fd, "rb", buffering=0) as file:
            ready = _read_full(fd, _PIECE_BYTES)
            found = os.fstat(fd)
            size = len(ready)
            if size == _PIECE_BYTES:
                size = found.st_size
                if size <= len(ready):
                    size, ready = _measure(fd), b""
            self._header(name, tarfile.REGTYPE, found, size=size)
            left = size
            while left:
                piece = ready or _read_full(fd, min(left, _PIECE_BYTES))
                if not piece:
                    self._problems.append(
                        f"{path} became shorter while it was read, so its copy ends with zeros"
                    )
                    break
                piece = piece[:left]
                self._out.write(piece)
                left -= len(piece)
                ready = b""
            file.close()
        _zeros(self._out, left + -size % tarfile.BLOCKSIZE)


def _read_full(fd: int, size: int) -> bytes:
    """Read up to ``size`` bytes. EAGAIN, from a file of ``/proc`` that has nothing more now, is the end."""
    found = bytearray()
    try:
        while len(found) < size and (piece := os.read(fd, size - len(found))):
            found += piece
    except BlockingIOError:
        pass
    return bytes(found)


def _measure(fd: int) -> int:
    os.lseek(fd, 0, os.SEEK_SET)
    size = 0
    while piece := _read_full(fd, _PIECE_BYTES):
        size += len(piece)
    os.lseek(fd, 0, os.SEEK_SET)
    return size


def _zeros(out: BinaryIO, size: int) -> None:
    while size:
        piece = min(size, _PIECE_BYTES)
        out.write(bytes(piece))
        size -= piece
