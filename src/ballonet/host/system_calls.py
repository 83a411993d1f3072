"""Takes system calls away from a program, with seccomp(2). Only on x86-64; elsewhere nothing is taken away."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Sequence

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM
_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64, linux/audit.h
_OTHER_ABI = 0x40000000  # __X32_SYSCALL_BIT
#: Classic BPF (linux/bpf_common.h): load a word, compare, return.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
#: Offsets in struct seccomp_data.
_NUMBER, _ABI, _FIRST_ARGUMENT = 0, 4, 16

#: To reach other processes, their memory and their priority; namespaces and mounts; keys; other ways into the kernel.
OUTWARD = {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "tkill": 200, "pidfd_open": 434,
    "pidfd_send_signal": 424, "pidfd_getfd": 438, "kcmp": 312, "mount": 165, "umount2": 166, "pivot_root": 155,
    "chroot": 161, "unshare": 272, "setns": 308, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "mount_setattr": 442, "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
    "userfaultfd": 323, "open_by_handle_at": 304, "io_uring_setup": 425, "setpriority": 141, "ioprio_set": 251,
    "sched_setparam": 142, "sched_setscheduler": 144, "sched_setaffinity": 203, "sched_setattr": 314,
    "migrate_pages": 256, "move_pages": 279,
}  # fmt: skip
#: To change what others see of files, for which no right to open them is needed.
METADATA = {
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
    "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
    "fremovexattr": 199, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
}  # fmt: skip
#: To make a connection. A program keeps the sockets that it inherits.
SOCKETS = {"socket": 41, "connect": 42}
#: To change limits, and to send signals: only its own, and only to itself. The first argument is a process; 0 is itself
#: for the former, and a group for the latter.
_LIMITS = 302  # prlimit64
_SIGNALS = {"kill": 62, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297}


def can_filter() -> bool:
    return platform.machine() == "x86_64"


def without_calls(numbers: Sequence[int]) -> Callable[[], None]:
    """A function to be called in a child between fork and exec: it and what it executes get EPERM from these system
    calls, and from signals to other processes."""
    libc = ctypes.CDLL(None, use_errno=True)

    def in_child() -> None:
        program = _program(numbers, os.getpid())
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
            _PR_SET_SECCOMP, _MODE_FILTER, header, 0, 0
        ):
            raise OSError(ctypes.get_errno(), "seccomp")

    return in_child


def _program(numbers: Sequence[int], pid: int) -> bytes:
    """The filter. Pure."""
    signals = list(_SIGNALS.values())
    #: Where each part begins.
    allow = 5 + len(numbers) + len(signals)
    check_or_0, check, refuse = allow + 1, allow + 3, allow + 6
    lines: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _ABI)]

    def jump(kind: int, value: int, yes: int, no: int | None = None) -> None:
        here = len(lines) + 1
        lines.append((kind, yes - here, 0 if no is None else no - here, value))

    jump(_EQUAL, _ARCHITECTURE, 2, refuse)
    lines.append((_LOAD, 0, 0, _NUMBER))
    jump(_AT_LEAST, _OTHER_ABI, refuse)
    for number in numbers:
        jump(_EQUAL, number, refuse)
    for number in signals:
        jump(_EQUAL, number, check)
    jump(_EQUAL, _LIMITS, check_or_0)
    lines.append((_RETURN, 0, 0, _ALLOW))
    lines.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    jump(_EQUAL, 0, refuse - 1)
    lines.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    jump(_EQUAL, pid, refuse - 1, refuse)
    lines.append((_RETURN, 0, 0, _ALLOW))
    lines.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
