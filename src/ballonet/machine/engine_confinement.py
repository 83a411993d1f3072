"""Confines the engine's process before it is executed: a guest that takes over its engine has what the engine needs.

These are the files of its virtual machine, the system's programs and libraries, and the descriptors that it inherits.
It has no way to other processes or to a network. Where the kernel lacks a part, the others hold; ``ballonet inspect``
shows that.
"""

from __future__ import annotations

import json
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path

from ballonet.base.dataclass import dataclass
from ballonet.base.errors import HostError
from ballonet.base.paths import replace_file
from ballonet.host.landlock import landlock_version, restricted_to
from ballonet.host.netns import drop_capabilities
from ballonet.host.system_calls import METADATA, OUTWARD, SOCKETS, can_filter, without_calls
from ballonet.vmm.attach import Net
from ballonet.vmm.config import VmSpec

log = logging.getLogger(__name__)

#: Programs and libraries of the system. The engine may also read beside its own program.
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store", "/gnu/store")
_BESIDE = ("lib", "lib64", "libexec", "share")
_READ = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/dev/urandom", "/dev/random", "/sys/devices/system/cpu")
_WRITE = ("/dev/null", "/dev/kvm")
_DESCRIPTORS = 1024
#: The size that files may have at least (bytes): the limit also holds for memory that QEMU shares with other programs.
_LEAST_FILE = 64 << 20
#: In the state directory.
_NOTE = "confinement.json"


@dataclass(frozen=True)
class Confinement:
    """What confines one engine."""

    #: The version of Landlock that restricts its files; 0: they are not restricted.
    landlock: int
    #: To be called in the engine's process before it is executed.
    in_child: Callable[[], None]

    def write(self, directory: Path) -> None:
        """Note it in the sandbox's state directory, for ``ballonet inspect``."""
        try:
            replace_file(directory / _NOTE, json.dumps({"landlock": self.landlock}).encode(), durable=False)
        except HostError as error:  # a full disk must not keep the sandbox from starting
            log.error("the engine's confinement cannot be noted: %s", error)


def noted_landlock(directory: Path) -> int:
    """The version of Landlock that restricts the files of the engine that runs; 0: none, or it is not known."""
    try:
        return int(json.loads((directory / _NOTE).read_bytes())["landlock"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def confinement_of(spec: VmSpec, binary: Path) -> Confinement:
    """The confinement of the engine ``binary`` that runs ``spec``."""
    # A script is somebody's own way to run an engine: nobody knows which files that takes.
    landlock = 0 if _is_script(binary) else landlock_version()
    if spec.net is Net.ISOLATED:
        landlock = min(landlock, 3)  # the engine itself binds the published ports
    steps = [_limits(spec)]
    if os.geteuid() == 0:
        steps.append(drop_capabilities(network=spec.net is Net.ISOLATED))
    if landlock:
        steps.append(_files(spec, binary, landlock))
    if can_filter():
        calls = OUTWARD | METADATA | ({} if spec.net is Net.ISOLATED else SOCKETS)
        steps.append(without_calls(list(calls.values())))

    def in_child() -> None:
        for step in steps:
            step()

    return Confinement(landlock, in_child)


def _is_script(binary: Path) -> bool:
    try:
        with binary.open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _files(spec: VmSpec, binary: Path, version: int) -> Callable[[], None]:
    program = binary.resolve()
    beside = [program.parent.parent / name for name in _BESIDE]
    programs = [*map(Path, _SYSTEM), program.parent, *beside]
    read = [*map(Path, _READ), spec.kernel, spec.initramfs]
    read += [disk.path for disk in spec.disks if disk.read_only]
    write = [*map(Path, _WRITE), *(disk.path for disk in spec.disks if not disk.read_only)]
    return restricted_to(programs, read, write, version)


def _limits(spec: VmSpec) -> Callable[[], None]:
    """Nothing of the guest's memory is written to a core dump, and no file grows beyond its disk."""
    sizes = [disk.path.stat().st_size for disk in spec.disks if not disk.read_only]
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: max([_LEAST_FILE, *sizes])}
    limits[resource.RLIMIT_NOFILE] = _DESCRIPTORS

    def in_child() -> None:
        for which, most in limits.items():
            hard = resource.getrlimit(which)[1]
            value = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (value, value))

    return in_child
