"""The log with the output of a sandbox's own command: one line per entry, with time and stream.

The format is that of Kubernetes' container runtimes (CRI logging, ``TIME STREAM TAG CONTENT``): RFC 3339 time with
nanoseconds, ``stdout`` or ``stderr``, ``F`` for a complete line or ``P`` for a part that the next entry of the stream
continues, then the bytes unchanged. At :data:`MAX_FILE_BYTES` the file is renamed to ``.1``, replacing the previous
one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ballonet.base.dataclass import dataclass, field

FILE_NAME = "output.log"
#: Maximum size of a file; a sandbox has at most two.
MAX_FILE_BYTES = 32 << 20
#: Maximum size of a part of a line.
MAX_PART_BYTES = 16 << 10


@dataclass(frozen=True)
class Entry:
    """A line, or a part of one, that the command wrote."""

    at: float
    stream: str
    whole: bool
    content: bytes
    #: :attr:`at` as written in the file.
    time: str = field(default="", compare=False)


class OutputLog:
    """Appends entries. If the disk is full, output is lost and counted in :attr:`lost_bytes`; the command continues."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = directory / FILE_NAME
        self._max_bytes = max_bytes
        self._fd = _open(self._path)
        self._size = _end_last_line(self._path, self._fd)
        self.lost_bytes = 0

    def write(self, stream: str, data: bytes) -> None:
        """Append what the command wrote to ``stream``."""
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
                os.ftruncate(self._fd, self._size)  # remove an incomplete entry

    def close(self) -> None:
        os.close(self._fd)

    def _rotate(self) -> None:
        self._path.replace(rotated(self._path))
        fd = _open(self._path)
        os.close(self._fd)
        self._fd, self._size = fd, 0


def parse_entry(line: bytes) -> Entry | None:
    """The entry in a line of the file; ``None`` if it is not one, as after a power failure."""
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
    """The entries, the oldest first."""
    path = directory / FILE_NAME
    for file in (rotated(path), path):
        try:
            with file.open("rb") as lines:
                yield from filter(None, map(parse_entry, lines))
        except FileNotFoundError:
            continue


def parse_timestamp(text: str) -> float:
    """The Unix time of an RFC 3339 time.

    :raises ValueError: it is not one.
    """
    # datetime accepts at most six fractional digits.
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
    """Split at newlines only: a carriage return is content."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def rotated(path: Path) -> Path:
    """The path to which ``path`` is renamed when it is full."""
    return path.with_name(path.name + ".1")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _end_last_line(path: Path, fd: int) -> int:
    """End a line that a power failure has cut off; returns the size of the file."""
    size = os.fstat(fd).st_size
    with path.open("rb") as file, contextlib.suppress(OSError):
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):
            size += os.write(fd, b"\n")
    return size
