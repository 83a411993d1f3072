"""Every error that ballonet raises: one root, leaves that say what the caller may conclude.

Each class has a stable ``code`` (for programs) and each instance a message that says what happened with the
values, and, where a person can act, a ``hint``. Code outside this file raises these classes, never bare ones.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import ClassVar


def os_hint(error: OSError, path: object) -> str | None:
    """What a person can do about a failed system call on ``path``; ``None`` where the cause says nothing more."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = path.parent if isinstance(path, PurePath) else path  # what was to be written is not there
        return f"make room on the file system of {place}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"give this user access to {path}, or run as a user who has it"
    if error.errno == errno.EROFS:
        return f"the file system of {path} is mounted read-only: choose a place on another one"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open: raise the limit (ulimit -n), or close some"
    return None


class BallonetError(Exception):
    """Root of all errors of this package.

    :param message: what happened, with the values.
    :param hint: what a person can do about it, or ``None``.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BallonetError):
    """The caller asked for something impossible; nothing was started."""

    code = "config"


class SettingError(ConfigError):
    """Settings are impossible, each alone or together. The message names them as whoever reads it knows them.

    :param template: the message, with ``{}`` where a setting's name belongs.
    :param fields: the settings, in that order: names of fields of a configuration.
    """

    def __init__(self, template: str, *fields: str, hint: str | None = None) -> None:
        super().__init__(template.format(*fields), hint=hint)
        self.template = template
        self.fields = fields

    def named(self, names: Mapping[str, str]) -> SettingError:
        """The same error in other words: the option that was typed, or a function's parameter. A setting that
        ``names`` does not have keeps its name."""
        error = type(self)(self.template, *self.fields, hint=self.hint)
        error.message = self.template.format(*(names.get(field, field) for field in self.fields))
        error.args = (error.message,)
        return error


def escaped(text: str) -> str:
    """``text`` as a part of the template of a :class:`SettingError`."""
    return text.replace("{", "{{").replace("}", "}}")


def quoted(value: object) -> str:
    """``value`` in quotes, as a part of such a template."""
    return escaped(repr(value))


class NameInUseError(ConfigError):
    """There is a sandbox of that name already; it was left alone."""

    code = "name-in-use"


class UnknownSandboxError(ConfigError):
    """There is no sandbox of that name."""

    code = "unknown-sandbox"


class NotRunningError(ConfigError):
    """The sandbox exists but does not run, and what was asked needs it to."""

    code = "not-running"


class SandboxClosedError(ConfigError):
    """The ``Sandbox`` object was closed; the sandbox itself may go on if it is detached."""

    code = "closed"


class EventLoopError(ConfigError):
    """A call came from an event loop, a thread or a process in which the object cannot be used; nothing was done."""

    code = "event-loop"


class StillRunningError(ConfigError):
    """The sandbox runs, and what was asked needs it not to."""

    code = "still-running"


class UnknownVolumeError(ConfigError):
    """There is no volume of that name."""

    code = "unknown-volume"


class VolumeInUseError(ConfigError):
    """Sandboxes have the volume; it was left alone. The message names them."""

    code = "volume-in-use"


class UnknownImageError(ConfigError):
    """There is no image of that name here, and none was or could be fetched."""

    code = "unknown-image"


class ImageInUseError(ConfigError):
    """Sandboxes use the image; it was left alone. The message names them."""

    code = "image-in-use"


class HostError(BallonetError):
    """The host lacks something that is needed (a program, a directory, a permission)."""

    code = "host"


class RegistryError(HostError):
    """The registry of sandboxes cannot be used; it was left as it is."""

    code = "registry"


class ProcessError(HostError):
    """A helper program could not be run or failed; the message carries its status and last words."""

    code = "process"


class EngineError(BallonetError):
    """QEMU could not be started, refused a command, or ended."""

    code = "engine"


class EngineMissingError(EngineError):
    """There is no usable QEMU on this host: absent, or too old."""

    code = "engine-missing"


class EngineExitedError(EngineError):
    """QEMU has ended, so the virtual machine no longer exists."""

    code = "engine-exited"


class BalloonError(EngineError):
    """The balloon cannot do what was asked (no device, target outside the range with ``strict``)."""

    code = "balloon"


class GuestError(BallonetError):
    """The guest failed to boot, or did not do what was asked."""

    code = "guest"


class GuestBootError(GuestError):
    """The guest never reported that it is ready; the message carries the end of its console."""

    code = "guest-boot"


class GuestChannelError(GuestError):
    """The guest broke the agent protocol, or the channel to it closed. The channel is not usable any more."""

    code = "guest-channel"


class GuestCommandError(GuestError):
    """A command could not be started in the guest (not found, not executable, too many)."""

    code = "guest-command"

    def __init__(self, message: str, *, errno: int, hint: str | None = None, missing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        #: The command itself does not exist (and not its working directory, for example).
        self.missing = missing


class CommandTimeoutError(GuestError):
    """A command ran longer than its ``timeout``; it and everything that it started was killed.

    :param timeout: the limit in seconds.
    :param stdout: what the command had written, where the call collects it; so is ``stderr``.
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
    """A file of the guest could not be read, written or copied; the message has the path and the guest's words."""

    code = "guest-file"


class ControlError(BallonetError):
    """The control socket could not be served or reached, or refused a request."""

    code = "control"


class ControlRefusedError(ControlError):
    """The control server answered, and refused: nothing was changed.

    :param name: the refusal's name in ``docs/control-protocol.md``, such as ``out-of-range``.
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
    """Another autopilot drives the user's sandboxes; it was left alone."""

    code = "pilot-busy"


class AdmissionError(BallonetError):
    """The host has no room for the sandbox; it was not started."""

    code = "no-room"


class ImageError(BallonetError):
    """An image is damaged, hostile, for another machine, or above a limit; nothing of it is used."""

    code = "image"


class ImageFetchError(ImageError):
    """An image could not be fetched: its registry refused, stalled, dropped the connection or sent something else."""

    code = "image-fetch"


class SandboxError(BallonetError):
    """The sandbox's own process failed or ended."""

    code = "sandbox"


class StreamError(BallonetError):
    """One of our own standard streams cannot be read or written: its disk is full, or it is not open for that."""

    code = "stream"


def missing_module(error: ImportError, what: str) -> HostError:
    """The error for something that needs a Python module which is not there.

    :param what: what cannot be done: a clause.
    """
    name = (error.name or "").partition(".")[0]
    if name in sys.stdlib_module_names:
        return HostError(
            f"{what}: this Python was built without its module {name}", hint="use another Python"
        )
    package = _PACKAGES.get(name, name)
    return HostError(
        f"{what}: the Python package {package} is not installed, or damaged ({error})",
        hint=_install_hint(name, package),
    )


def _install_hint(name: str, package: str) -> str:
    import sysconfig

    # pip refuses to install into a Python that belongs to the distribution (PEP 668).
    marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix != sys.base_prefix or not marker.exists():
        return f"pip install {package}, into the environment of {sys.executable}"
    if name in _DEBIAN_PACKAGES:
        return f"apt-get install {_DEBIAN_PACKAGES[name]}"
    return f"install ballonet into a virtual environment: {sys.executable} does not take pip's packages"


#: Python packages by their modules, where the names differ.
_PACKAGES = {"qemu": "qemu.qmp", "prometheus_client": "prometheus-client"}
#: Debian's packages of modules, where those of every supported release will do.
_DEBIAN_PACKAGES = {"lz4": "python3-lz4", "zstandard": "python3-zstandard"}


def error_class(code: str) -> type[BallonetError]:
    """The class whose ``code`` this is, for an error that comes from another process; the root if unknown."""
    known: dict[str, type[BallonetError]] = {}
    pending: list[type[BallonetError]] = [BallonetError]
    while pending:
        cls = pending.pop()
        known[cls.code] = cls
        pending.extend(cls.__subclasses__())
    found = known.get(code, BallonetError)
    return GuestError if found is GuestCommandError else found
