"""Reads the log of a sandbox's command: backwards to find its last lines, forwards as it grows.

Only one block is in memory at a time. A file stays open while it is read, so that nothing is lost if it is rotated
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ballonet.machine.output_log import FILE_NAME, Entry, parse_entry, rotated

_BLOCK_BYTES = 256 << 10

#: Where an entry begins: the file's index, 0 for the oldest at the time of opening, and the offset in that file.
Position = tuple[int, int]


class LogReader:
    """The files of one log; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        newest, older = _open(self._path), _open(rotated(self._path))
        if newest is not None and older is not None and _same(newest, older):
            older = None  # the log was rotated between the two calls
        self._files = [file for file in (older, newest) if file is not None]
        self._index = 0
        self._offset = 0
        self._rest = b""

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def end(self) -> Position:
        """The position of the next entry that will be written."""
        index = max(0, len(self._files) - 1)
        for file in self._files[-1:]:
            for offset, lines in _blocks_backward(file):
                return index, offset + len(lines)
        return index, 0

    def last_lines(self, count: int, *, since: float | None, until: float | None) -> dict[str, Position]:
        """Find the last ``count`` lines: for each stream that has some of them, the position of its first one.

        Lines are counted per stream, and an unterminated line counts. Only entries between ``since`` and ``until``
        (Unix seconds) are considered.
        """
        starts: dict[str, Position] = {}
        over: set[str] = set()
        marks: list[bytes] = []
        taken = 0
        for position, line in self._backward(marks):
            entry = parse_entry(line)
            if entry is None or entry.stream in over or (until is not None and entry.at > until):
                continue
            if since is not None and entry.at < since:
                break
            if entry.whole or entry.stream not in starts:  # read backwards, a new line starts here
                if taken == count:
                    over.add(entry.stream)
                    going_on = [stream for stream in starts if stream not in over]
                    if not going_on:
                        break
                    marks[:] = [b" %s " % stream.encode() for stream in going_on]
                    continue
                taken += 1
            starts[entry.stream] = position
        return starts

    def skip_to(self, position: Position) -> None:
        """Let :meth:`read` continue at ``position``."""
        self._index, self._offset = position

    def read(self) -> Iterator[tuple[Position, Entry]]:
        """The entries from the current position to the current end, through all files."""
        while True:
            if self._index < len(self._files):
                yield from self._read_file(self._files[self._index])
                if self._index + 1 == len(self._files):
                    if not self._find_newer():
                        return
                    # Entries that were written before the rotation.
                    yield from self._read_file(self._files[self._index])
                self._files[self._index].close()
                self._index, self._offset, self._rest = self._index + 1, 0, b""
            elif not self._find_newer():
                return

    def _read_file(self, file: BinaryIO) -> Iterator[tuple[Position, Entry]]:
        file.seek(self._offset + len(self._rest))
        while data := file.read(_BLOCK_BYTES):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                position = self._index, self._offset
                self._offset += len(line) + 1
                if (entry := parse_entry(line)) is not None:
                    yield position, entry

    def _find_newer(self) -> bool:
        """Open the files that were created since the last call."""
        newest = _open(self._path)
        last = self._files[-1] if self._files else None
        if newest is None or (last is not None and _same(newest, last)):
            if newest is not None:
                newest.close()
            return False
        between = _open(rotated(self._path)) if last is not None else None
        if between is not None and last is not None and (_same(between, last) or _same(between, newest)):
            between.close()
            between = None
        self._files += [file for file in (between, newest) if file is not None]
        return True

    def _backward(self, marks: list[bytes]) -> Iterator[tuple[Position, bytes]]:
        """Complete lines, the last one first. Blocks that contain none of ``marks`` are skipped, unless it is empty."""
        for index in reversed(range(len(self._files))):
            for offset, lines in _blocks_backward(self._files[index]):
                if marks and not any(mark in lines for mark in marks):
                    continue
                end = len(lines)
                while end > 0:
                    begin = lines.rfind(b"\n", 0, end - 1) + 1
                    yield (index, offset + begin), lines[begin:end]
                    end = begin


def last_line_offset(file: BinaryIO, count: int) -> int:
    """The offset of the last ``count`` lines of a file; an unterminated line counts."""
    size = end = file.seek(0, os.SEEK_END)
    wanted = count
    while end > 0 and wanted > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start)
        at = len(block) - (end == size and block.endswith(b"\n"))
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            wanted -= 1
            if wanted == 0:
                return start + at + 1
        end = start
    return size if count == 0 else 0


def _blocks_backward(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Blocks of complete lines with their offsets, the last block first. Text after the last newline is skipped."""
    end = file.seek(0, os.SEEK_END)
    rest, last = b"", True
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start) + rest
        if last:
            block = block[: block.rfind(b"\n") + 1]
            last = not block
        cut = block.find(b"\n") + 1 if start > 0 else 0
        if cut < len(block):
            yield start + cut, block[cut:]
        rest, end = block[:cut], start


def _open(path: Path) -> BinaryIO | None:
    with contextlib.suppress(FileNotFoundError):
        return path.open("rb")
    return None


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())
