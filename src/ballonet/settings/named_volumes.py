"""The text form of a volume: a host directory if it has a slash (or is ``.``), else the name of a volume that ballonet
keeps below the data directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ballonet.base.errors import ConfigError, HostError, SettingError, escaped, os_hint, quoted
from ballonet.base.paths import data_dir, private_dir
from ballonet.vmm.attach import Volume, split_volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def parse_volume(text: str) -> Volume:
    """Read ``SOURCE:GUEST[:ro|rw]``, where SOURCE is a host directory or the name of a volume.

    :raises ConfigError: the text does not have that form.
    """
    try:
        source, target, mode = split_volume(text)
    except ValueError as error:
        raise SettingError(
            f"{{}} {quoted(text)} {escaped(str(error))}",
            "volume",
            hint="for example ./data:/data:ro or cache:/cache",
        ) from error
    here = "/" in source or source in (".", "..")
    path = Path(os.path.abspath(source)) if here else path_of(source)  # noqa: PTH100  # keeps links as they are
    return Volume(path, target, mode == "ro")


def path_of(name: str) -> Path:
    """The directory of the volume ``name``, whether or not it exists.

    :raises ConfigError: ``name`` is not a valid name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid volume name",
            hint="use letters, digits, '_', '.' or '-'; a host directory needs a slash: ./data",
        )
    return volumes_dir() / name


def volumes_dir() -> Path:
    """The directory of all volumes, closed to other users of the host whatever the modes of the volumes are."""
    return private_dir(data_dir() / "volumes")


def make(path: Path) -> Path:
    try:
        path.mkdir()
        path.chmod(0o755)  # whatever the umask is: guest users other than root need access
    except FileExistsError:
        pass
    except OSError as error:
        raise HostError(
            f"cannot create volume {path.name!r} at {path}: {error.strerror}", hint=os_hint(error, path)
        ) from error
    return path
