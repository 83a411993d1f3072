"""Copies of large files: shared blocks where the file system can (reflinks), else only the parts that have data."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

#: ioctl(2) FICLONE, linux/fs.h: _IOW(0x94, 9, int).
_FICLONE = 0x40049409
#: The errors of file systems, or pairs of them, that do not share blocks (ioctl_ficlone(2)).
_NOT_SHARED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
#: The errors of copy_file_range(2) after which reading and writing may still work.
_NOT_COPIED = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_PIECE = 1 << 20
#: copy_file_range copies at most this much at once, so that the thread can be interrupted.
_RANGE = 64 << 20


def reflink(source: int, target: int) -> bool:
    """Make ``target`` a copy that shares the blocks of ``source``; false if the file system cannot.

    :raises OSError: another error, such as a full disk.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NOT_SHARED:
            return False
        raise
    return True


def copy_file(source: int, target: int) -> None:
    """Make the empty file ``target`` a copy of ``source``, by :func:`reflink` or :func:`copy_data`.

    :raises OSError: one of them failed.
    """
    if not reflink(source, target):
        copy_data(source, target)


def copy_data(source: int, target: int) -> None:
    """Copy the parts of ``source`` that have data to the empty file ``target``. What is a hole stays one.

    :raises OSError: it cannot be read or written; the disk may be full.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in data_ranges(source):
        _copy_range(source, target, start, end)


def data_ranges(file: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file that has data (lseek(2), SEEK_DATA).

    :raises OSError: the file cannot be read.
    """
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, target, min(_RANGE, end - start), start, start)
        except OSError as error:
            if error.errno not in _NOT_COPIED:
                raise
            copied = _copy_piece(source, target, start, min(_PIECE, end - start))
        if copied == 0:
            return  # it was truncated meanwhile
        start += copied


def _copy_piece(source: int, target: int, at: int, size: int) -> int:
    content = os.pread(source, size, at)
    write_at(target, content, at)
    return len(content)


def write_at(target: int, content: bytes | memoryview, at: int) -> None:
    """Write all of ``content``.

    :raises OSError: it cannot be written.
    """
    left = memoryview(content)
    while left:
        written = os.pwrite(target, left, at)
        left, at = left[written:], at + written


def new_private_file(path: str | os.PathLike[str]) -> int:
    """A descriptor of a new file with mode 0600, whatever the umask.

    :raises OSError: it exists, or cannot be created.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd
