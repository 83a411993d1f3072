"""The file of an exported snapshot: a tar archive with five members in a fixed order, written and read as a stream.

1. ``snapshot.json``: the facts (:mod:`ballonet.lifecycle.snapshot_facts`).
2. ``memory.state``: the saved state, as it is.
3. ``disk.extents``: start and end of each part of the disk that has data, as 64-bit little-endian numbers.
4. ``disk.data``: these parts, one after the other.
5. ``digests.json``: the SHA-256 of each other member, and of the image's root.

The archive may come from anyone: nothing in it names a path, each size is checked before it is read, and nothing is
kept unless all of it is right. The last two members before the digests are empty without a disk.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import sys
import tarfile
from collections.abc import Callable
from typing import BinaryIO

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import SnapshotError
from ballonet.base.file_copy import data_ranges, write_at
from ballonet.base.memory import mib_to_bytes
from ballonet.lifecycle.snapshot_facts import SnapshotFacts
from ballonet.lifecycle.snapshots import MOST_FACTS_BYTES

FACTS, STATE, EXTENTS, DATA, DIGESTS = (
    "snapshot.json",
    "memory.state",
    "disk.extents",
    "disk.data",
    "digests.json",
)
_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_MOST_EXTENTS_BYTES = 64 << 20
_MOST_DIGESTS_BYTES = 64 << 10
#: What a saved state has beyond the guest's RAM: the header, the devices, and 16 bytes for each run of pages.
_STATE_BEYOND_RAM = 128 << 20

Progress = Callable[[int], None]


def write_archive(
    out: BinaryIO,
    facts: SnapshotFacts,
    state: int,
    disk: int | None,
    root_digest: str | None,
    progress: Progress = lambda size: None,
) -> None:
    """Write an archive.

    :param state: the file of the saved state. :param disk: that of the disk.
    :param root_digest: the SHA-256 of the root that the guest has mounted.
    :raises OSError: a file cannot be read, or ``out`` cannot be written.
    """
    writer = _Writer(out, progress)
    writer.member(FACTS, facts.encode())
    writer.member_from(STATE, state, [(0, os.fstat(state).st_size)])
    extents = [] if disk is None else list(data_ranges(disk))
    table = array.array("Q", [number for extent in extents for number in extent])
    writer.member(EXTENTS, _little(table).tobytes())
    writer.member_from(DATA, -1 if disk is None else disk, extents)
    digests = {"members": writer.digests, "root": root_digest}
    writer.member(DIGESTS, json.dumps(digests).encode())
    out.write(bytes(2 * _BLOCK))
    out.flush()


class _Writer:
    def __init__(self, out: BinaryIO, progress: Progress) -> None:
        self._out = out
        self._progress = progress
        self.digests: dict[str, str] = {}

    def member(self, name: str, content: bytes) -> None:
        self._begin(name, len(content))
        self._out.write(content)
        self._end(name, len(content), hashlib.sha256(content))

    def member_from(self, name: str, file: int, ranges: list[tuple[int, int]]) -> None:
        size = sum(end - start for start, end in ranges)
        self._begin(name, size)
        digest = hashlib.sha256()
        for start, end in ranges:
            while start < end:
                piece = os.pread(file, min(_PIECE, end - start), start)
                if not piece:
                    raise OSError(f"{name} became shorter while it was read")
                self._out.write(piece)
                digest.update(piece)
                start += len(piece)
                self._progress(len(piece))
        self._end(name, size, digest)

    def _begin(self, name: str, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self._out.write(entry.tobuf(tarfile.GNU_FORMAT))

    def _end(self, name: str, size: int, digest: hashlib._Hash) -> None:
        self._out.write(bytes(-size % _BLOCK))
        self.digests[name] = digest.hexdigest()


@dataclass
class ReadArchive:
    """What an archive had besides the two files."""

    facts: SnapshotFacts
    #: The SHA-256 of the root that the guest has mounted; ``None``: the built-in root.
    root_digest: str | None


def read_archive(
    source: BinaryIO,
    state: int,
    disk: Callable[[], int],
    check: Callable[[SnapshotFacts], None],
    progress: Progress = lambda size: None,
) -> ReadArchive:
    """Read an archive, and write its files.

    :param state: the empty file for the saved state.
    :param disk: called once, if there is a disk; returns the empty file for it.
    :param check: called with the facts, before anything else is read; raises an error to stop.
    :raises SnapshotError: it is not an archive, is damaged or ends early. The files have part of it then.
    :raises OSError: ``source`` cannot be read, or a file cannot be written.
    """
    reader = _Reader(source, progress)
    facts = SnapshotFacts.decode(reader.small(FACTS, MOST_FACTS_BYTES))
    check(facts)
    most = mib_to_bytes(facts.config.memory_mib) + _STATE_BEYOND_RAM
    reader.copy(STATE, most, lambda size: _to_file(state, [(0, size)]))
    extents = _extents(reader.small(EXTENTS, _MOST_EXTENTS_BYTES), facts.disk_bytes)
    total = sum(end - start for start, end in extents)
    if facts.disk_bytes is None:
        reader.small(DATA, 0)
    else:
        file = disk()
        os.ftruncate(file, facts.disk_bytes)
        reader.copy(DATA, total, lambda size: _to_file(file, extents), exactly=total)
    found = dict(reader.digests)
    try:
        digests = json.loads(reader.small(DIGESTS, _MOST_DIGESTS_BYTES))
        said, root = digests["members"], digests["root"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"{DIGESTS} cannot be read") from error
    if said != found:
        wrong = [name for name in found if not isinstance(said, dict) or said.get(name) != found[name]]
        raise _damaged(f"the digest of {wrong[0] if wrong else DIGESTS} is not that of its content")
    if root is not None and not isinstance(root, str):
        raise _damaged("the digest of the root is not a text")
    reader.end()
    return ReadArchive(facts, root)


class _Reader:
    def __init__(self, source: BinaryIO, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self.digests: dict[str, str] = {}

    def small(self, name: str, most: int) -> bytes:
        """The content of the next member, of at most ``most`` bytes."""
        content = bytearray()
        self.copy(name, most, lambda size: content.extend)
        return bytes(content)

    def copy(
        self,
        name: str,
        most: int,
        target: Callable[[int], Callable[[bytes], None]],
        *,
        exactly: int | None = None,
    ) -> None:
        """Pass the content of the next member to what ``target`` returns for its size."""
        size = self._begin(name, most)
        if exactly is not None and size != exactly:
            raise _damaged(f"{name} has {size} bytes instead of {exactly}")
        write = target(size)
        digest = hashlib.sha256()
        left = size
        while left:
            piece = self._read(min(_PIECE, left))
            write(piece)
            digest.update(piece)
            left -= len(piece)
            self._progress(len(piece))
        self._exactly(-size % _BLOCK)
        self.digests[name] = digest.hexdigest()

    def end(self) -> None:
        """Read to the end of the stream, where only zeros may be."""
        while piece := self._source.read(_PIECE):
            if piece.strip(b"\0"):
                raise _damaged("something follows its end")

    def _begin(self, name: str, most: int) -> int:
        block = self._exactly(_BLOCK)
        try:
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise _damaged(f"the header of {name} cannot be read") from error
        if entry.name != name or not entry.isreg():
            raise _damaged(f"{name} is missing")
        if not 0 <= entry.size <= most:
            raise _damaged(f"{name} has {entry.size} bytes; it can have at most {most}")
        return entry.size

    def _read(self, most: int) -> bytes:
        piece = self._source.read(most)
        if not piece:
            raise _damaged("it ends early")
        return piece

    def _exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            found += self._read(size - len(found))
        return bytes(found)


def _to_file(file: int, extents: list[tuple[int, int]]) -> Callable[[bytes], None]:
    """A function that writes successive pieces to the parts of a file."""
    left = iter(extents)
    at = end = 0

    def write(piece: bytes) -> None:
        nonlocal at, end
        view = memoryview(piece)
        while view:
            if at == end:
                at, end = next(left)
            part = view[: end - at]
            write_at(file, part, at)
            at += len(part)
            view = view[len(part) :]

    return write


def _extents(content: bytes, disk_bytes: int | None) -> list[tuple[int, int]]:
    """:raises SnapshotError: they overlap, are out of order or beyond the disk."""
    if len(content) % 16:
        raise _damaged(f"{EXTENTS} is incomplete")
    numbers = array.array("Q")
    numbers.frombytes(content)
    numbers = _little(numbers)
    extents = list(zip(numbers[::2], numbers[1::2], strict=True))
    before = 0
    for start, end in extents:
        if not before <= start < end <= (disk_bytes or 0):
            raise _damaged(f"{EXTENTS} has impossible numbers")
        before = end
    return extents


def _little(numbers: array.array[int]) -> array.array[int]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def _damaged(why: str) -> SnapshotError:
    return SnapshotError(f"the file is not an exported snapshot, or is damaged: {why}")
