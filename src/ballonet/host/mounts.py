"""Makes a directory read-only for one child process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWNS = 0x00020000  # sched.h
_MS_REC, _MS_PRIVATE, _MS_BIND = 0x4000, 0x40000, 0x1000  # sys/mount.h
_SYS_MOUNT_SETATTR = 442  # the same on every architecture; since Linux 5.12
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000  # fcntl.h, linux/fcntl.h
_MOUNT_ATTR_RDONLY = 1  # linux/mount.h


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr`` (mount_setattr(2))."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def read_only_view(directory: Path) -> Callable[[], None]:
    """A function to be called in a child between fork and exec. It makes ``directory``, with all mounts below it,
    read-only for that child, whatever its user. Needs root and Linux 5.12; if it fails, the child reports that on
    standard error and exits."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(directory)
    attributes = _MountAttributes(set=_MOUNT_ATTR_RDONLY)

    def check(result: int) -> None:
        if result != 0:
            os.write(2, f"{directory} cannot be made read-only: {os.strerror(ctypes.get_errno())}\n".encode())
            os._exit(1)

    def in_child() -> None:
        check(libc.unshare(_CLONE_NEWNS))
        check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
        check(libc.mount(path, path, None, _MS_BIND | _MS_REC, None))
        size = ctypes.sizeof(attributes)
        pointer = ctypes.byref(attributes)
        check(libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, pointer, size))

    return in_child
