"""Every error that ballonet raises: one root class, and subclasses that say what the caller may conclude.

Each class has a stable ``code`` for programs. Each instance has a message that says what happened, with the values, and
a ``hint`` where a person can do something about it. Other modules raise only these classes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import PurePath
from typing import ClassVar


def os_hint(error: OSError, path: object) -> str | None:
    """What a person can do about a failed system call on ``path``; ``None`` if there is nothing specific."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = path.parent if isinstance(path, PurePath) else path  # the file itself may not exist
        return f"free up space on the file system of {place}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"give this user access to {path}, or run as a user that has access"
    if error.errno == errno.EROFS:
        return f"the file system of {path} is mounted read-only: choose a path on another file system"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many open files: raise the limit (ulimit -n)"
    return None


class BallonetError(Exception):
    """Root class of all errors of this package.

    :param message: what happened, with the values.
    :param hint: what a person can do about it, or ``None``.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BallonetError):
    """The request is invalid; nothing was started."""

    code = "config"


class SettingError(ConfigError):
    """Settings are invalid, alone or in combination. The message can name them as its reader knows them.

    :param template: the message, with ``{}`` in place of each setting's name.
    :param fields: the settings in that order, as names of fields of a configuration.
    """

    def __init__(self, template: str, *fields: str, hint: str | None = None) -> None:
        super().__init__(template.format(*fields), hint=hint)
        self.template = template
        self.fields = fields

    def named(self, names: Mapping[str, str]) -> SettingError:
        """The same error with other names for the settings: command-line options, or parameters of a function. A
        setting that is not in ``names`` keeps its name."""
        error = type(self)(self.template, *self.fields, hint=self.hint)
        error.message = self.template.format(*(names.get(field, field) for field in self.fields))
        error.args = (error.message,)
        return error


def escaped(text: str) -> str:
    """``text``, escaped for the template of a :class:`SettingError`."""
    return text.replace("{", "{{").replace("}", "}}")


def quoted(value: object) -> str:
    """``value`` in quotes, escaped for such a template."""
    return escaped(repr(value))


class NameInUseError(ConfigError):
    """A sandbox with that name exists already; it was not changed."""

    code = "name-in-use"


class UnknownSandboxError(ConfigError):
    """No sandbox with that name exists."""

    code = "unknown-sandbox"


class NotRunningError(ConfigError):
    """The sandbox is not running, and the operation needs a running one."""

    code = "not-running"


class SandboxClosedError(ConfigError):
    """The ``Sandbox`` object was closed; a detached sandbox may still be running."""

    code = "closed"


class EventLoopError(ConfigError):
    """The object cannot be used in the calling event loop, thread or process; nothing was done."""

    code = "event-loop"


class StillRunningError(ConfigError):
    """The sandbox is running, and the operation needs a stopped one."""

    code = "still-running"


class UnknownVolumeError(ConfigError):
    """No volume with that name exists."""

    code = "unknown-volume"


class VolumeInUseError(ConfigError):
    """The volume is in use; it was not changed. The message names the sandboxes."""

    code = "volume-in-use"


class UnknownImageError(ConfigError):
    """The image is not in the local store, and was not or could not be fetched."""

    code = "unknown-image"


class ImageInUseError(ConfigError):
    """The image is in use; it was not changed. The message names the sandboxes."""

    code = "image-in-use"


class UnknownSnapshotError(ConfigError):
    """There is no snapshot with that name."""

    code = "unknown-snapshot"


class SnapshotInUseError(ConfigError):
    """A program reads or writes the snapshot."""

    code = "snapshot-in-use"


class HostError(BallonetError):
    """The host lacks a program, a directory or a permission that is needed."""

    code = "host"


class RegistryError(HostError):
    """The registry of sandboxes cannot be used; it was not changed."""

    code = "registry"


class ProcessError(HostError):
    """A helper program could not be run, or failed. The message has its exit status and the end of its output."""

    code = "process"


class EngineError(BallonetError):
    """The engine (QEMU) could not be started, refused a command, or ended."""

    code = "engine"


class EngineMissingError(EngineError):
    """This host has no usable QEMU: it is missing or too old."""

    code = "engine-missing"


class EngineExitedError(EngineError):
    """QEMU has ended: the virtual machine no longer exists."""

    code = "engine-exited"


class BalloonError(EngineError):
    """The balloon cannot carry out the request: there is no device, or the target is out of range (``strict``)."""

    code = "balloon"


class ResumeError(BallonetError):
    """A paused sandbox cannot be resumed here. Its saved state was not changed."""

    code = "resume"


class GuestError(BallonetError):
    """The guest failed to boot, or failed to carry out a request."""

    code = "guest"


class GuestBootError(GuestError):
    """The guest did not report that it is ready. The message has the end of its console output."""

    code = "guest-boot"


class GuestChannelError(GuestError):
    """The guest violated the agent protocol, or the channel to it closed. The channel can no longer be used."""

    code = "guest-channel"


class GuestPausedError(GuestChannelError):
    """The sandbox was paused, which ended what its clients had started. It can be resumed."""

    code = "guest-paused"


class GuestCommandError(GuestError):
    """A command could not be started in the guest (not found, not executable, too many)."""

    code = "guest-command"

    def __init__(self, message: str, *, errno: int, hint: str | None = None, missing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        #: The command itself does not exist, as opposed to its working directory, for example.
        self.missing = missing


class CommandTimeoutError(GuestError):
    """A command exceeded its ``timeout``. It was killed with all processes that it started.

    :param timeout: the limit in seconds.
    :param stdout: the output until then, if the call collects it; likewise ``stderr``.
    """

    code = "command-timeout"
    #: As :attr:`ballonet.sandbox.ExecResult.returncode`: there is none.
    returncode: None = None

    def __init__(
        self,
        message: str,
        *,
        timeout: float | None = None,
        stdout: bytes = b"",
        stderr: bytes = b"",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.timeout = timeout
        self.stdout = stdout
        self.stderr = stderr


class GuestFileError(GuestError):
    """A file in the guest could not be read, written or copied. The message has the path and the guest's error."""

    code = "guest-file"


class ControlError(BallonetError):
    """The control socket could not be served or reached, or refused a request."""

    code = "control"


class ControlRefusedError(ControlError):
    """The control server refused the request; nothing was changed.

    :param name: the name of the error in ``docs/control-protocol.md``, such as ``out-of-range``.
    """

    code = "control-refused"

    def __init__(self, message: str, *, hint: str | None = None, name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name


class BindError(ControlError):
    """The control socket, or a port, could not be bound; the sandbox was not started."""

    code = "bind"


class BusyError(BindError):
    """A running sandbox, or another program, is listening on that socket; it was left alone."""

    code = "busy"


class PilotBusyError(BallonetError):
    """Another autopilot is running for this user; it was not changed."""

    code = "pilot-busy"


class AdmissionError(BallonetError):
    """The host does not have enough memory for the sandbox; it was not started."""

    code = "no-room"


class ImageError(BallonetError):
    """An image is damaged, malicious, for another architecture, or exceeds a limit; it is not used."""

    code = "image"


class ImageFetchError(ImageError):
    """An image could not be fetched: its registry refused, timed out, closed the connection, or sent wrong data."""

    code = "image-fetch"


class SnapshotError(BallonetError):
    """A snapshot cannot be made, is damaged, or does not fit this host."""

    code = "snapshot"


class SandboxError(BallonetError):
    """The sandbox's own process failed or ended."""

    code = "sandbox"


class StreamError(BallonetError):
    """A standard stream of this program cannot be read or written: the disk is full, or the stream is not open."""

    code = "stream"


def error_class(code: str) -> type[BallonetError]:
    """The class with this ``code``, for an error from another process; the root class if there is none."""
    known: dict[str, type[BallonetError]] = {}
    pending: list[type[BallonetError]] = [BallonetError]
    while pending:
        cls = pending.pop()
        # Others have the code of the class they are derived from, and parameters of their own.
        if "code" in vars(cls):
            known[cls.code] = cls
        pending.extend(cls.__subclasses__())
    found = known.get(code, BallonetError)
    return GuestError if found is GuestCommandError else found
