"""What an image is once it is here: its root, its configuration, its names. Pure, but for the two small texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ballonet.errors import ConfigError, ImageError, os_hint

#: The root file of an image, and the texts kept beside it.
ROOT_FILE, PASSWD_FILE, GROUP_FILE = "root.erofs", "passwd", "group"


@dataclass(frozen=True)
class ImageConfig:
    """How an image wants its command run (OCI image specification 1.0, ``config.config``)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    #: ``USER[:GROUP]``, names or numbers; see :func:`ballonet.images.users.resolve_user`.
    user: str | None = None
    #: Such as ``8080/tcp``. They say what the image serves; nothing is opened by them.
    exposed_ports: tuple[str, ...] = ()
    #: The signal that asks the command to end, such as ``SIGTERM``.
    stop_signal: str | None = None

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
            name, _, value = setting.partition("=")
            if name:
                env[name] = value
        ports = document.get("ExposedPorts") or {}
        if not isinstance(ports, dict):
            raise ImageError("ExposedPorts of the image's configuration is no JSON object")
        return cls(
            entrypoint=_words(document, "Entrypoint"),
            cmd=_words(document, "Cmd"),
            env=env,
            workdir=_text(document, "WorkingDir"),
            user=_text(document, "User"),
            exposed_ports=tuple(map(str, ports)),
            stop_signal=_text(document, "StopSignal"),
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

    def passwd(self) -> str:
        """The text of ``/etc/passwd`` in the root; empty where there is none."""
        return _beside(self.root, PASSWD_FILE)

    def group(self) -> str:
        """The text of ``/etc/group`` in the root; empty where there is none."""
        return _beside(self.root, GROUP_FILE)


def _beside(root: Path, name: str) -> str:
    try:
        return root.with_name(name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(
            f"{root.with_name(name)} cannot be read: {error.strerror}",
            hint=os_hint(error, root.with_name(name)),
        ) from error


def _words(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    if not isinstance(value, list) or not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ImageError(f"{name} of the image's configuration is no list of words: {value!r}"[:300])
    return tuple(value)


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name) or None
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise ImageError(f"{name} of the image's configuration is no text: {value!r}"[:300])
    return value
