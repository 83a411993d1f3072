"""The whole configuration of a sandbox. A configuration that exists is a valid one.

The rules of single fields and of fields together are here. Nothing here looks at the host: whether a path can be
bound or a kernel exists is checked where it is used.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from ballonet.base.arguments import check_flag, check_items, check_text, wrong_type
from ballonet.base.dataclass import dataclass
from ballonet.base.duration import MAX_SECONDS
from ballonet.base.errors import ConfigError, SettingError, escaped, quoted
from ballonet.base.memory import MAX_MIB
from ballonet.base.paths import MAX_SOCKET_PATH_BYTES
from ballonet.settings.field_types import field_types
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume, check_target
from ballonet.vmm.config import DISK_TARGET, OnIdle, VmConfig
from ballonet.vmm.net_rules import MAX_CONNECTIONS, MAX_RATE, MIN_RATE, NONE, HostPort, NetRule

#: Names are safe as file names, host names and metric label values.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: A part of a host name (RFC 1123, section 2.1), and the longest name that Linux accepts.
_HOST_PART = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
MAX_HOSTNAME = 64
#: The least memory with which the guest's kernel, its modules and the agent boot (MiB), measured.
MIN_MEMORY_MIB = 96
#: The most processors that the engine's machine types support.
MAX_CPUS = 255
#: The smallest disk that holds a file system (MiB).
MIN_DISK_MIB = 64
#: The most shared directories: the microvm machine has 24 device slots, and other devices need some of them.
MAX_VOLUMES = 16
#: The least that a guest boots with in time, and the most that has an effect.
MIN_QUOTA, MAX_QUOTA = 10, 100 * MAX_CPUS
MIN_IO_RATE, MAX_IO_RATE = 256, 1 << 30
MIN_IO_OPS, MAX_IO_OPS = 20, 10**9
#: The fields that let users other than the owner use the control socket.
ACCESS_FIELDS = (
    "balloon_allow_users",
    "balloon_allow_groups",
    "balloon_observe_users",
    "balloon_observe_groups",
)

#: The types of the parts of those items that a program may construct itself.
_PARTS: dict[type, dict[str, type]] = {
    Volume: {"source": Path, "target": str, "read_only": bool},
    Tmpfs: {"target": str},
    Port: {"host": int, "guest": int, "address": str, "protocol": str},
    NetRule: {"host": str},
    HostPort: {"port": int, "protocol": str},
}
#: The fields of what the network "user" may reach.
REACHABLE = ("net_allow", "net_deny", "net_allow_host")
#: The fields that need a network: with any of these, the default is "user".
NEED_NETWORK = ("ports", "net_allow", "net_allow_host")


@dataclass(frozen=True, kw_only=True)
class SandboxConfig(VmConfig):
    """One sandbox: its virtual machine (the fields of :class:`~ballonet.vmm.config.VmConfig`) and what runs in it.

    :raises ConfigError: on construction, naming the field and the values.
    """

    #: The image that the root is made from; ``None``: the built-in busybox root, or the file :attr:`root`.
    #: :mod:`ballonet.lifecycle.image_settings` sets ``root`` from it; where both are set, ``root`` is used.
    image: str | None = None
    #: Encrypted guest memory. Not available with a balloon: the host could not take pages back.
    confidential: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        self._check_types()
        self._check_hostname()
        _check_int("cpus", self.cpus, 1, MAX_CPUS, unit="")
        _check_int("memory_mib", self.memory_mib, MIN_MEMORY_MIB, MAX_MIB)
        self._check_balloon()
        self._check_root()
        self._check_mounts()
        self._check_network()
        self._check_lifetime()
        self._check_health()
        _check_optional("cpu_quota_percent", self.cpu_quota_percent, MIN_QUOTA, MAX_QUOTA, " %")
        _check_optional("io_rate_kib", self.io_rate_kib, MIN_IO_RATE, MAX_IO_RATE, " KiB a second")
        _check_optional("io_ops", self.io_ops, MIN_IO_OPS, MAX_IO_OPS, "")

    def named(self, name: str) -> Self:
        """This configuration with another valid name; nothing is checked again."""
        config = object.__new__(type(self))
        config.__dict__.update(self.__dict__, name=name)
        return config

    def _check_types(self) -> None:
        """Lists become tuples, and text becomes the choice that it names."""
        for field, (kind, optional, many) in field_types(SandboxConfig).items():
            value = getattr(self, field)
            if many:
                object.__setattr__(self, field, _checked_items(field, kind, value))
            elif kind is bool:
                check_flag(field, value)
            elif kind is int and not (optional and value is None):
                _check_whole(field, value)
            elif issubclass(kind, StrEnum):
                object.__setattr__(self, field, _choice(field, kind, value))
        check_text("image", self.image)
        if self.image is not None and not self.image.strip():
            raise ConfigError(f"image {self.image!r} is empty", hint="leave it out for the built-in root")
        if self.root is not None and not isinstance(self.root, Path):
            raise wrong_type("root", "a Path", self.root)

    def _check_hostname(self) -> None:
        if self.hostname == "":
            object.__setattr__(self, "hostname", None)
        if self.hostname is None:
            return
        if not isinstance(self.hostname, str):
            raise wrong_type("hostname", "text or None", self.hostname)
        right = re.fullmatch(rf"{_HOST_PART}(?:\.{_HOST_PART})*", self.hostname)
        if len(self.hostname) > MAX_HOSTNAME or right is None:
            raise SettingError(
                f"{{}} {quoted(self.hostname)} is not a host name",
                "hostname",
                hint=f"it has up to {MAX_HOSTNAME} letters, digits, '.' and '-'; each part between dots begins and "
                "ends with a letter or a digit",
            )

    def _check_health(self) -> None:
        if self.wait_port is not None:
            _check_int("wait_port", self.wait_port, 1, 65535, unit="")
        if self.health_cmd == "":
            object.__setattr__(self, "health_cmd", None)
        check_text("health_cmd", self.health_cmd)
        for field in ("health_interval_s", "health_timeout_s"):
            _check_int(field, getattr(self, field), 1, MAX_SECONDS, unit=" s")
        _check_int("health_retries", self.health_retries, 1, 1000, unit="")

    def _check_root(self) -> None:
        if self.disk_mib is not None:
            _check_int("disk_mib", self.disk_mib, MIN_DISK_MIB, MAX_MIB)
        if self.root is not None:
            if not self.root.is_absolute():
                raise SettingError(f"{{}} {quoted(str(self.root))} is not an absolute path", "root")
            if self.disk_mib is None:
                raise SettingError(
                    f"{{}} {quoted(str(self.root))} is read-only and has no {{}}: nothing could be written",
                    "root",
                    "disk_mib",
                    hint="add a disk, for example of 8G",
                )

    def _check_mounts(self) -> None:
        if len(self.volumes) > MAX_VOLUMES:
            raise ConfigError(f"{len(self.volumes)} volumes; at most {MAX_VOLUMES} are supported")
        for volume in self.volumes:
            if not volume.source.is_absolute() or set(str(volume.source)) & set(":\0\n"):
                raise SettingError(
                    f"{{}} {quoted(str(volume))}: the host's directory must be an absolute path without a colon",
                    "volume",
                )
        taken = [DISK_TARGET] if self.disk_mib is not None and self.root is None else []
        for kind, mounts in (("volume", self.volumes), ("tmpfs", self.tmpfs)):
            for mount in mounts:
                try:
                    check_target(mount.target)
                except ValueError as error:
                    raise SettingError(f"{{}} {quoted(str(mount))} {escaped(str(error))}", kind) from error
                if mount.target in taken:
                    raise SettingError(
                        f"{{}} {quoted(str(mount))}: {escaped(mount.target)} is already a mount point",
                        kind,
                    )
                taken.append(mount.target)
        for tmpfs in self.tmpfs:
            if tmpfs.size_mib is not None:
                _check_int(f"size of tmpfs {tmpfs.target}", tmpfs.size_mib, 1, MAX_MIB)

    def _check_network(self) -> None:
        if self.ports and self.net is Net.NONE:
            raise SettingError(
                f"{{}} {self.ports[0]} cannot be published without a network",
                "port",
                hint=f"choose the network {Net.USER} or {Net.ISOLATED}",
            )
        if any(rule.host == NONE for rule in self.net_deny):
            raise SettingError(
                f"{{}} {NONE} denies nothing",
                "net_deny",
                hint="to close everything, allow none (--net-allow none)",
            )
        if len(self.net_allow) > 1 and any(rule.host == NONE for rule in self.net_allow):
            raise SettingError(
                f"{{}} {NONE} cannot be combined with other rules that allow something", "net_allow"
            )
        for field in REACHABLE:
            for item in getattr(self, field):
                if self.net is not Net.USER:
                    raise SettingError(
                        f"{{}} {item} has no effect with the network {self.net}",
                        field,
                        hint=f"choose the network {Net.USER}",
                    )
                try:
                    item.check()
                except ValueError as error:
                    raise SettingError(f"{{}} {quoted(str(item))} {escaped(str(error))}", field) from error
        self._check_limits()
        taken = set()
        for port in self.ports:
            try:
                port.check()
            except ValueError as error:
                raise SettingError(f"{{}} {port} {escaped(str(error))}", "port") from error
            if ":" in port.address and self.net is not Net.USER:
                raise SettingError(
                    f"{{}} {port}: an IPv6 address needs the network {Net.USER}, not {self.net}", "port"
                )
            key = (port.address, port.host, port.protocol)
            if key in taken and port.host != 0:
                raise SettingError(f"{{}} {port}: {port.place} is published twice", "port")
            taken.add(key)

    def _check_limits(self) -> None:
        limits = {"net_rate_kib": self.net_rate_kib is not None}
        limits["net_connections"] = self.net_connections != MAX_CONNECTIONS
        for field in (field for field, given in limits.items() if given):
            if self.net is not Net.USER:
                raise SettingError(
                    f"{{}} {getattr(self, field)} has no effect with the network {self.net}",
                    field,
                    hint=f"choose the network {Net.USER}",
                )
        if self.net_rate_kib is not None:
            _check_int("net_rate_kib", self.net_rate_kib, MIN_RATE, MAX_RATE, unit=" KiB a second")
        _check_int("net_connections", self.net_connections, 1, MAX_CONNECTIONS, unit="")

    def _check_lifetime(self) -> None:
        for field in ("ttl_s", "idle_timeout_s"):
            if getattr(self, field) is not None:
                _check_int(field, getattr(self, field), 1, MAX_SECONDS, unit=" s")
        if self.pausable and self.volumes:
            raise SettingError(
                f"{{}} is impossible with {{}} {self.volumes[0]}: a sandbox with volumes cannot be saved",
                "pausable",
                "volumes",
                hint="leave out one of them",
            )
        if self.idle_timeout_s is not None and self.on_idle is OnIdle.PAUSE and self.volumes:
            raise SettingError(
                f"{{}} {self.idle_timeout_s} s cannot pause a sandbox with volumes, which cannot be saved",
                "idle_timeout_s",
                hint="stop it instead (on idle: stop), or leave out the volumes",
            )

    def _check_balloon(self) -> None:
        ceiling, initial, floor = self.memory_mib, self.balloon_initial_mib, self.balloon_min_mib
        if initial is not None:
            _check_int("balloon_initial_mib", initial, 1, MAX_MIB)
            _check_not_above("balloon_initial_mib", initial, "memory_mib", ceiling)
        if floor is not None:
            _check_int("balloon_min_mib", floor, 0, MAX_MIB)
            _check_not_above("balloon_min_mib", floor, "memory_mib", ceiling)
            if initial is not None:
                _check_not_above("balloon_min_mib", floor, "balloon_initial_mib", initial)
        if self.guard_mib is not None:
            _check_int("guard_mib", self.guard_mib, 0, MAX_MIB)
            _check_not_above("guard_mib", self.guard_mib, "memory_mib", ceiling)
        others = {field: getattr(self, field) for field in ACCESS_FIELDS if getattr(self, field)}
        for field, ids in others.items():
            for number in ids:
                _check_int(field, number, 0, 2**32 - 2, unit="")
        if others and self.balloon_control_socket is None:
            raise SettingError(
                f"{', '.join(['{}'] * len(others))}: other users cannot reach a control socket in the sandbox's own "
                "directory",
                *others,
                hint="give the control socket a path in a directory that those users can access",
            )
        if self.balloon_control_socket is not None:
            check_socket_name(self.balloon_control_socket)
        if self.confidential and self.has_balloon:
            raise ConfigError(
                "confidential cannot be combined with a balloon: the host cannot take back encrypted memory",
                hint="leave out confidential, or all balloon settings",
            )
        if self.confidential:
            raise ConfigError("confidential guests are not supported yet")


def check_name(name: str, field: str | None = None) -> None:
    """Check a sandbox's name.

    :param field: the setting to name in the message.
    :raises ConfigError: ``name`` is not a valid name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name) if len(repr(name)) <= 80 else f"{repr(name)[:60]}… ({len(name)} characters)"
        hint = "use 1 to 63 letters, digits, '_', '.' or '-', the first a letter or digit"
        if field is not None:
            raise SettingError(f"{{}} {escaped(shown)} is not valid", field, hint=hint)
        raise ConfigError(f"name {shown} is not valid", hint=hint)


def check_socket_name(path: Path | str) -> None:
    """:raises ConfigError: ``path`` is empty, or longer than the address of a Unix socket can be."""
    if not isinstance(path, str | Path):
        raise SettingError(
            f"{{}} must be a path, not {type(path).__name__} ({quoted(path)})", "balloon_control_socket"
        )
    encoded = os.fsencode(path)
    if not encoded or encoded == b".":  # Path("") reads as "."
        raise SettingError(
            "{} is empty", "balloon_control_socket", hint="give a path, for example ./sandbox.sock"
        )
    if b"\0" in encoded:
        raise SettingError(f"{{}} {quoted(path)} contains a NUL byte", "balloon_control_socket")
    if len(encoded) > MAX_SOCKET_PATH_BYTES:
        raise SettingError(
            f"{{}} is {len(encoded)} bytes long; the path of a Unix socket has at most {MAX_SOCKET_PATH_BYTES}",
            "balloon_control_socket",
            hint="choose a directory with a shorter path",
        )


def _checked_items(field: str, kind: type, value: object) -> tuple[Any, ...]:
    items = check_items(field, value)
    for item in items:
        if not isinstance(item, kind) or isinstance(item, bool):
            wanted = "a number" if kind is int else f"a {kind.__name__}"
            raise wrong_type(f"each of {field}", wanted, item)
        for part, of in _PARTS.get(kind, {}).items():
            value = getattr(item, part)
            if not isinstance(value, of) or (of is int and isinstance(value, bool)):
                raise wrong_type(f"{part} of a {kind.__name__}", f"of type {of.__name__}", value)
    return items


def _choice(field: str, kind: type[StrEnum], value: object) -> StrEnum:
    if not isinstance(value, str) or value not in list(kind):
        raise SettingError(f"{{}} {quoted(value)} is unknown; choose one of {', '.join(kind)}", field)
    return kind(value)


def _check_whole(field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingError(
            f"{{}} must be a whole number, not {type(value).__name__} ({quoted(value)})", field
        )
    return value


def _check_int(field: str, value: object, least: int, most: int, *, unit: str = " MiB") -> None:
    value = _check_whole(field, value)
    if not least <= value <= most:
        raise SettingError(f"{{}} {value}{unit} is outside {least} to {most}{unit}", field)


def _check_optional(field: str, value: int | None, least: int, most: int, unit: str) -> None:
    if value is not None:
        _check_int(field, value, least, most, unit=unit)


def _check_not_above(field: str, value: int, limit_field: str, limit: int) -> None:
    if value > limit:
        raise SettingError(f"{{}} {value} MiB must not exceed {{}} {limit} MiB", field, limit_field)
