"""Our standard streams, made dependable once for every command, before anything else happens.

A descriptor that the caller has closed leads to /dev/null, so that no file of ours gets its number. A stream that does
not block is waited for. A character that the stream's encoding lacks is written another way.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from ballonet.base.errors import StreamError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}
_ERRORS = "ballonet.shown"
#: What stands for a character of our own messages where the encoding lacks it; others are escaped.
_PLAIN = {
    "→": "->",
    "…": "...",
    "×": "x",
    "−": "-",
    "–": "-",
    "’": "'",
    "·": ".",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def open_missing() -> None:
    """Open /dev/null for each standard descriptor that is closed: input is then at its end, output is dropped."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest that is free, which is this one
            os.set_inheritable(opened, True)


def take_over() -> None:
    """Make ``sys.stdin``, ``sys.stdout`` and ``sys.stderr`` dependable. For a whole program, at its beginning."""
    open_missing()
    codecs.register_error(_ERRORS, _encode_anyway)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # a descriptor, for the whole program
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(2, sys.stderr)


def drop_output() -> None:
    """Forget what standard output still has to write: its reader is gone, or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    with contextlib.suppress(OSError, StreamError):
        sys.stdout.flush()


def write_all(fd: int, data: ReadableBuffer) -> None:
    """Write all of ``data``, waiting where the descriptor does not block.

    :raises BrokenPipeError: its reader is gone.
    :raises StreamError: it cannot be written, as on a full disk.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()
        except ConnectionError as error:
            raise BrokenPipeError(*error.args) from error
        except OSError as error:
            raise stream_error(fd, error) from error


def takes_output(fd: int, within_s: float) -> bool:
    """Whether a short message can be written without being kept waiting by a reader that has stopped."""
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    return bool(ready.poll(within_s * 1000))


def stream_error(fd: int, error: OSError) -> StreamError:
    """What to tell of a standard stream that cannot be written."""
    return StreamError(f"{NAMES.get(fd, fd)}: {error.strerror}")


class _Raw(io.RawIOBase):
    """A standard descriptor as Python's text layers want it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.name = f"<{'stdout' if fd == 1 else 'stderr'}>"

    def fileno(self) -> int:
        return self.fd

    def isatty(self) -> bool:
        return os.isatty(self.fd)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        try:
            write_all(self.fd, data)
        except (OSError, StreamError):
            if self.fd == 1:
                raise  # a message that nobody can read must not keep us from the work
        return memoryview(data).nbytes


def _text(fd: int, before: TextIO | None) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(_Raw(fd))
    at_once = fd == 2 or getattr(before, "write_through", False)  # as PYTHONUNBUFFERED asks
    return io.TextIOWrapper(
        buffered,
        encoding="utf-8" if before is None else before.encoding,
        errors=_ERRORS,
        line_buffering=at_once or os.isatty(fd),
    )


def _encode_anyway(error: UnicodeError) -> tuple[bytes, int]:
    """An error handler of :mod:`codecs`: undecodable bytes of a path as they were, other characters in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(char: str) -> bytes:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that Python could not decode (PEP 383)
        return bytes([ord(char) - 0xDC00])
    return _PLAIN.get(char, char).encode("ascii", "backslashreplace")
