"""What an image is once it is here: its root, its configuration, its names. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError, ImageError

#: The root file of an image.
ROOT_FILE = "root.erofs"
#: Where real-time signals begin and end for the programs of a guest (signal(7), glibc), as in Docker.
_SIGRTMIN, _SIGRTMAX = 34, 64


@dataclass(frozen=True)
class ImageConfig:
    """How an image wants its command run (OCI image specification 1.0, ``config.config``)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    #: ``USER[:GROUP]``, names or numbers; see :func:`ballonet.images.users.check_user`.
    user: str | None = None
    #: Such as ``8080/tcp``. They say what the image serves; nothing is opened by them.
    exposed_ports: tuple[str, ...] = ()
    #: The signal that asks the command to end, such as ``SIGTERM``; see :func:`signal_number`.
    stop_signal: str | None = None
    #: Directories for data: they are there even if no layer has them.
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def command(
        self, words: tuple[str, ...] = (), *, entrypoint: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """What is run: the entrypoint, then ``words``, or the image's own ``cmd`` where there are none.

        :param entrypoint: takes the place of the image's entrypoint, and drops its ``cmd``, as in Docker.
        """
        if entrypoint is not None:
            return entrypoint + words
        return self.entrypoint + (words or self.cmd)

    def to_json(self) -> dict[str, Any]:
        """The form that :meth:`from_json` reads: the specification's own."""
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
        """Read ``config.config`` of an image; absent and null stand for empty, unknown fields are passed over.

        :raises ImageError: a field is of another type than the specification says.
        """
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise ImageError("the image's configuration is no JSON object")
        env = {}
        for setting in _words(document, "Env"):
            name, equals, value = setting.partition("=")
            if equals and name:
                env[name] = value
            else:
                env.pop(name, None)  # as in Docker: a name alone is a variable that is not there
        entrypoint = _words(document, "Entrypoint")
        return cls(
            # One empty word is how Docker's interface writes "none".
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
    """An image that is here, whole: its root can be given to sandboxes.

    ``id`` is the digest of the image's configuration (``sha256:…``), which names the configuration and, by it, the
    content of every layer; for a directory (``--rootfs``) the digest of what the directory looked like.
    """

    id: str
    #: The flattened root: one read-only erofs file, shared by all sandboxes of that id.
    root: Path
    config: ImageConfig
    #: The references that lead here, in full.
    names: tuple[str, ...]
    #: Bytes of the root file.
    size_bytes: int
    #: When it was made here (unix seconds).
    created_at: float
    architecture: str = "amd64"
    #: The digest of the manifest that it came with; ``None`` for a directory.
    manifest: str | None = None


def signal_number(text: str) -> int:
    """The number of a signal: ``SIGTERM``, ``TERM``, ``15``, ``SIGRTMIN+3``, ``RTMAX-1``, in capitals or not.

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
            f"there is no signal {text[:64]!r}",
            hint="for example SIGTERM, INT, 15 or SIGRTMIN+3 (see signal(7))",
        )
    return number


def image_id_of(root: Path) -> str:
    """The id of the image whose root file that is: its directory has the name."""
    return f"sha256:{root.parent.name}"


def _offset(base: int, rest: str, sign: str) -> int:
    """``base``, moved by ``rest``, such as ``+3``; 0 if that is no real-time signal."""
    if rest == "":
        return base
    if rest[0] != sign or not rest[1:].isascii() or not rest[1:].isdecimal() or len(rest) > 3:
        return 0
    number = base + int(rest)
    return number if _SIGRTMIN <= number <= _SIGRTMAX else 0


def _words(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ImageError(f"{name} of the image's configuration is no list of words: {value!r}"[:300])
    return tuple(value)


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise ImageError(f"{name} of the image's configuration is no JSON object")
    return value


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name) or None
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise ImageError(f"{name} of the image's configuration is no text: {value!r}"[:300])
    return value
