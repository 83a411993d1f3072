"""Named volumes: directories that ballonet keeps for sandboxes; made, listed, removed, and who uses them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.errors import (
    HostError,
    RegistryError,
    UnknownVolumeError,
    VolumeInUseError,
)
from ballonet.base.suggest import hint_for
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import machines
from ballonet.lifecycle.record import Record, unreadable_hint
from ballonet.lifecycle.registry import Registry
from ballonet.settings.flags import parse_config
from ballonet.settings.named_volumes import make, path_of, volumes_dir


@dataclass(frozen=True)
class NamedVolume:
    """A volume, and the sandboxes that have it."""

    name: str
    path: Path
    users: tuple[str, ...]


def create(name: str) -> Path:
    """Make the volume; one that is there is left as it is.

    :raises ConfigError: no volume can have that name.
    """
    return make(path_of(name))


def list_volumes(registry: Registry) -> list[NamedVolume]:
    """All, by name."""
    users, _ = _users(registry)
    found = sorted(path for path in volumes_dir().iterdir() if path.is_dir() and not path.is_symlink())
    return [NamedVolume(path.name, path, tuple(users.get(path, ()))) for path in found]


def remove(registry: Registry, name: str) -> None:
    """Remove the volume with all that is in it.

    :raises UnknownVolumeError: there is none of that name.
    :raises VolumeInUseError: sandboxes have it, running or not.
    :raises RegistryError: a row of the registry cannot be read, so that its sandbox may have it.
    """
    path = path_of(name)
    if not path.is_dir():
        known = [volume.name for volume in list_volumes(registry)]
        raise UnknownVolumeError(
            f"there is no volume named {name!r}",
            hint=hint_for(name, known, "'ballonet volume ls' lists all volumes"),
        )
    users_of, unknown = _users(registry)
    if users := users_of.get(path):
        raise VolumeInUseError(
            f"volume {name!r} is used by {', '.join(map(repr, users))}",
            hint=f"remove them first: ballonet rm {' '.join(users)}",
        )
    if unknown:
        raise _may_be_used(unknown[0])
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise HostError(f"volume {name!r} cannot be removed: {error}") from error


def prune(registry: Registry) -> list[str]:
    """Remove the volumes that no sandbox has; their names.

    :raises RegistryError: a row of the registry cannot be read: which volumes its sandbox has is unknown.
    """
    _, unknown = _users(registry)
    if unknown:
        raise _may_be_used(unknown[0])
    unused = [volume.name for volume in list_volumes(registry) if not volume.users]
    for name in unused:
        remove(registry, name)
    return unused


def _may_be_used(record: Record) -> RegistryError:
    return RegistryError(
        f"no volume was removed: the registry's row of sandbox {record.name!r} cannot be read, so that it may use any "
        f"of them: {record.unreadable}",
        hint=unreadable_hint(record.name),
    )


def _users(registry: Registry) -> tuple[dict[Path, list[str]], list[Record]]:
    """The sandboxes that have each directory, and the sandboxes of which that is unknown.

    A sandbox has those of its desired configuration, and those that it runs with, whether or not it is registered.
    """
    configs = []
    unknown = []
    for record in lifecycle.list_sandboxes(registry):
        try:
            configs.append(lifecycle.config_of(record))
        except RegistryError:
            unknown.append(record)
    configs += [parse_config(machine.flags) for machine in machines()]
    users: dict[Path, list[str]] = {}
    for config in configs:
        for source in {volume.source for volume in config.volumes}:
            names = users.setdefault(source, [])
            if config.name not in names:
                names.append(config.name)
    return users, unknown
