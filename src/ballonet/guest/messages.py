"""The payloads of the agent's frames: encoding and decoding, without I/O.

``docs/agent.md`` has their layouts. Decoding raises :class:`GuestChannelError` for an invalid payload; texts from the
guest are truncated, decoded with replacement, and stripped of terminal control characters. Encoding raises
:class:`ConfigError` for invalid arguments.
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import ConfigError, GuestChannelError, GuestCommandError
from ballonet.base.text import printable
from ballonet.guest.frames import (
    MAX_EXEC_BYTES,
    MAX_TO_GUEST_BYTES,
    MIN_SEED_BYTES,
    PROTOCOL_VERSION,
    Frame,
)

#: Environment of every command, unless the caller sets the variable.
DEFAULT_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_MAX_TEXT_BYTES = 512
_MAX_FAILED_MODULES = 1024
#: READY has a few KiB at most. An invalid byte of text takes three bytes when READY is passed on to local clients, and
#: with this limit it always fits in a frame again.
_MAX_READY_BYTES = 16 << 10


class TrimFlags(enum.IntFlag):
    """How to release memory."""

    NONE = 0
    #: Drop clean page cache, dentries and inodes.
    DROP_CACHES = 1
    #: Compact memory afterwards, so that whole huge pages become free.
    COMPACT = 2
    #: Write dirty pages to disk first, so that they can be dropped, too.
    SYNC = 4
    #: Reclaim in slices at the lowest priority, and end when other processes of the guest are at work. Caches are never
    #: dropped in another way.
    GENTLE = 8


class Features(enum.IntFlag):
    """Optional features of a guest (``Ready.features``). Unknown bits are removed."""

    NONE = 0
    #: Pressure triggers (``/proc/pressure/memory``).
    PRESSURE = 1
    #: Reclaiming a given amount (cgroup ``memory.reclaim``).
    RECLAIM = 2
    COMPACT = 4


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[int, ...]:
    if len(frame.payload) != layout.size:
        raise GuestChannelError(
            f"{frame.kind.name} frame of {len(frame.payload)} bytes; it must have {layout.size}"
        )
    return layout.unpack(frame.payload)


def _unpack_head(layout: struct.Struct, frame: Frame) -> tuple[int, ...]:
    """The fields at the beginning of a payload that has text after them."""
    if len(frame.payload) < layout.size:
        raise GuestChannelError(
            f"{frame.kind.name} frame of {len(frame.payload)} bytes; the minimum is {layout.size}"
        )
    return layout.unpack_from(frame.payload)


def _text(data: bytes) -> str:
    """Decode text from the guest: truncated, and without terminal control characters."""
    return printable(data[:_MAX_TEXT_BYTES].decode(errors="replace"))


_U32 = struct.Struct("<I")
_U16_U16 = struct.Struct("<HH")
_U32_U32 = struct.Struct("<II")
_U64_U32 = struct.Struct("<QI")
_READY = struct.Struct("<HHIQ")
_EXEC = struct.Struct("<HHHHII")
_TTY, _STDIN, _BUILTIN, _MAKE_DIRECTORY = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Exec:
    """Start a process. ``user`` is ``USER[:GROUP]``, which the guest resolves; empty: root. ``cwd`` empty: ``/``.

    ``argv[0]`` without a slash is searched in the ``PATH`` of ``env``. ``builtin``: it names one of the agent's file
    programs, and no program of the guest is run.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = ""
    user: str = ""
    #: Create the working directory if it does not exist.
    make_cwd: bool = False
    tty: bool = False
    stdin: bool = False
    builtin: bool = False
    rows: int = 24
    columns: int = 80

    def encode(self) -> bytes:
        """The payload, which may take several frames (at most :data:`MAX_EXEC_BYTES`).

        :raises ConfigError: the arguments are invalid: no command, a NUL byte, or a number out of range.
        :raises GuestCommandError: arguments and environment exceed Linux's limit (E2BIG).
        """
        if isinstance(self.argv, str | bytes):
            raise ConfigError(
                f"a command must be a list of words, not {type(self.argv).__name__} ({self.argv!r})"
            )
        if not self.argv:
            raise ConfigError("a command must have at least one word")
        environment = [f"{name}={value}" for name, value in self.env.items()]
        for name in self.env:
            if not name or "=" in name:
                raise ConfigError(f"environment variable name {name!r} is empty or contains '='")
        words = [_word(word) for word in (self.user, self.cwd, *self.argv, *environment)]
        check_size(self.rows, self.columns)
        head = _EXEC.pack(
            self.tty * _TTY | self.stdin * _STDIN | self.builtin * _BUILTIN | self.make_cwd * _MAKE_DIRECTORY,
            self.rows,
            self.columns,
            0,
            len(self.argv),
            len(environment),
        )
        payload = b"".join((head, *(word + b"\0" for word in words)))
        if len(payload) > MAX_EXEC_BYTES:
            raise GuestCommandError(
                f"{self.argv[0][:200]} could not be started in the guest: argument list too long "
                f"({len(payload)} bytes with the environment)",
                errno=errno.E2BIG,
                hint=TOO_LONG_HINT,
            )
        return payload


#: execve(2), "Limits on size of arguments and environment".
TOO_LONG_HINT = (
    "Linux allows 131071 bytes in one argument or variable, and 2 MiB in total, with 9 bytes added for each; "
    "pass large data on standard input or in a file"
)


def _word(text: str) -> bytes:
    if not isinstance(text, str):
        raise ConfigError(
            f"arguments, variables and paths must be text, not {type(text).__name__} ({text!r})"
        )
    try:
        word = text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text[:64]!r} cannot be encoded as UTF-8") from error
    if b"\0" in word:
        raise ConfigError(f"{text[:64]!r} contains a NUL byte, which arguments, variables and paths cannot")
    return word


def check_size(rows: int, columns: int) -> None:
    """:raises ConfigError: it is not a valid size of a terminal."""
    if not (0 <= rows <= 0xFFFF and 0 <= columns <= 0xFFFF):
        raise ConfigError(f"terminal size {rows}x{columns} is not between 0x0 and 65535x65535")


@dataclass(frozen=True, slots=True)
class ExecShape:
    """The parts of an EXEC payload that a relay needs to know."""

    tty: bool
    stdin: bool


def decode_exec(payload: bytes) -> ExecShape:
    """Check the payload of an EXEC, of all its frames, exactly as the agent does: a malformed one ends the channel.

    :raises GuestChannelError: it is malformed.
    """
    if len(payload) < _EXEC.size:
        raise GuestChannelError(f"EXEC of {len(payload)} bytes; the minimum is {_EXEC.size}")
    flags, _, _, reserved, argc, envc = _EXEC.unpack_from(payload)
    if flags & ~(_TTY | _STDIN | _BUILTIN | _MAKE_DIRECTORY) or reserved != 0:
        raise GuestChannelError(f"EXEC with unknown flags 0x{flags:04x} or a reserved field of {reserved}")
    words = payload.count(b"\0", _EXEC.size)
    if argc < 1 or words != 2 + argc + envc or not payload.endswith(b"\0"):
        raise GuestChannelError(
            f"EXEC with {words} words instead of 2, {argc} arguments and {envc} environment variables"
        )
    return ExecShape(tty=bool(flags & _TTY), stdin=bool(flags & _STDIN))


class FailedModule(NamedTuple):
    """A kernel module that the agent could not load."""

    name: str
    errno: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The READY message of a guest. ``boot_ms``: time since its kernel started, by its own clock."""

    version: int
    kernel_release: str
    boot_ms: int
    features: Features
    failed_modules: tuple[FailedModule, ...]


def decode_ready(frame: Frame) -> Ready:
    """:raises GuestChannelError: it is malformed, or has another protocol version."""
    payload = frame.payload
    version, count, features, boot_ms = _unpack_head(_READY, frame)
    if len(payload) > _MAX_READY_BYTES:
        raise GuestChannelError(f"READY frame of {len(payload)} bytes; the maximum is {_MAX_READY_BYTES}")
    if version != PROTOCOL_VERSION:
        raise GuestChannelError(
            f"the guest's agent uses protocol version {version}, not {PROTOCOL_VERSION}",
            hint="the sandbox was started by another version of ballonet: restart it",
        )
    if count > _MAX_FAILED_MODULES:
        raise GuestChannelError(f"READY frame with {count} failed modules")
    at = payload.find(b"\0", _READY.size)
    if at < 0:
        raise GuestChannelError("READY frame without a kernel release")
    release = _text(payload[_READY.size : at])
    at += 1
    failed = []
    for _ in range(count):
        end = payload.find(b"\0", at + 2)
        if end < 0:
            raise GuestChannelError("READY frame with a truncated list of failed modules")
        failed.append(
            FailedModule(_text(payload[at + 2 : end]), int.from_bytes(payload[at : at + 2], "little"))
        )
        at = end + 1
    if at != len(payload):
        raise GuestChannelError(f"READY frame with {len(payload) - at} extra bytes")
    known = Features(features & (Features.PRESSURE | Features.RECLAIM | Features.COMPACT))
    return Ready(version, release, boot_ms, known, tuple(failed))


def encode_ready(ready: Ready) -> bytes:
    """The payload, for local clients of a relay."""
    failed = b"".join(
        (module.errno & 0xFFFF).to_bytes(2, "little") + module.name.encode() + b"\0"
        for module in ready.failed_modules
    )
    head = _READY.pack(ready.version, len(ready.failed_modules), ready.features, ready.boot_ms)
    return head + ready.kernel_release.encode() + b"\0" + failed


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: with exit code ``code``, or by signal ``code``."""

    signalled: bool
    code: int

    @property
    def returncode(self) -> int:
        """As in a shell, 0 to 255: the exit code, or 128 + the signal number."""
        return 128 + self.code if self.signalled else self.code


def decode_exit(frame: Frame) -> ExitStatus:
    """:raises GuestChannelError: it is malformed, or not a valid status."""
    kind, code = _unpack(_U32_U32, frame)
    if kind not in (0, 1) or code > (127 if kind else 255):
        raise GuestChannelError(f"EXIT frame with kind {kind} and code {code}")
    return ExitStatus(bool(kind), code)


class StartStep(enum.IntEnum):
    """The step of starting a process that failed (agent/spawn.c)."""

    OTHER = 0
    STREAMS = 1
    USER = 2
    DIRECTORY = 3
    COMMAND = 4


@dataclass(frozen=True, slots=True)
class StartFailure:
    """A process could not be started. ``errno`` is Linux's; ``text`` is from the guest and not trusted."""

    errno: int
    text: str
    step: StartStep = StartStep.OTHER


def decode_error(frame: Frame) -> StartFailure:
    """Decode ERROR or SETUP_DONE.

    :raises GuestChannelError: it is malformed.
    """
    number, step = _unpack_head(_U16_U16, frame)
    known = StartStep(step) if step <= max(StartStep) else StartStep.OTHER
    return StartFailure(number, _text(frame.payload[_U16_U16.size :]), known)


def encode_error(number: int, text: str) -> bytes:
    """The payload of ERROR, for local clients of a relay."""
    return _U32.pack(number) + text.encode(errors="replace")[: _MAX_TEXT_BYTES // 2]


def decode_number(frame: Frame) -> int:
    """Decode the u32 of STARTED, CREDIT, STDIN_CREDIT, SIGNAL and WATCHING.

    :raises GuestChannelError: it is malformed.
    """
    (number,) = _unpack(_U32, frame)
    return number


def encode_number(number: int) -> bytes:
    """The payload of CREDIT, STDIN_CREDIT, SIGNAL or STARTED."""
    return _U32.pack(number)


def decode_resize(frame: Frame) -> tuple[int, int]:
    """Rows and columns.

    :raises GuestChannelError: it is malformed.
    """
    rows, columns = _unpack(_U16_U16, frame)
    return rows, columns


def encode_resize(rows: int, columns: int) -> bytes:
    """:raises ConfigError: the size is out of range."""
    check_size(rows, columns)
    return _U16_U16.pack(rows, columns)


def encode_restored(wall_ns: int, seed: bytes) -> bytes:
    """The payload of RESTORED: nanoseconds since 1970, and random bytes."""
    if len(seed) < MIN_SEED_BYTES:
        raise ConfigError(f"a seed of {len(seed)} bytes is shorter than {MIN_SEED_BYTES}")
    return wall_ns.to_bytes(8, "little") + seed


def encode_watch(stall_us: int, window_us: int) -> bytes:
    """The payload of WATCH_PRESSURE, in microseconds. A stall of 0 ends the watch.

    :raises ConfigError: a value is out of range, or the stall is longer than the window.
    """
    if not 0 <= stall_us <= window_us <= 0xFFFF_FFFF:
        raise ConfigError(f"pressure stall {stall_us} µs must be between 0 and its window, {window_us} µs")
    return _U32_U32.pack(stall_us, window_us)


def encode_trim(size_bytes: int, flags: TrimFlags) -> bytes:
    """The payload of TRIM.

    :raises ConfigError: the size is out of range.
    """
    if not 0 <= size_bytes < 1 << 63:
        raise ConfigError(f"cannot trim {size_bytes} bytes")
    return _U64_U32.pack(size_bytes, flags)


def encode_setup(steps: Sequence[Sequence[str]]) -> bytes:
    """The payload of SETUP: a list of steps, each with its name and its arguments.

    :raises ConfigError: it is longer than a frame.
    """
    payload = b"".join(
        len(step).to_bytes(2, "little") + b"".join(_word(word) + b"\0" for word in step) for step in steps
    )
    if len(payload) > MAX_TO_GUEST_BYTES:
        raise ConfigError(
            f"the setup of the guest's mounts has {len(payload)} bytes; the limit is {MAX_TO_GUEST_BYTES}"
        )
    return payload


def split_trim_done(frame: Frame) -> tuple[int, bytes]:
    """The errno (0: none) and the statistics text of TRIM_DONE.

    :raises GuestChannelError: it is malformed.
    """
    (number,) = _unpack_head(_U32, frame)
    return number & 0xFFFF, frame.payload[_U32.size :]
