"""The steps with which the agent sets up the guest after boot: SETUP in docs/agent.md. Pure.

Also lists the kernel modules that the steps need, so that a guest loads no others.
"""

from __future__ import annotations

from pathlib import Path

from ballonet.base.errors import HostError
from ballonet.vmm.attach import Net, Volume, parents_first
from ballonet.vmm.config import DISK_TARGET, VmConfig
from ballonet.vmm.default_engine import DefaultEngine

#: Serials of the disks, by which the guest finds them.
ROOT_SERIAL, DISK_SERIAL = "ballonet-root", "ballonet-disk"
_NETWORK = DefaultEngine.user_network
#: The files that have the guest's name.
_NAMING = ("/etc/hostname", "/etc/hosts")

# Offset and magic number of each file system (linux/magic.h; squashfs in native byte order).
_MAGIC = {"erofs": (1024, b"\xe2\xe1\xf5\xe0"), "squashfs": (0, b"hsqs")}


def share_tags(config: VmConfig) -> tuple[str, ...]:
    """The names by which the guest mounts the volumes."""
    return tuple(f"volume{number}" for number in range(len(config.volumes)))


def needed_modules(config: VmConfig, root_kind: str | None) -> list[str]:
    """The kernel modules that ``config`` needs beyond those of every guest."""
    modules = []
    if config.root is not None or config.disk_mib is not None:
        modules.append("virtio_blk")
    if root_kind is not None:
        modules += [root_kind, "overlay"]
    if config.volumes:
        modules.append("virtiofs")
    if config.net is not Net.NONE:
        modules.append("virtio_net")
    return modules


def setup_steps(config: VmConfig, root_kind: str | None) -> list[list[str]]:
    """The steps for the agent, in order."""
    steps: list[list[str]] = []
    if root_kind is not None:
        steps.append(["root", root_kind, ROOT_SERIAL, DISK_SERIAL])
    else:
        steps.append(["memory", "mode=755"])
    mounts = {
        volume.target: _volume_step(tag, volume.target, volume.read_only) for tag, volume in _tagged(config)
    }
    for tmpfs in config.tmpfs:
        size = "" if tmpfs.size_mib is None else f",size={tmpfs.size_mib}m"
        mounts[tmpfs.target] = ["tmpfs", tmpfs.target, f"mode=1777{size}"]
    if root_kind is None and config.disk_mib is not None:
        mounts[DISK_TARGET] = ["disk", DISK_SERIAL, DISK_TARGET]
    steps += [mounts[target] for target in parents_first(list(mounts))]
    return steps + identity_steps(config.guest_name, config.net)


def root_kind(root: Path | None) -> str | None:
    """The file system in the file ``root``, by its name in the kernel; ``None`` if there is no root.

    :raises HostError: it cannot be read, or is neither erofs nor squashfs.
    """
    if root is None:
        return None
    try:
        with root.open("rb") as file:
            start = file.read(2048)
    except OSError as error:
        raise HostError(
            f"the root {root} cannot be read: {error.strerror}", hint="check that its image was not removed"
        ) from error
    for kind, (at, magic) in _MAGIC.items():
        if start[at : at + len(magic)] == magic:
            return kind
    raise HostError(f"the root {root} is neither an erofs nor a squashfs file system")


def _tagged(config: VmConfig) -> zip[tuple[str, Volume]]:
    return zip(share_tags(config), config.volumes, strict=True)


def _volume_step(tag: str, target: str, read_only: bool) -> list[str]:
    return ["volume", tag, target, "ro" if read_only else "rw"]


def naming_steps(name: str, net: Net) -> list[list[str]]:
    """Those of :func:`identity_steps` that a guest takes again when it is restored with another name. Its network is
    the same, and what it has written to other files stays."""
    return [step for step in identity_steps(name, net) if step[0] == "hostname" or step[1] in _NAMING]


def identity_steps(name: str, net: Net) -> list[list[str]]:
    """Host name, name resolution and network. As in Docker, they replace the image's files."""
    names = f"{name} {name.partition('.')[0]}" if "." in name else name
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    steps = [["hostname", name], ["file", "/etc/hostname", f"{name}\n"]]
    if net is Net.NONE:
        return [
            *steps,
            ["file", "/etc/hosts", f"{hosts}127.0.1.1\t{names}\n"],
            ["file", "/etc/resolv.conf", ""],
        ]
    server = "" if net is Net.ISOLATED else f"nameserver {_NETWORK.name_server}\n"
    return [
        *steps,
        ["file", "/etc/hosts", f"{hosts}{_NETWORK.guest}\t{names}\n"],
        ["file", "/etc/resolv.conf", server],
        ["network", _NETWORK.guest, _NETWORK.netmask, _NETWORK.gateway],
    ]
