"""Changes the command line and the environment that ``/proc`` shows of this process (proc_pid_cmdline(5)).

A process that was forked shows those of its parent. ``PR_SET_MM_MAP`` (prctl(2)) lets a process say where they are,
without privileges, on kernels with ``CONFIG_CHECKPOINT_RESTORE``, which distributions have.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_NAME, _PR_SET_MM, _PR_SET_MM_MAP = 15, 35, 14
#: Fields of /proc/self/stat, counted from the state (proc_pid_stat(5)).
_STAT = {
    "start_code": 23,
    "end_code": 24,
    "start_stack": 25,
    "start_data": 42,
    "end_data": 43,
    "start_brk": 44,
}
#: The kernel reads the words from here, as long as the process runs.
_kept: list[object] = []


class _MmMap(ctypes.Structure):
    """``struct prctl_mm_map`` (linux/prctl.h)."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
            )
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )


def show_words(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Show ``argv`` and ``env``, and the name of the program in ``argv``; false: this kernel does not allow it."""
    arguments = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    area = mmap.mmap(-1, len(arguments) + len(variables) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(arguments + variables)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    no_bytes = ctypes.c_long(0)
    words = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    shown = _MmMap(
        arg_start=start,
        arg_end=start + len(arguments),
        env_start=start + len(arguments),
        env_end=start + len(arguments) + len(variables),
        exe_fd=0xFFFF_FFFF,
        **{name: int(words[at]) for name, at in _STAT.items()},
    )
    size = ctypes.c_ulong(ctypes.sizeof(shown))
    arg = (ctypes.c_int(_PR_SET_MM), ctypes.c_ulong(_PR_SET_MM_MAP), ctypes.byref(shown), size, no_bytes)
    while True:
        shown.brk = libc.sbrk(no_bytes)
        if libc.prctl(*arg) != 0:
            return False
        if libc.sbrk(no_bytes) == shown.brk:  # else the heap has grown meanwhile
            break
    _kept.append(area)
    libc.prctl(_PR_SET_NAME, os.fsencode(Path(argv[0]).name)[:15])
    return True
