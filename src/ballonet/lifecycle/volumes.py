"""Named volumes: directories that ballonet manages for sandboxes. Creates, lists and removes them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ballonet.base.dataclass import dataclass
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
    """A volume, and the sandboxes that use it."""

    name: str
    path: Path
    users: tuple[str, ...]


def create(name: str) -> Path:
    """Create a volume. An existing one is not changed.

    :raises ConfigError: the name is not valid.
    """
    return make(path_of(name))


def list_volumes(registry: Registry) -> list[NamedVolume]:
    """All volumes, sorted by name."""
    users, _ = _users(registry)
    found = sorted(path for path in volumes_dir().iterdir() if path.is_dir() and not path.is_symlink())
    return [NamedVolume(path.name, path, tuple(users.get(path, ()))) for path in found]


def remove(registry: Registry, name: str) -> None:
    """Remove a volume and its content.

    :raises UnknownVolumeError: there is no volume with that name.
    :raises VolumeInUseError: sandboxes use it, running or not.
    :raises RegistryError: a row of the registry cannot be read: its sandbox may use the volume.
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
    """Remove the volumes that no sandbox uses; returns their names.

    :raises RegistryError: a row of the registry cannot be read: its sandbox may use any volume.
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
    """The sandboxes that use each directory, and the sandboxes whose directories are unknown.

    A sandbox uses those of its desired and of its running configuration, whether or not it is registered.
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
