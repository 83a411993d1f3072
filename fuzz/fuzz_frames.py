"""An atheris target for the agent protocol's frames and messages; see README.md here.

What must hold for any bytes from a guest, or from a local client of the relay: they are frames or a
``GuestChannelError``; the pieces they come in do not matter; no more is held than one frame; every payload is a value
or a ``GuestChannelError``.

The first byte of an input chooses who speaks (lowest bit) and the length of the pieces (the others).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports():
    from ballonet.base.errors import GuestChannelError
    from ballonet.guest import messages
    from ballonet.guest.frames import FROM_GUEST, FROM_LOCAL_CLIENT, HEADER, Frame, FrameDecoder, FrameType
    from ballonet.guest.report import parse_report

#: Small, so that the bound is met by inputs of a few kilobytes.
_MAX_PAYLOAD = 512

_DECODERS: dict[FrameType, Callable[[Frame], object]] = {
    FrameType.EXEC: messages.decode_exec,
    FrameType.SIGNAL: messages.decode_number,
    FrameType.RESIZE: messages.decode_resize,
    FrameType.CREDIT: messages.decode_number,
    FrameType.READY: messages.decode_ready,
    FrameType.STARTED: messages.decode_number,
    FrameType.EXIT: messages.decode_exit,
    FrameType.ERROR: messages.decode_error,
    FrameType.STDIN_CREDIT: messages.decode_number,
    FrameType.TRIM_DONE: messages.split_trim_done,
    FrameType.WATCHING: messages.decode_number,
}


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _cut(data: bytes, piece: int, allowed: frozenset[FrameType]) -> tuple[list[Frame], str | None]:
    """The frames of ``data`` fed in pieces, and the error that ended it."""
    decoder = FrameDecoder(allowed, _MAX_PAYLOAD)
    frames: list[Frame] = []
    try:
        for start in range(0, len(data), piece):
            frames += decoder.feed(data[start : start + piece])
            _check(len(decoder._rest) < HEADER.size + _MAX_PAYLOAD, "more is held than one frame")
        decoder.finish()
    except GuestChannelError as error:
        return frames, error.message
    return frames, None


def _read(frame: Frame) -> None:
    for number in dataclasses.astuple(parse_report(frame.payload)):
        _check(number is None or 0 <= number <= 1 << 63, f"a report with {number}")
    decode = _DECODERS.get(frame.kind)
    if decode is None:
        return
    try:
        value = decode(frame)
    except GuestChannelError:
        return
    if isinstance(value, messages.Ready):
        again = messages.decode_ready(Frame(FrameType.READY, 0, messages.encode_ready(value)))
        _check(len(again.failed_modules) == len(value.failed_modules), f"READY changed: {value!r}")
        _check(value.kernel_release.isprintable(), "READY with a text that could rearrange a terminal")
    elif isinstance(value, messages.StartFailure):
        _check(value.text.isprintable(), "ERROR with a text that could rearrange a terminal")
    elif isinstance(value, messages.ExitStatus):
        _check(0 <= value.returncode <= 255, f"EXIT with status {value.returncode}")


def test_one_input(data: bytes) -> None:
    """Feed one stream whole and in pieces, and read each payload as every message."""
    if not data:
        return
    allowed, piece, stream = (FROM_GUEST, FROM_LOCAL_CLIENT)[data[0] & 1], (data[0] >> 1) + 1, data[1:]
    frames, error = _cut(stream, piece, allowed)
    whole, error_of_whole = _cut(stream, max(1, len(stream)), allowed)
    _check(error == error_of_whole, f"pieces of {piece}: {error!r}, whole: {error_of_whole!r}")
    if error is None:
        _check(frames == whole, f"pieces of {piece} gave other frames")
        _check(b"".join(frame.encode() for frame in frames) == stream, "frames are not what was fed")
    for frame in frames:
        _read(frame)
    for kind in _DECODERS:
        _read(Frame(kind, 1, stream))


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
