"""A sandbox's history: a ring buffer of samples in one file of fixed size, written by the sandbox's process.

The format, version 1 (integers are little endian; also in ``docs/metrics.md``):

- The file has ``1 + SLOTS`` slots of 256 bytes. Slot 0 is the header: 8 bytes ``ballhist``, then the version, the size
  of a slot and the number of the other slots as three ``u32``.
- Sample number *n* (from 0) is in slot ``1 + n % SLOTS``: the file grows to its full size and then wraps around.
- A slot: ``u32`` CRC-32 of the rest, ``u8`` balloon's state (an index into :data:`STATES`, 255: unknown), 3 bytes zero,
  ``u64`` n, ``f64`` at, ``f64`` guest_at (NaN: unknown), 16 bytes the run's name, then 26 ``i64``, the
  :data:`FIELDS` in their order; −1 is unknown.

Each slot is written with one ``pwrite``. A slot that was written incompletely, as after a kill or a power failure, has
a wrong CRC and is ignored. Nothing is kept in memory. Reading needs no lock.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ballonet.base.errors import HostError, os_hint
from ballonet.metrics.model import SILENT_GUEST, TOTALS, SandboxSample

#: The file in a sandbox's state directory.
HISTORY_FILE: Final = "history.ring"
#: Capacity in samples (4 MiB): nine hours at one sample every 2 s, eleven days at one per minute.
SLOTS: Final = 16384
SLOT_BYTES: Final = 256

STATES: Final = ("converging", "applied", "guest-refused", "guest-floor", "no-driver", "failed")
#: The numbers of a sample, with the factors that convert them to integers.
FIELDS: Final[dict[str, int]] = {
    "ceiling": 1,
    "floor": 1,
    "requested": 1,
    "target": 1,
    "actual": 1,
    "limit": 1,
    "resident": 1,
    "pss": 1,
    "pss_age_s": 1000,
    "guest_ram": 1,
    "guest_total": 1,
    "guest_free": 1,
    "guest_available": 1,
    "guest_caches": 1,
    "guest_swap_total": 1,
    "guest_swap_free": 1,
    "guest_uptime_s": 1000,
    "pressure_some_avg10": 100,
    "pressure_full_avg10": 100,
    "major_faults": 1,
    "swap_in": 1,
    "swap_out": 1,
    "oom_kills": 1,
    "pressure_some_us": 1,
    "pressure_full_us": 1,
    "reclaimed": 1,
}

_MAGIC = b"ballhist"
_HEADER = struct.Struct("<8sIII")
_VERSION = 1
_SLOT = struct.Struct("<IB3xQdd16s26q")
_UNKNOWN = -1
_MOST = (1 << 63) - 1
#: The file is read in blocks of this many slots, which keeps the sandbox's process small.
_PIECE = 256


class HistoryWriter:
    """Adds samples to a sandbox's history. There is a single writer: the process that holds the sandbox's name.

    :param path: created if it does not exist; a file of another format is truncated.
    :raises HostError: the file cannot be opened or written.
    """

    def __init__(self, path: Path, *, slots: int = SLOTS) -> None:
        self._path = path
        self._slots = slots
        self._next = 0
        #: The newest sample of earlier runs.
        self.last: SandboxSample | None = None
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(
                f"history {path} cannot be opened: {error.strerror}", hint=os_hint(error, path)
            ) from error
        try:
            self._open()
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> None:
        header = _HEADER.pack(_MAGIC, _VERSION, SLOT_BYTES, self._slots).ljust(SLOT_BYTES, b"\0")
        if os.pread(self._fd, SLOT_BYTES, 0) != header:
            os.ftruncate(self._fd, 0)
            self._put(header, 0)
            return
        newest = _newest(self._fd)
        if newest is not None:
            number, slot = newest
            self._next, self.last = number + 1, _unpack(slot, self._path.parent.name)

    def write(self, sample: SandboxSample) -> None:
        """Add ``sample``; it replaces the oldest one once the ring is full.

        :raises HostError: it cannot be written, for example because the disk is full; a later one may succeed.
        """
        self._put(pack(sample, self._next), (1 + self._next % self._slots) * SLOT_BYTES)
        self._next += 1

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, slot: bytes, offset: int) -> None:
        try:
            written = os.pwrite(self._fd, slot, offset)
        except OSError as error:
            raise HostError(
                f"history {self._path} cannot be written: {error.strerror}", hint=os_hint(error, self._path)
            ) from error
        if written != len(slot):
            raise HostError(f"history {self._path} cannot be written: the disk is full")


def read_history(path: Path, since: float | None = None) -> list[SandboxSample]:
    """The samples of a sandbox's history, oldest first; empty if it has none.

    The sandbox's name is the name of the file's directory. Samples may belong to several runs (``run_id``). While
    nothing changes there is one sample per minute.

    :param since: leave out samples before this time (unix seconds).
    :raises HostError: the file cannot be read, or is not a history of this version.
    """
    with _reading(path) as fd:
        if fd is None:
            return []
        numbered = [(number, slot) for slot in _slots(fd) if (number := _number(slot)) is not None]
    numbered.sort(key=lambda pair: pair[0])
    samples = [_unpack(slot, path.parent.name) for _, slot in numbered]
    return [sample for sample in samples if since is None or sample.at >= since]


def read_recent(path: Path, since: float) -> list[SandboxSample]:
    """The samples from ``since`` on and the one before them, oldest first, without reading the whole file.

    :raises HostError: see :func:`read_history`.
    """
    found: list[SandboxSample] = []
    with _reading(path) as fd:
        if fd is None:
            return []
        slots = os.fstat(fd).st_size // SLOT_BYTES - 1
        at = _newest_slot(fd, slots)
        if at is None:
            return [sample for sample in read_history(path) if sample.at >= since]
        expected: int | None = None
        # Read backwards in blocks that do not cross the start of the file, where the ring wraps around.
        left = slots
        while left:
            count = min(_PIECE, at + 1, left)
            piece = os.pread(fd, count * SLOT_BYTES, (2 + at - count) * SLOT_BYTES)
            for offset in range(len(piece) - SLOT_BYTES, -1, -SLOT_BYTES):
                slot = piece[offset : offset + SLOT_BYTES]
                number = _number(slot)
                if number is not None:
                    if expected is not None and number > expected:
                        # Overwritten meanwhile: this sample is newer than the one the search started from.
                        return found[::-1]
                    expected = number
                    found.append(_unpack(slot, path.parent.name))
                    if found[-1].at < since:
                        return found[::-1]
            left -= count
            at = (at - count) % slots
    return found[::-1]


def last_sample(path: Path) -> SandboxSample | None:
    """The newest sample of a history; ``None`` if it has none.

    :raises HostError: see :func:`read_history`.
    """
    with _reading(path) as fd:
        newest = None if fd is None else _newest(fd)
    return None if newest is None else _unpack(newest[1], path.parent.name)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[int | None]:
    """A file descriptor of the history at ``path``; ``None`` if there are no samples yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        header = os.pread(fd, SLOT_BYTES, 0)
        if header and (
            len(header) < SLOT_BYTES or _HEADER.unpack_from(header)[:3] != (_MAGIC, _VERSION, SLOT_BYTES)
        ):
            raise HostError(
                f"{path} is not a history of version {_VERSION}",
                hint="it is replaced when the sandbox starts again",
            )
        yield fd if header else None  # empty: just being created
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


def _unreadable(path: Path, error: OSError) -> HostError:
    return HostError(f"history {path} cannot be read: {error.strerror}")


def pack(sample: SandboxSample, number: int) -> bytes:
    """Sample number ``number`` as a slot."""
    state = STATES.index(sample.balloon_state) if sample.balloon_state in STATES else 255
    values = [_whole(getattr(sample, name), scale) for name, scale in FIELDS.items()]
    guest_at = math.nan if sample.guest_at is None else sample.guest_at
    run = (sample.run_id or "").encode()[:16]
    rest = _SLOT.pack(0, state, number, sample.at, guest_at, run, *values)[4:]
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _unpack(slot: bytes, name: str) -> SandboxSample:
    _, state, _, at, guest_at, run, *values = _SLOT.unpack(slot)
    known = {
        field: None if value == _UNKNOWN else value if scale == 1 else value / scale
        for (field, scale), value in zip(FIELDS.items(), values, strict=True)
    }
    silent = math.isnan(guest_at)
    return SandboxSample(
        name=name,
        state="running",
        run_id=run.rstrip(b"\0").decode(errors="replace") or None,
        at=at,
        guest_at=None if silent else guest_at,
        unknown={"guest": SILENT_GUEST} if silent else {},
        balloon_state=STATES[state] if state < len(STATES) else None,
        **known,
    )


def _number(slot: bytes) -> int | None:
    """The number of a slot's sample; ``None`` if the slot is empty or damaged."""
    if len(slot) < SLOT_BYTES or zlib.crc32(slot[4:]) != int.from_bytes(slot[:4], "little"):
        return None
    number: int = _SLOT.unpack_from(slot)[2]
    return number


def _newest_slot(fd: int, slots: int) -> int | None:
    """The slot of the newest sample, by bisection: numbers increase up to it and are smaller after it.

    ``None`` if the result is uncertain because of a damaged slot or too few slots.
    """

    def number(at: int) -> int | None:
        return _number(os.pread(fd, SLOT_BYTES, (1 + at) * SLOT_BYTES))

    first = number(0) if slots > 0 else None
    if first is None:
        return None
    newest, beyond = 0, slots
    while beyond - newest > 1:
        middle = (newest + beyond) // 2
        found = number(middle)
        if found is None:
            return None
        newest, beyond = (middle, beyond) if found >= first else (newest, middle)
    return newest


def _newest(fd: int) -> tuple[int, bytes] | None:
    newest = None
    for slot in _slots(fd):
        number = _number(slot)
        if number is not None and (newest is None or number > newest[0]):
            newest = number, slot
    return newest


def _slots(fd: int) -> Iterator[bytes]:
    offset = SLOT_BYTES
    while piece := os.pread(fd, _PIECE * SLOT_BYTES, offset):
        for at in range(0, len(piece), SLOT_BYTES):
            yield piece[at : at + SLOT_BYTES]
        offset += len(piece)


def _whole(value: float | None, scale: int) -> int:
    return _UNKNOWN if value is None else min(_MOST, max(0, round(value * scale)))


def totals(sample: SandboxSample | None) -> dict[str, int]:
    """The totals of a sample; unknown ones are 0."""
    return {name: 0 if sample is None else getattr(sample, name) or 0 for name in TOTALS}
