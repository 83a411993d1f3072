"""The memory and the command line of processes, from ``/proc/PID`` (proc(5)). ``None`` means unknown."""

from __future__ import annotations

import os
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.memory import bytes_to_mib, kib_to_bytes

PROC = Path("/proc")


#: Link of the memfd that QEMU's ``memory-backend-memfd`` creates for guest RAM (memfd_create(2)).
_GUEST_RAM_LINK = "/memfd:memory-backend-memfd"
#: The unit of ``st_blocks`` (stat(3type)).
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Resident:
    """Host memory of one engine in bytes. Reading it takes about 50 µs."""

    #: The engine's own memory and the guest's RAM.
    total_bytes: int
    #: Guest RAM: the blocks of its memfd.
    guest_ram_bytes: int

    @property
    def engine_bytes(self) -> int:
        """The engine's own memory, including pages of its program and libraries, which all engines share."""
        return max(0, self.total_bytes - self.guest_ram_bytes)

    @property
    def engine_mib(self) -> int:
        return bytes_to_mib(self.engine_bytes)

    @property
    def total_mib(self) -> int:
        return bytes_to_mib(self.total_bytes)

    @property
    def guest_ram_mib(self) -> int:
        return bytes_to_mib(self.guest_ram_bytes)


def read_resident(pid: int, *, proc: Path = PROC) -> Resident | None:
    """The memory of engine ``pid`` now; ``None`` if it has ended.

    Guest RAM is the allocated blocks of the engine's memfd, whichever processes have mapped it. If the file cannot be
    read, it is the part that the engine has mapped (RssShmem: it maps no other shared memory).
    """
    fields = read_kib_fields(proc / str(pid) / "status")
    try:
        engine, mapped = fields["VmRSS"] - fields["RssShmem"], fields["RssShmem"]
    except KeyError:
        return None
    held = read_guest_ram_bytes(pid, proc=proc)
    guest_ram = mapped if held is None else held
    return Resident(total_bytes=max(0, engine) + guest_ram, guest_ram_bytes=guest_ram)


def read_guest_ram_bytes(pid: int, *, proc: Path = PROC) -> int | None:
    """The allocated blocks of the memfd with the guest RAM of engine ``pid`` (fstat(2)).

    ``None`` if it has ended, has no such file, or belongs to another user (proc_pid_fd(5)).
    """
    directory = f"{proc}/{pid}/fd"
    try:
        names = os.listdir(directory)  # noqa: PTH208  # called often: no Path objects
    except OSError:
        return None
    for name in names:  # guest RAM is one of the first
        path = f"{directory}/{name}"
        try:
            if os.readlink(path).startswith(_GUEST_RAM_LINK):  # noqa: PTH115
                return os.stat(path).st_blocks * _BLOCK_BYTES  # noqa: PTH116
        except OSError:
            continue  # the engine has closed this one meanwhile
    return None


def read_pss_bytes(pid: int, *, proc: Path = PROC) -> int | None:
    """Proportional set size: each shared page is divided among the processes that map it, so that sums are correct.

    The kernel walks every mapping, which takes milliseconds for a large VM. ``None`` if it cannot be read.
    """
    return read_kib_fields(proc / str(pid) / "smaps_rollup").get("Pss")


def read_cpu_s(pid: int, *, proc: Path = PROC) -> float | None:
    """Processor time that process ``pid`` has used, user and system (seconds); ``None`` if it has ended."""
    try:
        # The program's name, in parentheses, may contain anything; utime and stime are fields 14 and 15 (proc(5)).
        words = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def read_io_bytes(pid: int, *, proc: Path = PROC) -> int | None:
    """Bytes that process ``pid`` has read and written, in the page cache or on a device (``rchar`` and ``wchar`` of
    proc_pid_io(5)); ``None`` if it has ended, or belongs to another user."""
    try:
        lines = (proc / str(pid) / "io").read_text().splitlines()
        return int(lines[0].removeprefix("rchar: ")) + int(lines[1].removeprefix("wchar: "))
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Io:
    """What a process has read and written (proc_pid_io(5)), in bytes."""

    #: With system calls, in the page cache or on a device.
    read_bytes: int
    written_bytes: int
    #: On devices.
    device_read_bytes: int
    device_written_bytes: int


def read_io(pid: int, *, proc: Path = PROC) -> Io | None:
    """What process ``pid`` has read and written; ``None`` if it has ended, or belongs to another user."""
    try:
        lines = (proc / str(pid) / "io").read_text().splitlines()
        fields = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
        return Io(fields["rchar"], fields["wchar"], fields["read_bytes"], fields["write_bytes"])
    except (OSError, ValueError, KeyError):
        return None


def read_kib_fields(path: Path) -> dict[str, int]:
    """The values of ``Name:   123 kB`` lines of a file in /proc, in bytes."""
    fields: dict[str, int] = {}
    try:
        for line in path.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
                fields[name] = kib_to_bytes(int(words[0]))
    except OSError:
        return {}
    return fields


def read_words(pid: int, *, proc: Path = PROC) -> list[str]:
    """The command line of process ``pid``; empty if it has ended or cannot be read."""
    try:
        text = (proc / str(pid) / "cmdline").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return []
    return text.removesuffix("\0").split("\0") if text else []


def read_children(pid: int, *, proc: Path = PROC) -> list[int]:
    """The running children of the main thread of process ``pid`` (proc_pid_task(5))."""
    try:
        return [int(word) for word in (proc / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except (OSError, ValueError):
        return []


def read_environment(pid: int, *, proc: Path = PROC) -> dict[str, str]:
    """The initial environment of process ``pid``; empty if it has ended or cannot be read."""
    try:
        text = (proc / str(pid) / "environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in text.split("\0"))
    return {name: value for name, equals, value in pairs if equals}
