"""SandboxBuilder: the fluent way to a :class:`~ballonet.settings.config.SandboxConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ballonet.base.arguments import check_items, check_path
from ballonet.base.errors import SettingError
from ballonet.base.memory import Size, parse_size
from ballonet.settings.config import SandboxConfig
from ballonet.settings.items import read_items
from ballonet.settings.names import PARAMETERS
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume
from ballonet.vmm.config import Accel, Machine


class SandboxBuilder:
    """Collects settings; :meth:`build` checks them, together, and says what does not fit.

    >>> SandboxBuilder("box").memory("1G").balloon(initial=512, min=256).build().balloon_min_mib
    256
    """

    def __init__(self, name: str) -> None:
        self._fields: dict[str, Any] = {"name": name}

    def image(self, image: str | None) -> Self:
        return self._set(image=image)

    def cpus(self, count: int) -> Self:
        return self._set(cpus=count)

    def memory(self, ceiling: Size) -> Self:
        """The ceiling."""
        return self._set(memory_mib=_mib(ceiling, "memory_mib"))

    def balloon(
        self,
        initial: Size | None = None,
        min: Size | None = None,  # the contract's name for it
        control_socket: str | Path | None = None,
    ) -> Self:
        """Give the sandbox a balloon; each part is optional, and only the parts given are set."""
        if initial is not None:
            self._set(balloon_initial_mib=_mib(initial, "balloon_initial_mib"))
        if min is not None:
            self._set(balloon_min_mib=_mib(min, "balloon_min_mib"))
        if control_socket is not None:
            check_path("balloon_control_socket", control_socket)
            self._set(balloon_control_socket=Path(control_socket))
        return self

    def deflate_on_oom(self, on: bool = True) -> Self:
        return self._set(deflate_on_oom=on)

    def free_page_reporting(self, on: bool = True) -> Self:
        return self._set(free_page_reporting=on)

    def guard(self, available: Size) -> Self:
        """Available memory that a shrink leaves to the guest unless forced; 0 is none."""
        return self._set(guard_mib=_mib(available, "guard_mib"))

    def pressure_relief(self, on: bool = True) -> Self:
        """The guest gets memory back by itself when it stalls for lack of it."""
        return self._set(pressure_relief=on)

    def hard_cap(self, on: bool = True) -> Self:
        """The host enforces what the balloon asks for, with a cgroup."""
        return self._set(hard_cap=on)

    def control_access(
        self,
        *,
        allow_users: Sequence[int] = (),
        allow_groups: Sequence[int] = (),
        observe_users: Sequence[int] = (),
        observe_groups: Sequence[int] = (),
    ) -> Self:
        """Let others (ids) use the control socket: to set and look, or only to look."""
        return self._set(
            balloon_allow_users=check_items("allow_users", allow_users),
            balloon_allow_groups=check_items("allow_groups", allow_groups),
            balloon_observe_users=check_items("observe_users", observe_users),
            balloon_observe_groups=check_items("observe_groups", observe_groups),
        )

    def disk(self, size: Size) -> Self:
        """A writable disk of that size, which takes the host's space only as it is filled."""
        return self._set(disk_mib=_mib(size, "disk_mib"))

    def volume(self, *volumes: str | Volume) -> Self:
        """Directories of the host, or named volumes, in the guest: ``SOURCE:GUEST[:ro]``."""
        return self._add("volumes", volumes)

    def tmpfs(self, *places: str | Tmpfs) -> Self:
        """Directories in the guest's memory: ``PATH[:SIZE]``."""
        return self._add("tmpfs", places)

    def net(self, net: Net | str) -> Self:
        return self._set(net=net)

    def publish(self, *ports: str | Port) -> Self:
        """Ports of the host that lead into the guest, ``[ADDRESS:]HOST:GUEST[/tcp|udp]``; the guest gets a network,
        ``user`` unless another is chosen."""
        if ports:
            self._fields.setdefault("net", Net.USER)
        return self._add("ports", ports)

    def confidential(self, on: bool = True) -> Self:
        return self._set(confidential=on)

    def machine(self, machine: Machine | str) -> Self:
        return self._set(machine=machine)

    def accel(self, accel: Accel | str) -> Self:
        return self._set(accel=accel)

    def build(self) -> SandboxConfig:
        """:raises ConfigError: a setting, or a pair of them, is impossible; the message names both values."""
        try:
            return SandboxConfig(**self._fields)
        except SettingError as error:
            raise error.named(PARAMETERS) from None

    def _add(self, field: str, items: Sequence[Any]) -> Self:
        return self._set(**{field: (*self._fields.get(field, ()), *read_items(field, items))})

    def _set(self, **fields: Any) -> Self:
        self._fields.update(fields)
        return self


def _mib(size: Size, field: str) -> int:
    try:
        return parse_size(size, field) if isinstance(size, str) else size
    except SettingError as error:
        raise error.named(PARAMETERS) from None


__all__ = ["SandboxBuilder", "Size"]
