"""Checks a sandbox's options against the host, before an image is pulled or anything is created."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ballonet.base.errors import ConfigError, NameInUseError
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net


def check_early(config: SandboxConfig, options: argparse.Namespace) -> None:
    """Check that the host has everything that ``config`` refers to. For ``create``, ports and programs are not checked:
    they may change until the sandbox is started.

    :raises ConfigError: a directory does not exist, or the name is in use.
    :raises BindError: a port cannot be published.
    :raises HostError: a required program is not installed.
    """
    if options.rootfs == "":  # Path("") is the current directory
        raise ConfigError(
            "--rootfs '' is not a directory", hint="write '--rootfs .' for the current directory"
        )
    if options.rootfs is not None:
        _check_directory(f"--rootfs {options.rootfs!r}", Path(options.rootfs))
    _check_volumes(config)
    if options.name is not None and not getattr(options, "dry_run", False):
        _check_name(config.name)
    _warn_of_cpus(config.cpus)
    if options.command == "run":
        _check_programs(config)
        if config.ports:
            from ballonet.machine.ports import check_ports_free

            check_ports_free(config.ports)


def _check_volumes(config: SandboxConfig) -> None:
    if not config.volumes:
        return
    from ballonet.settings.named_volumes import volumes_dir

    named = volumes_dir()
    for volume in config.volumes:
        if volume.source.parent != named:  # named volumes are created when they are missing
            _check_directory(f"volume {str(volume)!r}", volume.source)


def _check_directory(what: str, path: Path) -> None:
    try:
        if not path.is_dir():
            found = "is not a directory" if path.exists() else "does not exist"
            raise ConfigError(f"{what}: {path} {found} on the host", hint="use an existing directory")
        if not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(f"{what}: {path} cannot be read: Permission denied")
    except OSError as error:  # no access to a parent directory, or the name is too long
        raise ConfigError(f"{what}: {path} cannot be used: {error.strerror}") from error


def _check_name(name: str) -> None:
    with Registry.open() as registry:
        record = registry.find(name)
        if record is not None and lifecycle.refresh(registry, record) is not None:
            raise NameInUseError(
                f"there is a sandbox named {name!r} already",
                hint=f"choose another name, or remove that sandbox: ballonet rm {name}",
            )


def _check_programs(config: SandboxConfig) -> None:
    from ballonet.base.paths import cache_dir
    from ballonet.vmm.default_engine import DefaultEngine

    DefaultEngine.find(cache_dir())
    if config.volumes:
        from ballonet.host.virtiofsd import find_virtiofsd

        find_virtiofsd()
    if config.disk_mib is not None:
        from ballonet.machine.disk import find_mke2fs

        find_mke2fs()
    if config.net is Net.USER:
        from ballonet.machine.network import check_network_programs

        check_network_programs(names=bool(config.net_allow or config.net_deny))


def _warn_of_cpus(cpus: int) -> None:
    here = len(os.sched_getaffinity(0))
    if cpus > here:
        print(
            f"ballonet: warning: --cpus {cpus} is more than the {here} processors available on this host: "
            "the sandbox will be slow",
            file=sys.stderr,
        )
