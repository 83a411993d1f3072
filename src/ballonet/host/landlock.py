"""Restricts which files a program may open, whatever its user, with Landlock (landlock(7), linux/landlock.h).

It needs neither root nor a namespace, only a kernel that has it: Linux 5.13, with Landlock among its security modules.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
#: All rights to files that a kernel knows, by the least version of its interface.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_TRUNCATE = 1 << 14
#: To bind and to connect TCP sockets, since version 4; not to reach abstract sockets and other processes, since 6.
_TCP, _SCOPES = 0b11, 0b11
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


@cache
def landlock_version() -> int:
    """The version of the kernel's interface; 0: it has none."""
    return max(int(ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION)), 0)


def restricted_to(
    programs: Sequence[Path], read: Sequence[Path], write: Sequence[Path], version: int
) -> Callable[[], None]:
    """A function to be called in a child between fork and exec: from then on it opens nothing but this, makes and
    removes no file, makes no TCP connection, and signals no other program. Paths that do not exist are left out.

    :param programs: directories whose files may be read and executed.
    :param read: files that may be read.
    :param write: files that may be read and written.
    :param version: of the interface, at most :func:`landlock_version`. Before 4 it leaves TCP alone, before 6 signals.
    :raises OSError: in the child, if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    rights = _FILE_RIGHTS[min(version, 3)]
    attributes = struct.pack("=QQQ", rights, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    written = _READ_FILE | _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
    rules = [(os.fsencode(path), _EXECUTE | _READ_FILE | _READ_DIR) for path in programs]
    rules += [(os.fsencode(path), _READ_FILE) for path in read]
    rules += [(os.fsencode(path), written) for path in write]

    def checked(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), "landlock")
        return result

    def in_child() -> None:
        ruleset = checked(libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
        for path, allowed in rules:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, fd), 0))
            os.close(fd)
        checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)

    return in_child
