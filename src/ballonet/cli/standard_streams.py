"""Prepares the standard streams once, before any command runs.

A descriptor that the caller has closed is opened on /dev/null, so that no other file gets its number. Writes to a
non-blocking stream wait until they can proceed. Characters that the stream's encoding lacks are replaced.
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
#: ASCII replacements for the characters that ballonet's messages use; other characters are escaped.
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
    """Open /dev/null for each closed standard descriptor: input is then empty, output is dropped."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, flags)  # gets the lowest free number, which is this one
            os.set_inheritable(opened, True)


def take_over() -> None:
    """Replace ``sys.stdin``, ``sys.stdout`` and ``sys.stderr``. Called once, when the program starts."""
    open_missing()
    codecs.register_error(_ERRORS, _encode_anyway)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # stays open until the program exits
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(2, sys.stderr)


def drop_output() -> None:
    """Discard what standard output has buffered: its reader is gone, or its disk is full."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    with contextlib.suppress(OSError, StreamError):
        sys.stdout.flush()


def write_all(fd: int, data: ReadableBuffer) -> None:
    """Write all of ``data``, waiting if the descriptor is non-blocking and not ready.

    :raises BrokenPipeError: the reader is gone.
    :raises StreamError: the descriptor cannot be written, for example because the disk is full.
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
    """Whether a short message can be written within ``within_s`` seconds, which a stalled reader would prevent."""
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    return bool(ready.poll(within_s * 1000))


def stream_error(fd: int, error: OSError) -> StreamError:
    """The error for a standard stream that cannot be written."""
    return StreamError(f"{NAMES.get(fd, fd)}: {error.strerror}")


class _Raw(io.RawIOBase):
    """A standard descriptor as the raw layer of Python's text streams."""

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
                raise  # a message that cannot be written must not stop the command
        return memoryview(data).nbytes


def _text(fd: int, before: TextIO | None) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(_Raw(fd))
    at_once = fd == 2 or getattr(before, "write_through", False)  # set by PYTHONUNBUFFERED
    return io.TextIOWrapper(
        buffered,
        encoding="utf-8" if before is None else before.encoding,
        errors=_ERRORS,
        line_buffering=at_once or os.isatty(fd),
    )


def _encode_anyway(error: UnicodeError) -> tuple[bytes, int]:
    """Error handler for :mod:`codecs`: restores the undecodable bytes of paths, replaces other characters by ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(char: str) -> bytes:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that Python could not decode (PEP 383)
        return bytes([ord(char) - 0xDC00])
    return _PLAIN.get(char, char).encode("ascii", "backslashreplace")
