"""What a sandbox needs on the host before its engine starts: its disk, its limits, the servers of its volumes, its
network."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError
from ballonet.base.memory import mib_to_bytes
from ballonet.machine.engine_limits import EngineLimits
from ballonet.machine.hardcap import HardCap
from ballonet.machine.run_directory import RunDirectory
from ballonet.vmm.attach import Net
from ballonet.vmm.config import VmConfig
from ballonet.vmm.engine import Vm

if TYPE_CHECKING:
    from ballonet.machine.network import GuestNetwork
    from ballonet.machine.shares import ShareServers


def writable_disk(config: VmConfig, state_dir: Path | None) -> Path | None:
    """The sandbox's disk, if it has one."""
    if config.disk_mib is None:
        return None
    if state_dir is None:
        raise ConfigError("ballonet sandbox: a disk requires --state-dir")
    from ballonet.machine.disk import obtain_disk

    return obtain_disk(state_dir, config.disk_mib)


def hard_cap(config: VmConfig, vm: Vm, least_bytes: int = 0) -> HardCap | None:
    """The sandbox's hard cap, if it has one.

    :param least_bytes: guest memory that it must allow at first.
    """
    if not config.hard_cap:
        return None
    balloon, first = vm.spec.balloon, vm.first_target
    initial_mib = vm.spec.memory_mib if balloon is None else balloon.initial_mib
    if first is not None:
        initial_mib = first[0]
    return HardCap(config.name, max(mib_to_bytes(initial_mib), least_bytes))


def engine_limits(config: VmConfig, cap: HardCap | None, stack: contextlib.AsyncExitStack) -> EngineLimits:
    """The limits of processors and disks of the sandbox, which has this hard cap; ``stack`` ends both.

    :raises HostError: the host cannot enforce one of them.
    """
    limits = EngineLimits(config.name, None if cap is None else cap.group)
    stack.callback(limits.close)
    if cap is not None:
        stack.push_async_callback(cap.close)  # first: with version 2 both have the same cgroup
    if config.cpu_quota_percent is not None:
        limits.set_cpu_quota(config.cpu_quota_percent)
    return limits


def serve_volumes(
    config: VmConfig,
    run_directory: RunDirectory,
    stack: contextlib.AsyncExitStack,
    cgroup_procs: Sequence[str],
) -> ShareServers | None:
    """Start the servers of the sandbox's volumes, if it has some; ``stack`` ends them."""
    if not config.volumes:
        return None
    from ballonet.machine.shares import ShareServers

    servers = ShareServers()
    stack.push_async_callback(servers.close)
    servers.start(config.volumes, run_directory.path, cgroup_procs=cgroup_procs)
    return servers


def open_network(
    config: VmConfig,
    run_directory: RunDirectory,
    state_dir: Path | None,
    stack: contextlib.AsyncExitStack,
    cgroup_procs: Sequence[str],
) -> GuestNetwork | None:
    """Make the network "user", if the sandbox has it; ``stack`` ends it."""
    if config.net is not Net.USER:
        return None
    from ballonet.machine.network import GuestNetwork

    network = GuestNetwork(config, run_directory.path, state_dir=state_dir, cgroup_procs=cgroup_procs)
    stack.push_async_callback(network.close)
    network.open()
    return network
