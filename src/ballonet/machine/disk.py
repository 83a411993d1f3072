"""A sandbox's writable disk: a sparse file with ext4, created at the first start and kept until the sandbox is removed.
It uses space on the host as the guest writes, and frees it when the guest deletes (discard)."""

from __future__ import annotations

import os
from pathlib import Path

from ballonet.base.errors import HostError, os_hint
from ballonet.base.memory import bytes_to_mib, mib_to_bytes
from ballonet.base.process import find_program, run

DISK_FILE = "disk.img"
#: The default size of a disk: it uses no space until it is filled.
DEFAULT_DISK_MIB = 8192
#: Size of the journal in MiB. The default of mke2fs is up to 1 GiB, which the guest would write again and again.
_JOURNAL_MIB = 16
_HINT = "install it: apt-get install e2fsprogs"


def obtain_disk(directory: Path, size_mib: int) -> Path:
    """The disk in ``directory``: created if it does not exist, and enlarged if it is smaller than ``size_mib``.

    :raises HostError: it cannot be created or enlarged, or is larger than ``size_mib``.
    """
    disk = directory / DISK_FILE
    try:
        has_mib = bytes_to_mib(disk.stat().st_size)
    except FileNotFoundError:
        _make(disk, size_mib)
        return disk
    if size_mib < has_mib:
        raise HostError(
            f"the disk {disk} has {has_mib} MiB and cannot be shrunk to {size_mib} MiB",
            hint="request a larger disk, or create a new sandbox",
        )
    if size_mib > has_mib:
        # The guest enlarges its file system: the host never reads what a guest has written.
        _resize(disk, size_mib)
    return disk


def find_mke2fs() -> Path:
    """:raises HostError: it is not installed."""
    return find_program("mke2fs", hint=_HINT)


def _make(disk: Path, size_mib: int) -> None:
    # Renamed when it is complete, so that an interrupted one is never used.
    half = disk.with_name(f".{disk.name}.{os.getpid()}")
    journal_mib = min(_JOURNAL_MIB, size_mib // 8)
    # The new file reads as zeros: nothing needs to be discarded or zeroed. No blocks are reserved for root.
    options = [
        "-E",
        "nodiscard,assume_storage_prezeroed=1",
        "-J",
        f"size={journal_mib}",
        "-m",
        "0",
        "-b",
        "4096",
    ]
    try:
        half.touch(mode=0o600)
        _resize(half, size_mib)
        run([find_mke2fs(), "-q", "-F", "-t", "ext4", *options, half], writes=disk.parent)
        half.rename(disk)
    except OSError as error:
        raise HostError(
            f"the disk {disk} cannot be created: {error.strerror}", hint=os_hint(error, disk)
        ) from error
    finally:
        half.unlink(missing_ok=True)


def _resize(disk: Path, size_mib: int) -> None:
    try:
        os.truncate(disk, mib_to_bytes(size_mib))
    except OSError as error:
        raise HostError(
            f"the disk {disk} cannot be resized to {size_mib} MiB: {error.strerror}",
            hint=os_hint(error, disk),
        ) from error
