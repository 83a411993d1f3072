"""Named volumes: directories that ballonet keeps for sandboxes, below the data directory; and who uses them.

What a person writes before the colon of a volume is a directory of the host if it has a slash (or is ``.``), else
the name of such a volume.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.errors import (
    ConfigError,
    HostError,
    SettingError,
    UnknownVolumeError,
    VolumeInUseError,
    escaped,
    os_hint,
    quoted,
)
from ballonet.base.paths import data_dir, private_dir
from ballonet.base.suggest import hint_for
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import machines
from ballonet.lifecycle.registry import Registry
from ballonet.settings.flags import parse_config
from ballonet.vmm.attach import Volume, split_volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class NamedVolume:
    """A volume, and the sandboxes that have it."""

    name: str
    path: Path
    users: tuple[str, ...]


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


def ensure(volumes: Iterable[Volume]) -> None:
    """Make the named ones among ``volumes`` that are not there yet.

    :raises HostError: a directory of the host is not there, or a volume cannot be made.
    """
    from ballonet.machine.shares import check_source

    named = volumes_dir()
    for volume in volumes:
        if volume.source.parent == named:
            _make(volume.source)
        check_source(volume)


def create(name: str) -> Path:
    """Make the volume; one that is there is left as it is.

    :raises ConfigError: no volume can have that name.
    """
    return _make(path_of(name))


def list_volumes(registry: Registry) -> list[NamedVolume]:
    """All, by name."""
    users = _users(registry)
    found = sorted(path for path in volumes_dir().iterdir() if path.is_dir() and not path.is_symlink())
    return [NamedVolume(path.name, path, tuple(users.get(path, ()))) for path in found]


def remove(registry: Registry, name: str) -> None:
    """Remove the volume with all that is in it.

    :raises UnknownVolumeError: there is none of that name.
    :raises VolumeInUseError: sandboxes have it, running or not.
    """
    path = path_of(name)
    if not path.is_dir():
        known = [volume.name for volume in list_volumes(registry)]
        raise UnknownVolumeError(
            f"there is no volume named {name!r}",
            hint=hint_for(name, known, "'ballonet volume ls' lists all volumes"),
        )
    if users := _users(registry).get(path):
        raise VolumeInUseError(
            f"volume {name!r} is used by {', '.join(map(repr, users))}",
            hint=f"remove them first: ballonet rm {' '.join(users)}",
        )
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise HostError(f"volume {name!r} cannot be removed: {error}") from error


def prune(registry: Registry) -> list[str]:
    """Remove the volumes that no sandbox has; their names."""
    unused = [volume.name for volume in list_volumes(registry) if not volume.users]
    for name in unused:
        remove(registry, name)
    return unused


def _make(path: Path) -> Path:
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


def _users(registry: Registry) -> dict[Path, list[str]]:
    """The sandboxes that have each directory: by their desired configuration, and those that run with it, whether or
    not the registry knows them."""
    configs = [lifecycle.config_of(record) for record in lifecycle.list_sandboxes(registry)]
    configs += [parse_config(machine.flags) for machine in machines()]
    users: dict[Path, list[str]] = {}
    for config in configs:
        for source in {volume.source for volume in config.volumes}:
            names = users.setdefault(source, [])
            if config.name not in names:
                names.append(config.name)
    return users
