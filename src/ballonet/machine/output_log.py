"""What a sandbox's own command writes, kept in a file: one line an entry, with its time and stream.

The format is the one of Kubernetes' container runtimes (CRI logging, ``TIME STREAM TAG CONTENT``): RFC 3339 time with
nanoseconds, ``stdout`` or ``stderr``, ``F`` for a line that is whole or ``P`` for a part that the next entry of the
stream goes on with, then the bytes as they came. Bounded: at :data:`MAX_FILE_BYTES` the file becomes ``.1``, in place
of the one before.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

FILE_NAME = "output.log"
#: One sandbox keeps at most twice this.
MAX_FILE_BYTES = 32 << 20
#: Lines are cut into parts of at most this.
MAX_PART_BYTES = 16 << 10


@dataclass(frozen=True)
class Entry:
    """One line, or a part of one, that the command wrote."""

    at: float
    stream: str
    whole: bool
    content: bytes
    #: :attr:`at` as it is written in the file.
    time: str = field(default="", compare=False)


class OutputLog:
    """Appends entries. A full disk loses output, and never ends the command: it is counted in :attr:`lost_bytes`."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = directory / FILE_NAME
        self._max_bytes = max_bytes
        self._fd = _open(self._path)
        self._size = _end_last_line(self._path, self._fd)
        self.lost_bytes = 0

    def write(self, stream: str, data: bytes) -> None:
        """Append what the command wrote to ``stream``, as it came."""
        if not data:
            return
        head = f"{_timestamp(time.time_ns())} {stream} ".encode()
        out = bytearray()
        for line in _lines(data):
            whole = line.endswith(b"\n")
            body = line[:-1] if whole else line
            while len(body) > MAX_PART_BYTES:
                out += head + b"P " + body[:MAX_PART_BYTES] + b"\n"
                body = body[MAX_PART_BYTES:]
            out += head + (b"F " if whole else b"P ") + body + b"\n"
        try:
            if self._size and self._size + len(out) > self._max_bytes:
                self._rotate()
            view = memoryview(out)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(out)
        except OSError:
            self.lost_bytes += len(data)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)  # no half an entry, which the next one would be a part of

    def close(self) -> None:
        os.close(self._fd)

    def _rotate(self) -> None:
        self._path.replace(rotated(self._path))
        fd = _open(self._path)
        os.close(self._fd)
        self._fd, self._size = fd, 0


def parse_entry(line: bytes) -> Entry | None:
    """The entry of one line of the file; ``None`` if it is not one (the end of a file cut by a power loss)."""
    words = line.removesuffix(b"\n").split(b" ", 3)
    if len(words) != 4 or words[2] not in (b"F", b"P"):
        return None
    try:
        time = words[0].decode("ascii")
        at = parse_timestamp(time)
    except ValueError:
        return None
    return Entry(at, words[1].decode("ascii", "replace"), words[2] == b"F", words[3], time)


def read_entries(directory: Path) -> Iterator[Entry]:
    """What is kept, the oldest first."""
    path = directory / FILE_NAME
    for file in (rotated(path), path):
        try:
            with file.open("rb") as lines:
                yield from filter(None, map(parse_entry, lines))
        except FileNotFoundError:
            continue


def parse_timestamp(text: str) -> float:
    """Unix seconds of an RFC 3339 time. :raises ValueError: it is none."""
    # datetime takes six digits of a second's fraction at most.
    whole, dot, rest = text.partition(".")
    if dot:
        zone = rest.lstrip("0123456789")
        digits = rest[: len(rest) - len(zone)][:6]
        text = f"{whole}.{digits:0<6}{zone}"
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.astimezone()).timestamp()


def _timestamp(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _lines(data: bytes) -> list[bytes]:
    """Lines ended by newline alone: a carriage return is content."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def rotated(path: Path) -> Path:
    """The file that was ``path`` before it was full."""
    return path.with_name(path.name + ".1")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _end_last_line(path: Path, fd: int) -> int:
    """See to it that a line that was cut by a power loss is not continued; the file's size then."""
    size = os.fstat(fd).st_size
    with path.open("rb") as file, contextlib.suppress(OSError):
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):
            size += os.write(fd, b"\n")
    return size
