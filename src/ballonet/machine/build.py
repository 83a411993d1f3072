"""Builds a virtual machine from a configuration: finds the engine, the accelerator and the guest."""

from __future__ import annotations

from pathlib import Path

from ballonet.base.paths import cache_dir
from ballonet.guest.bundle import GuestBundle
from ballonet.host.tsc import host_tsc_khz
from ballonet.machine.guest_files import guest_for
from ballonet.machine.guest_setup import DISK_SERIAL, ROOT_SERIAL, share_tags
from ballonet.vmm.accel import detect_accel
from ballonet.vmm.builder import VmBuilder
from ballonet.vmm.config import Accel, VmConfig, VmSpec
from ballonet.vmm.default_engine import DefaultEngine
from ballonet.vmm.engine import Vm


def build_spec(
    config: VmConfig, guest: GuestBundle, accel: Accel, tsc_khz: int | None, disk: Path | None = None
) -> VmSpec:
    """The specification of the VM for ``config``. It has a balloon if any balloon field is set. Pure.

    :param disk: the file of the writable disk, if ``config`` has one.
    """
    builder = (
        VmBuilder(config.name)
        .cpus(config.cpus)
        .memory(config.memory_mib)
        .machine(config.machine)
        .accel(accel, tsc_khz=tsc_khz)
        .boot(guest.vmlinux, guest.initramfs)
        .shares(share_tags(config))
        .io_limits(config.io_limits)
        .network(config.net, config.ports)
    )
    if config.root is not None:
        builder.disk(ROOT_SERIAL, config.root, read_only=True)
    if disk is not None:
        builder.disk(DISK_SERIAL, disk)
    if config.has_balloon:
        builder.balloon(
            config.balloon_initial_mib,
            config.balloon_min_mib,
            deflate_on_oom=config.deflate_on_oom,
            free_page_reporting=config.free_page_reporting,
            guard_mib=config.guard_mib,
        )
    return builder.build()


def build_vm(
    config: VmConfig,
    *,
    guest: GuestBundle | None = None,
    cache: Path | None = None,
    disk: Path | None = None,
) -> Vm:
    """A VM for ``config`` on this host, not yet started.

    :param guest: what it boots; found or made by default.
    :param disk: the file of its writable disk, if it has one.
    :raises EngineMissingError: there is no usable QEMU.
    :raises HostError: the guest's kernel or programs cannot be obtained.
    """
    cache = cache_dir() if cache is None else cache
    engine = DefaultEngine.find(cache)
    accel = detect_accel(config.accel).accel
    tsc_khz = host_tsc_khz(cache) if accel is Accel.TCG else None
    return engine.create(build_spec(config, guest or guest_for(config), accel, tsc_khz, disk))
