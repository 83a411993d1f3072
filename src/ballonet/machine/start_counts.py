"""Counts how the sandboxes of a user were started, and how long that took: totals in a small file beside the registry.

Each sandbox's process adds its own start, under a lock. The file may be deleted at any time: the totals then begin at
zero, which Prometheus handles as a counter reset.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import time
from enum import StrEnum
from pathlib import Path

log = logging.getLogger(__name__)

#: In the directory of the registry.
START_COUNTS = "starts"
_MAGIC = b"starts 1"
#: Of one way of starting: a count, and microseconds.
_TOTAL = struct.Struct("<QQ")
#: How often the lock is tried, and the time between (seconds). Its holders need microseconds, unless they are stopped.
_TRIES, _PAUSE_S = 5, 0.002


class StartKind(StrEnum):
    """How a sandbox was started. The order is that of the file."""

    #: Restored from a start template.
    TEMPLATE = "template"
    #: Booted, because there was no usable template.
    BOOT = "boot"
    #: Booted without looking for a template: requested, or the sandbox has volumes.
    COLD = "cold"
    #: Resumed, or restored from a snapshot or a fork.
    SAVED = "saved"


def count_start(directory: Path, kind: StartKind, took_s: float) -> None:
    """Add a start to the totals in ``directory``. A failure is logged: it must not fail the start."""
    try:
        file = os.open(directory / START_COUNTS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        log.warning("the start is not counted: %s", error)
        return
    try:
        if not _lock(file):
            log.warning("the start is not counted: %s is locked", START_COUNTS)
            return
        if not _is_whole(os.pread(file, _size() + 1, 0)):
            os.ftruncate(file, 0)
            os.pwrite(file, _MAGIC.ljust(_size(), b"\0"), 0)
        at = _place(kind)
        count, took_us = _TOTAL.unpack(os.pread(file, _TOTAL.size, at))
        os.pwrite(file, _TOTAL.pack(count + 1, took_us + max(0, round(took_s * 1e6))), at)
    except (OSError, struct.error) as error:
        log.warning("the start is not counted: %s", error)
    finally:
        os.close(file)


def read_starts(directory: Path) -> dict[str, tuple[int, float]]:
    """The number of starts of each kind, and the seconds that they took together; zeros if there is no file."""
    content = b""
    with contextlib.suppress(OSError):
        content = (directory / START_COUNTS).read_bytes()
    if not _is_whole(content):
        return {kind.value: (0, 0.0) for kind in StartKind}
    totals = {kind.value: _TOTAL.unpack_from(content, _place(kind)) for kind in StartKind}
    return {kind: (count, took_us / 1e6) for kind, (count, took_us) in totals.items()}


def _lock(file: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE_S)
    return False


def _is_whole(content: bytes) -> bool:
    return content.startswith(_MAGIC) and len(content) == _size()


def _size() -> int:
    return len(_MAGIC) + len(StartKind) * _TOTAL.size


def _place(kind: StartKind) -> int:
    return len(_MAGIC) + list(StartKind).index(kind) * _TOTAL.size
