"""A sandbox's history: a ring of samples in one file of fixed size, written by the sandbox's own process.

The format, version 1 (integers little endian; ``docs/metrics.md`` says it, too):

- The file is ``1 + SLOTS`` slots of 256 bytes. Slot 0 is the header: 8 bytes ``ballhist``, then the version, the size
  of a slot and the number of slots after this one as three ``u32``.
- Sample number *n* (from 0) lies in slot ``1 + n % SLOTS``, so that the file grows up to its size and then goes round.
- A slot: ``u32`` CRC-32 of the rest, ``u8`` balloon's state (an index into :data:`STATES`, 255: unknown), 3 bytes zero,
  ``u64`` n, ``f64`` at, ``f64`` guest_at (NaN: unknown), 16 bytes the run's name, then 26 ``i64``, the
  :data:`FIELDS` in their order; −1 is unknown.

A slot is written by one ``pwrite``. Whatever a kill or a power cut tears has a wrong CRC and is passed over. Nothing of
it is kept in memory. Reading needs no lock.
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
#: Samples that it holds: 4 MiB. At one in 2 s that is nine hours, at one a minute eleven days.
SLOTS: Final = 16384
SLOT_BYTES: Final = 256

STATES: Final = ("converging", "applied", "guest-refused", "guest-floor", "no-driver", "failed")
#: The samples' numbers, and by what they are multiplied to be whole.
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
#: The file is read in pieces of this many slots, so that a sandbox's process stays small.
_PIECE = 256


class HistoryWriter:
    """Adds samples to a sandbox's history. One at a time has it: the one that holds the sandbox's name.

    :param path: made if it is not there; a file of another format is begun anew.
    :raises HostError: it cannot be opened or written.
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
        """Add ``sample``, in the place of the oldest once the ring is full.

        :raises HostError: it cannot be written, such as to a full disk; the next may be.
        """
        self._put(pack(sample, self._next), (1 + self._next % self._slots) * SLOT_BYTES)
        self._next += 1

    def close(self) -> None:
        """May be repeated."""
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
    """The samples of a sandbox's history, the oldest first; empty if it has none.

    The sandbox's name is that of the file's directory. Samples may be of several runs (``run_id``); while nothing
    changes there is one a minute.

    :param since: leave out those before this time (unix seconds).
    :raises HostError: it cannot be read, or is no history of this version.
    """
    with _reading(path) as fd:
        if fd is None:
            return []
        numbered = [(number, slot) for slot in _slots(fd) if (number := _number(slot)) is not None]
    numbered.sort(key=lambda pair: pair[0])
    samples = [_unpack(slot, path.parent.name) for _, slot in numbered]
    return [sample for sample in samples if since is None or sample.at >= since]


def read_recent(path: Path, since: float) -> list[SandboxSample]:
    """The samples from ``since`` on and the one before them, the oldest first, without reading all of the file.

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
        # Backwards in pieces that do not pass the file's beginning, where the ring goes round.
        left = slots
        while left:
            count = min(_PIECE, at + 1, left)
            piece = os.pread(fd, count * SLOT_BYTES, (2 + at - count) * SLOT_BYTES)
            for offset in range(len(piece) - SLOT_BYTES, -1, -SLOT_BYTES):
                slot = piece[offset : offset + SLOT_BYTES]
                number = _number(slot)
                if number is not None:
                    if expected is not None and number > expected:
                        return found[
                            ::-1
                        ]  # it is being written meanwhile: this one is newer than where we began
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
    """A descriptor of the history at ``path``; ``None`` if it has nothing yet."""
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
                hint="the sandbox's next start begins it anew",
            )
        yield fd if header else None  # empty: it is just being made
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
    """The number of a slot's sample; ``None`` if it has none, or a torn one."""
    if len(slot) < SLOT_BYTES or zlib.crc32(slot[4:]) != int.from_bytes(slot[:4], "little"):
        return None
    number: int = _SLOT.unpack_from(slot)[2]
    return number


def _newest_slot(fd: int, slots: int) -> int | None:
    """Where the newest sample lies, by bisection: numbers grow up to it and are smaller behind it.

    ``None`` where a torn slot, or too few of them, would make that a guess.
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
    """The totals of a sample, 0 where they are unknown."""
    return {name: 0 if sample is None else getattr(sample, name) or 0 for name in TOTALS}
