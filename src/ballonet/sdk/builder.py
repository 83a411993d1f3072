"""SandboxBuilder: the fluent interface to a :class:`~ballonet.settings.config.SandboxConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from ballonet.base.memory import Size
from ballonet.base.quota import Quota
from ballonet.sdk.signatures import takes_settings
from ballonet.settings.building import build_config, set_fields
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import SETTINGS, BuilderSettings
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume
from ballonet.vmm.config import Accel, Machine
from ballonet.vmm.net_rules import HostPort, NetRule


class SandboxBuilder:
    """Collects settings; :meth:`build` checks them together and reports those that are impossible.

    >>> SandboxBuilder("box").memory("1G").balloon(initial=512, min=256).build().balloon_min_mib
    256
    """

    def __init__(self, name: str) -> None:
        self._fields: dict[str, Any] = {"name": name}

    @takes_settings(BuilderSettings)
    def set(self, **settings: Unpack[BuilderSettings]) -> Self:
        """Set any settings by name; the other methods set some of them. A list replaces the one set before.

        :param settings: generated
        """
        return self._set(settings)

    def image(self, image: str | None) -> Self:
        """The image to make the root from; ``None``: the built-in root."""
        return self._set({"image": image})

    def cpus(self, count: int) -> Self:
        """The number of processors."""
        return self._set({"cpus": count})

    def memory(self, ceiling: Size) -> Self:
        """The ceiling."""
        return self._set({"memory": ceiling})

    def balloon(
        self,
        initial: Size | None = None,
        min: Size | None = None,  # the public name of this parameter
        control_socket: str | Path | None = None,
    ) -> Self:
        """Give the sandbox a balloon. Each part is optional, and only the parts given are set."""
        parts = {
            "balloon_initial": initial,
            "balloon_min": min,
            "balloon_control_socket": control_socket,
        }
        return self._set({name: value for name, value in parts.items() if value is not None})

    def deflate_on_oom(self, on: bool = True) -> Self:
        """Whether the guest may take memory back from the balloon before its kernel kills a process."""
        return self._set({"deflate_on_oom": on})

    def free_page_reporting(self, on: bool = True) -> Self:
        """Whether the guest reports freed pages, so that the host gets them back."""
        return self._set({"free_page_reporting": on})

    def guard(self, available: Size) -> Self:
        """Available memory that a shrink leaves to the guest unless forced; 0: none."""
        return self._set({"guard": available})

    def pressure_relief(self, on: bool = True) -> Self:
        """Whether a guest that stalls for lack of memory gets memory back."""
        return self._set({"pressure_relief": on})

    def hard_cap(self, on: bool = True) -> Self:
        """Whether the host enforces the target with a cgroup."""
        return self._set({"hard_cap": on})

    def cpu_quota(self, processors: Quota) -> Self:
        """The processor time that the sandbox may use: processors, or text such as ``"150%"``; 0: no limit."""
        return self._set({"cpu_quota": processors})

    def io_rate(self, rate: Size) -> Self:
        """The most that all its disks together read and write: MiB in a second, or text such as ``"512K"``; 0: no
        limit."""
        return self._set({"io_rate": rate})

    def io_ops(self, operations: int) -> Self:
        """The most operations of all its disks together in a second; 0: no limit."""
        return self._set({"io_ops": operations})

    def control_access(
        self,
        *,
        allow_users: Sequence[int] = (),
        allow_groups: Sequence[int] = (),
        observe_users: Sequence[int] = (),
        observe_groups: Sequence[int] = (),
    ) -> Self:
        """Let other users and groups (IDs) use the control socket: to read and set, or only to read."""
        return self._set(
            {
                "allow_users": allow_users,
                "allow_groups": allow_groups,
                "observe_users": observe_users,
                "observe_groups": observe_groups,
            }
        )

    def disk(self, size: Size) -> Self:
        """The size of the writable disk, which takes space on the host only as it is filled."""
        return self._set({"disk": size})

    def volume(self, *volumes: str | Volume) -> Self:
        """Add host directories or named volumes to mount in the guest: ``SOURCE:GUEST[:ro]``."""
        return self._add("volumes", volumes)

    def tmpfs(self, *places: str | Tmpfs) -> Self:
        """Add directories in the guest that are kept in its memory: ``PATH[:SIZE]``."""
        return self._add("tmpfs", places)

    def net(self, net: Net | str) -> Self:
        """What the guest can reach: ``none``, ``user`` or ``isolated``."""
        return self._set({"net": net})

    def publish(self, *ports: str | Port) -> Self:
        """Add guest ports to publish on the host: ``[ADDRESS:]HOST:GUEST[/tcp|udp]``. The network is then ``user``
        unless another is chosen."""
        return self._add("ports", ports)

    def net_allow(self, *rules: str | NetRule) -> Self:
        """Allow connections to ``HOST[:PORT[-PORT]][/tcp|udp|icmp]``, and to nothing that is not allowed."""
        return self._add("net_allow", rules)

    def net_deny(self, *rules: str | NetRule) -> Self:
        """Deny connections to ``HOST[:PORT[-PORT]][/tcp|udp|icmp]``, even if they are allowed."""
        return self._add("net_deny", rules)

    def net_rate(self, rate: Size) -> Self:
        """The most that the guest may send, and the most that it may receive: MiB in a second, or text such as
        ``"512K"``; 0: no limit."""
        return self._set({"net_rate": rate})

    def net_connections(self, most: int) -> Self:
        """How many connections of the guest may exist at once."""
        return self._set({"net_connections": most})

    def net_allow_host(self, *ports: str | HostPort) -> Self:
        """Let the guest reach ports of the host's loopback, at the gateway's address: ``PORT[/tcp|udp]``."""
        return self._add("net_allow_host", ports)

    def confidential(self, on: bool = True) -> Self:
        """Whether the guest's memory is encrypted; not supported yet."""
        self._fields["confidential"] = on
        return self

    def machine(self, machine: Machine | str) -> Self:
        """The engine's machine type."""
        return self._set({"machine": machine})

    def accel(self, accel: Accel | str) -> Self:
        """KVM, software emulation, or the best that the host has."""
        return self._set({"accel": accel})

    def build(self) -> SandboxConfig:
        """:raises ConfigError: a setting, or a pair of them, is impossible; the message names both values."""
        return build_config(self._fields)

    def _add(self, name: str, items: Sequence[Any]) -> Self:
        return self._set({name: (*self._fields.get(SETTINGS[name].field, ()), *items)})

    def _set(self, settings: Any) -> Self:
        """:param settings: values by the names of their settings."""
        set_fields(self._fields, settings)
        return self


__all__ = ["SandboxBuilder", "Size"]
