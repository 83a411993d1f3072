"""Builds a complete :class:`VmSpec` from single settings, with all sizes clamped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ballonet.base.errors import ConfigError
from ballonet.vmm.attach import Net, Port
from ballonet.vmm.config import Accel, BalloonSpec, DiskSpec, IoLimits, Machine, VmSpec
from ballonet.vmm.guard import default_guard_mib

#: The least default floor (MiB); a quarter of the ceiling if that is more.
SAFE_FLOOR_MIB = 128


def default_floor_mib(ceiling_mib: int, initial_mib: int) -> int:
    """The default floor: max(128 MiB, ceiling / 4), at most the initial size."""
    return min(max(SAFE_FLOOR_MIB, ceiling_mib // 4), initial_mib)


class VmBuilder:
    """Collects settings. :meth:`build` checks that they are complete."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cpus = 1
        self._memory_mib = 512
        self._machine = Machine.MICROVM
        self._accel = Accel.TCG
        self._tsc_khz: int | None = None
        self._kernel: Path | None = None
        self._initramfs: Path | None = None
        self._balloon: Callable[[int], BalloonSpec] | None = None
        self._disks: list[DiskSpec] = []
        self._io_limits = IoLimits()
        self._shares: tuple[str, ...] = ()
        self._net = Net.NONE
        self._ports: tuple[Port, ...] = ()

    def cpus(self, count: int) -> Self:
        self._cpus = count
        return self

    def memory(self, ceiling_mib: int) -> Self:
        self._memory_mib = ceiling_mib
        return self

    def machine(self, machine: Machine) -> Self:
        self._machine = machine
        return self

    def accel(self, accel: Accel, *, tsc_khz: int | None = None) -> Self:
        """``accel`` must not be ``auto``; ``tsc_khz`` is used for emulation."""
        self._accel = accel
        self._tsc_khz = tsc_khz
        return self

    def boot(self, kernel: Path, initramfs: Path) -> Self:
        """An uncompressed vmlinux with a PVH entry point, and an initramfs."""
        self._kernel = kernel
        self._initramfs = initramfs
        return self

    def balloon(
        self,
        initial_mib: int | None = None,
        min_mib: int | None = None,
        *,
        deflate_on_oom: bool = True,
        free_page_reporting: bool = True,
        guard_mib: int | None = None,
    ) -> Self:
        """Give the VM a balloon.

        Defaults: the ceiling for ``initial_mib``, :func:`default_floor_mib` for ``min_mib``,
        :func:`~ballonet.vmm.guard.default_guard_mib` for ``guard_mib`` (0: no guard).
        """

        def spec(ceiling: int) -> BalloonSpec:
            initial = ceiling if initial_mib is None else max(0, min(initial_mib, ceiling))
            floor = default_floor_mib(ceiling, initial) if min_mib is None else max(0, min(min_mib, initial))
            guard = default_guard_mib(ceiling) if guard_mib is None else max(0, min(guard_mib, ceiling))
            return BalloonSpec(ceiling, initial, floor, deflate_on_oom, free_page_reporting, guard)

        self._balloon = spec
        return self

    def disk(self, serial: str, path: Path, *, read_only: bool = False) -> Self:
        """Attach a raw file as a block device."""
        self._disks.append(DiskSpec(serial, path, read_only))
        return self

    def io_limits(self, limits: IoLimits) -> Self:
        """Limit what all disks together read and write."""
        self._io_limits = limits
        return self

    def shares(self, tags: Sequence[str]) -> Self:
        """Attach directories served by other processes; the guest mounts them by these tags."""
        self._shares = tuple(tags)
        return self

    def network(self, net: Net, ports: Sequence[Port] = ()) -> Self:
        self._net, self._ports = net, tuple(ports)
        return self

    def build(self) -> VmSpec:
        """:raises ConfigError: the kernel or the accelerator is not set."""
        if self._kernel is None or self._initramfs is None:
            raise ConfigError(f"virtual machine {self._name!r} has no kernel")
        if self._accel is Accel.AUTO:
            raise ConfigError(f"virtual machine {self._name!r}: the accelerator is not set")
        return VmSpec(
            name=self._name,
            cpus=self._cpus,
            memory_mib=self._memory_mib,
            machine=self._machine,
            accel=self._accel,
            kernel=self._kernel,
            initramfs=self._initramfs,
            balloon=None if self._balloon is None else self._balloon(self._memory_mib),
            tsc_khz=self._tsc_khz,
            disks=tuple(self._disks),
            io_limits=self._io_limits,
            shares=self._shares,
            net=self._net,
            ports=self._ports,
        )
