"""Write seeds for the targets here: ``seeds.py DIRECTORY`` makes ``protocol/`` and ``frames/`` in it.

The seeds of the control protocol are the lines of its reference page; those of the frames are one of each type.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

from ballonet.guest import messages
from ballonet.guest.frames import PROTOCOL_VERSION, Frame, FrameType

PAGE = Path(__file__).parents[1] / "docs" / "control-protocol.md"

_NUMBERS = struct.pack("<II", 1, 9)
_REPORT = b"mem_total_kib 500000\nmem_available_kib 400000\npsi_some_avg10_centi 125\n"
_READY = messages.Ready(
    PROTOCOL_VERSION, "6.1.0", 400, messages.Features(7), (messages.FailedModule("virtio_balloon.ko", 2),)
)

#: The payload of each type that has one; the others stay empty.
_PAYLOADS = {
    FrameType.EXEC: messages.Exec(["sh", "-c", "true"], {"PATH": "/bin"}, tty=True).encode(),
    FrameType.STDIN: b"input",
    FrameType.SIGNAL: messages.encode_number(15),
    FrameType.RESIZE: messages.encode_resize(24, 80),
    FrameType.CREDIT: messages.encode_number(4096),
    FrameType.WATCH_PRESSURE: messages.encode_watch(50_000, 1_000_000),
    FrameType.RESTORED: messages.encode_restored(1_700_000_000_000_000_000, bytes(64)),
    FrameType.TRIM: messages.encode_trim(1 << 20, messages.TrimFlags.SYNC),
    FrameType.READY: messages.encode_ready(_READY),
    FrameType.STARTED: messages.encode_number(7),
    FrameType.STDOUT: b"output",
    FrameType.STDERR: b"errors",
    FrameType.EXIT: _NUMBERS,
    FrameType.ERROR: messages.encode_error(2, "no such file"),
    FrameType.STDIN_CREDIT: messages.encode_number(4096),
    FrameType.STATS: _REPORT,
    FrameType.PRESSURE: _REPORT,
    FrameType.TRIM_DONE: messages.encode_error(0, _REPORT.decode()),
    FrameType.WATCHING: messages.encode_number(0),
}


def write_seeds(directory: Path) -> None:
    """Fill both subdirectories."""
    for target in ("protocol", "frames"):
        (directory / target).mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(re.findall(r"^[→←] (.*)$", PAGE.read_text(), re.MULTILINE)):
        (directory / "protocol" / f"seed-{number:02}").write_text(line)
    for kind in FrameType:
        frame = Frame(kind, 1, _PAYLOADS.get(kind, b""))
        # The first byte of an input chooses the direction and where it is cut; see fuzz_frames.py.
        for side in (b"\x00", b"\x01"):
            seed = side + frame.encode() * 2
            (directory / "frames" / f"seed-{kind.name.lower()}-{side.hex()}").write_bytes(seed)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
