"""Finds and probes the QEMU binary.

QEMU describes itself over QMP on a machine of type ``none``. That takes a tenth of a second, so the result is cached
in a file, with the binary's path, size, modification time and inode as the key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import asdict, dataclass, replace
from ballonet.base.digest import sha256_hex
from ballonet.base.errors import EngineMissingError, HostError
from ballonet.base.paths import replace_file
from ballonet.vmm.accel import read_cpu_flags
from ballonet.vmm.attach import Net
from ballonet.vmm.config import Accel, IoLimits, Machine, VmSpec
from ballonet.vmm.engine import Engine, UserNetwork, Vm
from ballonet.vmm.qemu.command_line import NAME_PREFIX, EngineFds, render_command

# base.process and the VM load asyncio: they are imported where they are used. 'ballonet ls' needs only is_command().

PROGRAM = "qemu-system-x86_64"
#: The oldest version that has everything that is used here (``x-query-virtio-status``).
MINIMUM_VERSION = (7, 2)
OTHER_HINT = "reinstall it, or set BALLONET_QEMU to another QEMU binary"
INSTALL_HINT = "install it: apt-get install qemu-system-x86"

_QUESTIONS = ("qmp_capabilities", "query-version", "query-machines", "qom-list-types", "quit")


@dataclass(frozen=True)
class Qemu(Engine):
    """A QEMU binary and its capabilities."""

    name = "QEMU"
    #: Those of QEMU's own network (docs/system/devices/net): "10.0.2.0/24".
    user_network = UserNetwork("10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.3")

    @classmethod
    def find(cls, cache: Path, *, binary: Path | None = None) -> Qemu:
        """``binary``, or ``$BALLONET_QEMU``, or ``qemu-system-x86_64`` on PATH."""
        return _find(cache, binary)

    @classmethod
    def is_command(cls, argv: Sequence[str]) -> bool:
        return any(a == "-name" and b.startswith(NAME_PREFIX) for a, b in pairwise(argv))

    def show_command(self, spec: VmSpec) -> list[str]:
        shares = tuple(range(7, 7 + len(spec.shares)))
        tap = 7 + len(shares) if spec.net is Net.USER else None
        fds = EngineFds(qmp=3, agent=4, console=5, ram=6, shares=shares, tap=tap)
        return render_command(spec, self, fds)

    def state_key(self, spec: VmSpec) -> str | None:
        if spec.shares:
            return None  # QEMU 7.2 cannot migrate vhost-user-fs
        # What may differ: the guest sees neither the name nor the published ports nor the disks' limits, and reads its
        # disks after a restore.
        disks = tuple(replace(disk, path=Path("/")) for disk in spec.disks)
        shape = replace(spec, name="", disks=disks, ports=(), io_limits=IoLimits())
        words = [*self.show_command(shape), self.version_text]
        words += [_identity(path) for path in (self.binary, spec.kernel, spec.initramfs)]
        if spec.accel is Accel.KVM:
            words += sorted(read_cpu_flags())  # the processor model "host" has those of this host
        return sha256_hex("\0".join(words).encode())

    def create(self, spec: VmSpec) -> Vm:
        from ballonet.vmm.qemu.vm import QemuVm

        return QemuVm(spec, self)


def _find(cache: Path, binary: Path | None) -> Qemu:
    from ballonet.base.process import find_program

    chosen = binary or (Path(os.environ["BALLONET_QEMU"]) if os.environ.get("BALLONET_QEMU") else None)
    try:
        path = chosen or find_program(PROGRAM, hint=INSTALL_HINT)
        facts = path.stat()
    except (HostError, OSError) as error:
        if chosen is not None:
            cause = getattr(error, "strerror", None) or error
            hint = f"set BALLONET_QEMU to another binary, or unset it and {INSTALL_HINT}"
            raise EngineMissingError(f"no usable QEMU: {chosen}: {cause}", hint=hint) from error
        raise EngineMissingError(f"no usable QEMU: {error}", hint=INSTALL_HINT) from error
    key = _identity(path, facts)
    kept = cache / "engine.json"
    engine = _recall(kept, key)
    if engine is None:
        engine = _probe(path)
        _remember(kept, key, engine)
    _check(engine)
    return engine


def _identity(path: Path, facts: os.stat_result | None = None) -> str:
    """Identifies the content of a file, without reading it."""
    facts = path.stat() if facts is None else facts
    return f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ino}"


def _probe(binary: Path) -> Qemu:
    """Ask the binary itself.

    :raises EngineMissingError: it does not answer like QEMU.
    """
    from ballonet.base.process import run

    questions = "".join(json.dumps({"execute": word}) + "\n" for word in _QUESTIONS)
    argv = [
        str(binary),
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "none",
        "-display",
        "none",
        "-qmp",
        "stdio",
    ]
    try:
        answers = [json.loads(line) for line in run(argv, input_text=questions, timeout_s=60).splitlines()]
        returned: list[Any] = [answer["return"] for answer in answers if "return" in answer]
        _, version, machines, types, *_ = returned
        numbers = version["qemu"]
        names = {entry["name"] for entry in types}
        machine_names = {entry.get("alias") or entry["name"] for entry in machines}
        return Qemu(
            binary=binary,
            version=(int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"])),
            machines=tuple(machine.value for machine in Machine if machine in machine_names),
            accelerators=tuple(sorted(n.removesuffix("-accel") for n in names if n.endswith("-accel"))),
            seccomp=_has_seccomp(binary),
        )
    except HostError as error:
        raise EngineMissingError(f"{binary} does not run: {error}", hint=error.hint or OTHER_HINT) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{binary} does not answer like QEMU: {error!r}"
        raise EngineMissingError(message, hint=OTHER_HINT) from error


def _has_seccomp(binary: Path) -> bool:
    from ballonet.base.process import run

    argv = [str(binary), "-nodefaults", "-machine", "none", "-display", "none", "-sandbox", "on", "-version"]
    try:
        run(argv, timeout_s=60)
    except HostError:
        return False
    return True


def _check(engine: Qemu) -> None:
    if engine.version[:2] < MINIMUM_VERSION:
        raise EngineMissingError(
            f"{engine.binary} is QEMU {engine.version_text}; ballonet needs "
            f"{'.'.join(map(str, MINIMUM_VERSION))} or newer",
            hint="upgrade it, or set BALLONET_QEMU to a newer binary",
        )


def _recall(kept: Path, key: str) -> Qemu | None:
    try:
        document = json.loads(kept.read_text())
        if document["key"] != key:
            return None
        facts = document["engine"]
        return Qemu(
            binary=Path(facts["binary"]),
            version=tuple(facts["version"]),
            machines=tuple(facts["machines"]),
            accelerators=tuple(facts["accelerators"]),
            seccomp=bool(facts["seccomp"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or damaged: probe again


def _remember(kept: Path, key: str, engine: Qemu) -> None:
    document = {"key": key, "engine": {**asdict(engine), "binary": str(engine.binary)}}
    try:
        replace_file(kept, json.dumps(document).encode())
    except HostError:
        return  # without a cache the next start probes again
