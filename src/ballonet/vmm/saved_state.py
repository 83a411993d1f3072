"""A saved virtual machine: its device state and its RAM at one moment, in one file.

The file has a header (one line of JSON, padded to a page), the pages of RAM that are not zero, the engine's device
state, a table of the places of the pages, and notes of the program that saved it. All of it is checked when the file
is opened, except the content of RAM. The engine decides what is in the device state; see
:meth:`ballonet.vmm.engine.Vm.save`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from zlib import crc32

from ballonet.base.errors import HostError, os_hint
from ballonet.base.paths import sync_directory

FORMAT = 2
PAGE = 4096
_ZEROS = bytes(PAGE)
#: Of the name of a file that is not complete.
PENDING_SUFFIX = ".part"
#: RAM is read in pieces of this size.
_PIECE = 256 * 1024
#: A device state has some 100 KiB; a larger one than this is no device state.
_MAX_DEVICE_BYTES = 64 << 20


class SavedStateError(Exception):
    """A file is not a saved state, is damaged, or is of another virtual machine."""


class SavedState:
    """An open, checked file. Use it as a context manager, or :meth:`close` it."""

    def __init__(
        self,
        path: Path,
        file: int,
        ram_bytes: int,
        cpu_s: float,
        device: bytes,
        runs: array.array[int],
        notes: bytes,
    ) -> None:
        self.path = path
        self.ram_bytes = ram_bytes
        #: The processor time that the engine had used when it was saved.
        self.cpu_s = cpu_s
        #: The engine's device state.
        self.device = device
        #: What the program that saved it has noted.
        self.notes = notes
        self._file = file
        self._runs = runs

    @classmethod
    def open(cls, path: Path, key: str | None, engine: str = "") -> Self:
        """Open and check a file.

        :param key: of the engine's :meth:`~ballonet.vmm.engine.Engine.state_key`; ``None``: any, to read its notes.
        :param engine: the name and version of this engine, for the message about a state of another one.
        :raises FileNotFoundError: there is none.
        :raises SavedStateError: it is of another virtual machine, is damaged, or others could have written it.
        """
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise SavedStateError(f"the saved state {path} cannot be read: {error.strerror}") from error
        try:
            return cls(path, file, *_read(path, file, key, engine))
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                raise SavedStateError(f"the saved state {path} cannot be read: {error.strerror}") from error
            raise

    @property
    def data_bytes(self) -> int:
        """The size of the pages that are not zero: the memory that a restored guest takes at first."""
        return sum(self._runs[1::2])

    def fill(self, ram: int) -> None:
        """Write the pages to ``ram``, a file of :attr:`ram_bytes` zeros. What is zero stays a hole.

        :raises OSError: the file is damaged, or memory is short.
        """
        at = PAGE
        for place, length in _pairs(self._runs):
            os.lseek(ram, place, os.SEEK_SET)
            end = at + length
            while at < end:
                sent = os.sendfile(ram, self._file, at, end - at)
                if sent == 0:
                    raise OSError(f"{self.path} ended early")
                at += sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def map_ram(ram: int) -> memoryview:
    """The RAM of a guest, for :func:`write_state`: a copy of each page would double the time of a save."""
    return memoryview(mmap.mmap(ram, os.fstat(ram).st_size, prot=mmap.PROT_READ))


def prepare_file(file: int, ram: int, mapped: memoryview) -> None:
    """Write the RAM of a running guest to ``file``, so that the host's kernel has the memory for both when
    :func:`write_state` replaces that.

    :raises OSError: it cannot be written; the disk may be full.
    """
    at = PAGE
    for _, content in _nonzero(ram, mapped):
        _write(file, content, at)
        at += len(content)


def write_state(
    file: int,
    key: str,
    ram: int,
    device: bytes,
    *,
    cpu_s: float = 0.0,
    engine: str = "",
    notes: bytes = b"",
    mapped: memoryview | None = None,
) -> None:
    """Write a state to the open file ``file``, which is empty or prepared. Does not synchronise it.

    :param ram: the file with the RAM of a stopped guest.
    :param mapped: of :func:`map_ram`.
    :param cpu_s: the processor time that the engine has used.
    :param engine: its name and version.
    :raises OSError: it cannot be written; the disk may be full.
    """
    runs = array.array("Q")
    at = PAGE
    for place, content in _nonzero(ram, map_ram(ram) if mapped is None else mapped):
        _write(file, content, at)
        at += len(content)
        if runs and runs[-2] + runs[-1] == place:
            runs[-1] += len(content)
        else:
            runs.extend((place, len(content)))
    table = _little(runs).tobytes()
    _write(file, device, at)
    _write(file, table, at + len(device))
    _write(file, notes, at + len(device) + len(table))
    if os.fstat(file).st_size > (end := at + len(device) + len(table) + len(notes)):
        os.ftruncate(file, end)
    header = {
        "format": FORMAT,
        "key": key,
        "engine": engine,
        "ram_bytes": os.fstat(ram).st_size,
        "cpu_s": round(cpu_s, 3),
        "data_bytes": at - PAGE,
        "device": [len(device), crc32(device)],
        "runs": [len(table), crc32(table)],
        "notes": [len(notes), crc32(notes)],
    }
    _write(file, _header(header), 0)


def amend_state(path: Path, *, key: str | None = None, notes: bytes | None = None) -> None:
    """Change the key or the notes of a saved state that nobody uses.

    :raises SavedStateError: it is damaged. :raises OSError: it cannot be written.
    """
    SavedState.open(path, None).close()
    with path.open("r+b", buffering=0) as file:
        header = json.loads(os.pread(file.fileno(), PAGE, 0).partition(b"\n")[0])
        if key is not None:
            header["key"] = key
        if notes is not None:
            end = PAGE + sum(int(header[part][0]) for part in ("device", "runs")) + int(header["data_bytes"])
            _write(file.fileno(), notes, end)
            os.ftruncate(file.fileno(), end + len(notes))
            header["notes"] = [len(notes), crc32(notes)]
        _write(file.fileno(), _header(header), 0)
        os.fsync(file.fileno())


def _header(facts: dict[str, object]) -> bytes:
    line = json.dumps(facts).encode() + b"\n"
    assert len(line) <= PAGE, "the key is too long"
    return line.ljust(PAGE, b"\0")


class PendingState:
    """A file that is being written, and gets its name when it is complete: it is whole or absent at any time.

    Until then it is named with the suffix :data:`PENDING_SUFFIX`, and locked. If its writer is killed, the next one
    uses it again. Created by :meth:`claim`.
    """

    def __init__(self, path: Path, part: Path, file: int) -> None:
        self._path = path
        self._part = part
        #: The open file.
        self.file = file

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Begin to write ``path``; ``None`` if another process does.

        :raises HostError: it cannot be written.
        """
        part = path.with_name(path.name + PENDING_SUFFIX)
        try:
            file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error
        pending = cls(path, part, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if pending._is_ours():
                os.fchmod(file, 0o600)  # whatever the umask
                os.ftruncate(file, 0)
                return pending
        except OSError:
            pass  # locked
        os.close(file)
        return None

    def commit(self) -> None:
        """Synchronise it with the disk, and give it its name.

        :raises HostError: the disk is full, or someone else has removed the file.
        """
        try:
            os.fsync(self.file)
            if not self._is_ours():
                raise FileNotFoundError(errno.ENOENT, "it was removed meanwhile")
            self._part.rename(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Give up, unless it is committed. May be called again."""
        file = self.file
        if file >= 0:
            with contextlib.suppress(OSError):
                if self._is_ours():
                    self._part.unlink()
            self.file = -1
            os.close(file)

    def _is_ours(self) -> bool:
        """Whether the name still leads to the open file."""
        try:
            return os.path.samestat(os.stat(self._part, follow_symlinks=False), os.fstat(self.file))  # noqa: PTH116
        except FileNotFoundError:
            return False


def _unwritable(path: Path, error: OSError) -> HostError:
    return HostError(f"{path} cannot be written: {error.strerror}", hint=os_hint(error, path))


def _nonzero(ram: int, mapped: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The pages that are not zero, in pieces of one page or more."""
    end = 0
    while True:
        try:
            start = os.lseek(ram, end, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        end = os.lseek(ram, start, os.SEEK_HOLE)
        for piece in range(start, end, _PIECE):
            yield from _nonzero_in(mapped[piece : min(end, piece + _PIECE)], piece)


def _nonzero_in(content: memoryview, place: int) -> Iterator[tuple[int, memoryview]]:
    first: int | None = None
    for at in range(0, len(content), PAGE):
        if content[at : at + PAGE] != _ZEROS:
            first = at if first is None else first
        elif first is not None:
            yield place + first, content[first:at]
            first = None
    if first is not None:
        yield place + first, content[first:]


def _write(file: int, content: bytes | memoryview, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written


def _read(
    path: Path, file: int, key: str | None, engine: str
) -> tuple[int, float, bytes, array.array[int], bytes]:
    """RAM size, processor time, device state, table and notes of the file."""
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise SavedStateError(f"the saved state {path} is not a file that only you can write")
    try:
        header = json.loads(os.pread(file, PAGE, 0).partition(b"\n")[0])
        if header["format"] != FORMAT:
            raise SavedStateError(f"the saved state {path} has the format of another version of ballonet")
        if key not in (None, header["key"]):
            raise SavedStateError(_other_machine(path, header["engine"], engine))
        ram_bytes, data_bytes = int(header["ram_bytes"]), int(header["data_bytes"])
        cpu_s = float(header["cpu_s"])
        device_bytes, device_sum = map(int, header["device"])
        table_bytes, table_sum = map(int, header["runs"])
        notes_bytes, notes_sum = map(int, header["notes"])
    except (ValueError, KeyError, TypeError) as error:
        raise SavedStateError(f"{path} is not a saved state") from error
    parts = (data_bytes, device_bytes, table_bytes, notes_bytes)
    if (
        min(parts) < 0
        or max(device_bytes, notes_bytes) > _MAX_DEVICE_BYTES
        or PAGE + sum(parts) != facts.st_size
    ):
        raise SavedStateError(f"the saved state {path} is truncated or damaged")
    device = os.pread(file, device_bytes, PAGE + data_bytes)
    table = os.pread(file, table_bytes, PAGE + data_bytes + device_bytes)
    notes = os.pread(file, notes_bytes, PAGE + data_bytes + device_bytes + table_bytes)
    sums = (crc32(device), crc32(table), crc32(notes))
    if sums != (device_sum, table_sum, notes_sum) or table_bytes % 16:
        raise SavedStateError(f"the saved state {path} is damaged")
    runs = array.array("Q")
    runs.frombytes(table)
    runs = _little(runs)
    if sum(runs[1::2]) != data_bytes or any(at + length > ram_bytes for at, length in _pairs(runs)):
        raise SavedStateError(f"the saved state {path} is damaged")
    return ram_bytes, cpu_s, device, runs, notes


def _other_machine(path: Path, saved_with: object, engine: str) -> str:
    if saved_with and engine and saved_with != engine:
        return f"the saved state {path} was made with {saved_with}, and can only be restored with it: here is {engine}"
    return (
        f"the saved state {path} belongs to another virtual machine: the kernel, the agent, the processor or the "
        "devices differ"
    )


def _pairs(runs: array.array[int]) -> zip[tuple[int, int]]:
    """Place and length of each run."""
    return zip(runs[::2], runs[1::2], strict=True)


def _little(numbers: array.array[int]) -> array.array[int]:
    """``numbers`` in little-endian order; the same function undoes it."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
