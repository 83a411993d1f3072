"""What a person writes for a volume: a directory of the host if it has a slash (or is ``.``), else the name of a volume
that ballonet keeps, below the data directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ballonet.base.errors import ConfigError, HostError, SettingError, escaped, os_hint, quoted
from ballonet.base.paths import data_dir, private_dir
from ballonet.vmm.attach import Volume, split_volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def parse_volume(text: str) -> Volume:
    """Read ``SOURCE:GUEST[:ro|rw]``, where SOURCE is a directory of the host or a volume's name.

    :raises ConfigError: it is not of that form.
    """
    try:
        source, target, mode = split_volume(text)
    except ValueError as error:
        raise SettingError(
            f"{{}} {quoted(text)} {escaped(str(error))}",
            "volume",
            hint="such as ./data:/data:ro or cache:/cache",
        ) from error
    here = "/" in source or source in (".", "..")
    path = Path(os.path.abspath(source)) if here else path_of(source)  # noqa: PTH100  # keeps links as they are
    return Volume(path, target, mode == "ro")


def path_of(name: str) -> Path:
    """Where the volume ``name`` is, whether or not it exists.

    :raises ConfigError: no volume can have that name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no volume's name",
            hint="letters, digits, '_', '.' or '-'; a directory of the host has a slash: ./data",
        )
    return volumes_dir() / name


def volumes_dir() -> Path:
    """Where volumes are: closed to other users of the host, whatever their own modes are."""
    return private_dir(data_dir() / "volumes")


def make(path: Path) -> Path:
    try:
        path.mkdir()
        path.chmod(0o755)  # whatever our umask: users of the guest other than root may look
    except FileExistsError:
        pass
    except OSError as error:
        raise HostError(
            f"volume {path.name!r} cannot be made at {path}: {error.strerror}", hint=os_hint(error, path)
        ) from error
    return path
