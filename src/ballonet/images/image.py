"""A local image: its root, configuration and names. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import dataclass, field
from ballonet.base.errors import ConfigError, ImageError

#: The root file of an image.
ROOT_FILE = "root.erofs"
#: The range of real-time signals for programs in a guest (signal(7), glibc), as in Docker.
_SIGRTMIN, _SIGRTMAX = 34, 64


@dataclass(frozen=True)
class ImageConfig:
    """How an image's command is run (OCI image specification 1.0, ``config.config``)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    #: ``USER[:GROUP]``, names or numbers; see :func:`ballonet.images.users.check_user`.
    user: str | None = None
    #: For example ``8080/tcp``. Informational: no port is published because of it.
    exposed_ports: tuple[str, ...] = ()
    #: The signal that stops the command, for example ``SIGTERM``; see :func:`signal_number`.
    stop_signal: str | None = None
    #: Directories for data; they exist in the root even if no layer has them.
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def command(
        self, words: tuple[str, ...] = (), *, entrypoint: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """The command line: the entrypoint, followed by ``words`` or, without these, by the image's ``cmd``.

        :param entrypoint: replaces the image's entrypoint and discards its ``cmd``, as in Docker.
        """
        if entrypoint is not None:
            return entrypoint + words
        return self.entrypoint + (words or self.cmd)

    def to_json(self) -> dict[str, Any]:
        """The form that the specification defines and :meth:`from_json` reads."""
        return {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "WorkingDir": self.workdir or "",
            "User": self.user or "",
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "StopSignal": self.stop_signal or "",
            "Volumes": {path: {} for path in self.volumes},
            "Labels": dict(self.labels),
        }

    @classmethod
    def from_json(cls, document: Any) -> ImageConfig:
        """Read ``config.config`` of an image. Missing and null mean empty; unknown fields are ignored.

        :raises ImageError: the type of a field does not match the specification.
        """
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise ImageError("the image's configuration is not a JSON object")
        env = {}
        for setting in _words(document, "Env"):
            name, equals, value = setting.partition("=")
            if equals and name:
                env[name] = value
            else:
                env.pop(name, None)  # as in Docker: a name without a value unsets the variable
        entrypoint = _words(document, "Entrypoint")
        return cls(
            # Docker's API writes "none" as one empty word.
            entrypoint=() if entrypoint == ("",) else entrypoint,
            cmd=_words(document, "Cmd"),
            env=env,
            workdir=_text(document, "WorkingDir"),
            user=_text(document, "User"),
            exposed_ports=tuple(_object(document, "ExposedPorts")),
            stop_signal=_text(document, "StopSignal"),
            volumes=tuple(_object(document, "Volumes")),
            labels={name: str(value) for name, value in _object(document, "Labels").items()},
        )


@dataclass(frozen=True)
class Image:
    """A complete local image, whose root sandboxes can use.

    ``id`` is the digest of the image's configuration (``sha256:…``), which identifies the configuration and the content
    of all layers; for a directory (``--rootfs``) it is a digest of the status of its files.
    """

    id: str
    #: The merged root: one read-only erofs file, shared by all sandboxes that use the image.
    root: Path
    config: ImageConfig
    #: The full references to this image.
    names: tuple[str, ...]
    #: Size of the root file (bytes).
    size_bytes: int
    #: When it was created locally (unix seconds).
    created_at: float
    architecture: str = "amd64"
    #: The digest of its manifest; ``None`` for a directory.
    manifest: str | None = None


def signal_number(text: str) -> int:
    """The number of a signal: ``SIGTERM``, ``TERM``, ``15``, ``SIGRTMIN+3``, ``RTMAX-1``, in any case.

    :raises ConfigError: there is no such signal.
    """
    name = text.strip().upper().removeprefix("SIG")
    number = 0
    if name.isascii() and name.isdecimal() and len(name) <= 3:
        number = int(name)
    elif name.startswith("RTMIN"):
        number = _offset(_SIGRTMIN, name.removeprefix("RTMIN"), "+")
    elif name.startswith("RTMAX"):
        number = _offset(_SIGRTMAX, name.removeprefix("RTMAX"), "-")
    elif name in {"CLD", "POLL", "IOT", "STKFLT"}:
        number = {"CLD": 17, "POLL": 29, "IOT": 6, "STKFLT": 16}[name]
    elif f"SIG{name}" in signal.Signals.__members__:
        number = signal.Signals[f"SIG{name}"]
    if not 1 <= number <= _SIGRTMAX:
        raise ConfigError(
            f"unknown signal {text[:64]!r}",
            hint="for example SIGTERM, INT, 15 or SIGRTMIN+3 (see signal(7))",
        )
    return number


def image_id_of(root: Path) -> str:
    """The id of the image with this root file, taken from the name of its directory."""
    return f"sha256:{root.parent.name}"


def _offset(base: int, rest: str, sign: str) -> int:
    """``base`` plus ``rest``, for example ``+3``; 0 if that is not a real-time signal."""
    if rest == "":
        return base
    if rest[0] != sign or not rest[1:].isascii() or not rest[1:].isdecimal() or len(rest) > 3:
        return 0
    number = base + int(rest)
    return number if _SIGRTMIN <= number <= _SIGRTMAX else 0


def _words(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ImageError(f"{name} of the image's configuration is not a list of strings: {value!r}"[:300])
    return tuple(value)


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise ImageError(f"{name} of the image's configuration is not a JSON object")
    return value


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name) or None
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise ImageError(f"{name} of the image's configuration is not a string: {value!r}"[:300])
    return value
