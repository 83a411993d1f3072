"""``ballonet doctor``: checks whether this host can run sandboxes, and how to fix what is missing."""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ballonet.base.errors import BallonetError
from ballonet.cli.output import print_json, print_table, print_wrapped

if TYPE_CHECKING:
    from ballonet.host.cpu_group import CpuGroup
    from ballonet.host.memory_group import MemoryGroup
    from ballonet.vmm.config import Accel

#: What a boot's guest is shrunk to, from 256.
_SHRUNK_MIB = 160
OK, WARNING, FAILED = "ok", "warning", "failed"


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    result: str
    detail: str
    hint: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--boot", action="store_true", help="also boot a guest with each accelerator and change its memory"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--report",
        action="store_true",
        help="boot guests as with --boot, and print versions and results as JSON for an issue, without directories",
    )
    parser.epilog = "Exit status: 0 if this host can run sandboxes, 1 if not."


def run(options: argparse.Namespace) -> int:
    findings = [_judge(name, check) for name, check in _CHECKS]
    if options.boot or options.report:
        findings += _boots()
    if options.report:
        from ballonet.cli.doctor_report import report

        print_json(report([finding._asdict() for finding in findings], engine=_engine_version()))
    elif options.json:
        print_json([finding._asdict() for finding in findings])
    else:
        print_table(("CHECK", "RESULT", "DETAIL"), [finding[:3] for finding in findings])
        for finding in findings:
            if finding.hint:
                print_wrapped(f"  {finding.check}: {finding.hint}", indent=4)
    return 1 if any(finding.result == FAILED for finding in findings) else 0


def _judge(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except BallonetError as error:
        return Finding(name, FAILED, error.message.splitlines()[0], error.hint)


def _engine() -> Finding:
    from ballonet.base.paths import cache_dir
    from ballonet.vmm.default_engine import DefaultEngine

    engine = DefaultEngine.find(cache_dir())
    return Finding("engine", OK, f"{engine.name} {engine.version_text} ({engine.binary})")


def _engine_version() -> str:
    from ballonet.base.paths import cache_dir
    from ballonet.vmm.default_engine import DefaultEngine

    try:
        return DefaultEngine.find(cache_dir()).version_text
    except BallonetError:
        return "none"


def _accelerator() -> Finding:
    from ballonet.vmm.accel import detect_accel
    from ballonet.vmm.config import Accel

    found = detect_accel(Accel.AUTO)
    if found.accel is Accel.KVM:
        return Finding("accelerator", OK, f"KVM: {found.reason}")
    return Finding(
        "accelerator", WARNING, f"emulation: {found.reason}", "guests run several times slower than with KVM"
    )


def _kernel() -> Finding:
    from ballonet.base.paths import cache_dir
    from ballonet.guest.bundle import prepare_guest
    from ballonet.guest.debian import current_package, fetched_images

    try:
        guest = prepare_guest(fetch=False)
    except BallonetError:
        if os.environ.get("BALLONET_KERNEL") or fetched_images(cache_dir()):
            raise
        detail = f"none yet: the first start downloads {current_package()} with apt (34 MB, no root needed)"
        return Finding("guest kernel", WARNING, detail)
    return Finding("guest kernel", OK, f"{guest.release} ({guest.vmlinuz})")


def _directories() -> Finding:
    from ballonet.base.paths import cache_dir, run_dir, state_dir

    found = [
        f"{name} {directory()}"
        for name, directory in (("cache", cache_dir), ("state", state_dir), ("run", run_dir))
    ]
    return Finding("directories", OK, ", ".join(found))


def _registry() -> Finding:
    from ballonet.lifecycle import sandboxes as lifecycle
    from ballonet.lifecycle.registry import Registry

    with Registry.open() as registry:
        records = lifecycle.list_sandboxes(registry)
    live = sum(record.state.lives for record in records)
    return Finding("registry", OK, f"{len(records)} sandboxes, {live} running")


def _images() -> Finding:
    from ballonet.base.memory import bytes_to_mib
    from ballonet.base.process import find_program
    from ballonet.images.store import ImageStore

    images = ImageStore.open().list()
    held = f"{len(images)} images, {bytes_to_mib(sum(image.size_bytes for image in images))} MiB"
    missing = []
    for program in ("skopeo", "mmdebstrap"):
        try:
            find_program(program, hint="")
        except BallonetError:
            missing.append(program)
    if missing:
        hint = f"apt-get install {' '.join(missing)}: skopeo pulls images, mmdebstrap builds Debian images"
        return Finding("images", WARNING, f"{held}; {' and '.join(missing)} not installed", hint)
    return Finding("images", OK, held)


def _memory() -> Finding:
    from ballonet.base.memory import bytes_to_mib
    from ballonet.host.memory import read_host_memory

    memory = read_host_memory()
    if memory.total_bytes is None or memory.available_bytes is None:
        return Finding("memory", WARNING, "unknown", "mount /proc: /proc/meminfo has it")
    available = bytes_to_mib(memory.available_bytes)
    detail = f"{available} MiB of {bytes_to_mib(memory.total_bytes)} MiB available"
    if memory.limited_by is not None:
        detail += f" (the limit of the cgroup {memory.limited_by})"
    if available < 512:
        return Finding(
            "memory", WARNING, detail, "shrink or stop a sandbox or program: a sandbox needs about 200 MiB"
        )
    return Finding("memory", OK, detail)


def _pressure() -> Finding:
    from ballonet.host.proc import PROC

    try:
        line = (PROC / "pressure/memory").read_text().splitlines()[0]
    except OSError:
        return Finding(
            "host pressure",
            WARNING,
            "not reported by this kernel",
            "the autopilot needs it: boot the host with psi=1",
        )
    return Finding("host pressure", OK, line)


def _hard_cap() -> Finding:
    from ballonet.host.cgroup import open_group

    return _cgroup("hard cap", open_group)


def _cpu_quota() -> Finding:
    from ballonet.host.cgroup import open_cpu_group

    return _cgroup("cpu quota", open_cpu_group)


def _cgroup(check: str, open_it: Callable[[str], MemoryGroup | CpuGroup]) -> Finding:
    try:
        # Made and removed: that a directory is writable does not say whether the kernel takes a group there.
        group = open_it(f"ballonet-doctor-{check.replace(' ', '-')}-{os.getpid()}")
    except BallonetError as error:
        return Finding(check, WARNING, error.message.splitlines()[0], error.hint)
    parent = group.procs_file.parent.parent
    group.remove()
    version = 2 if (parent / "cgroup.controllers").exists() else 1
    return Finding(check, OK, f"cgroup v{version} at {parent}")


def _disks() -> Finding:
    from ballonet.machine.disk import find_mke2fs

    return _optional("disks", lambda: f"mke2fs ({find_mke2fs()})")


def _volumes() -> Finding:
    from ballonet.host.virtiofsd import find_virtiofsd

    try:
        program = find_virtiofsd()
    except BallonetError as error:
        return Finding("volumes", WARNING, error.message.splitlines()[0], error.hint)
    if program.rust:
        return Finding("volumes", OK, f"virtiofsd in Rust ({program.binary})")
    detail = f"virtiofsd in C, which can be used only by root ({program.binary})"
    if os.geteuid() == 0:
        return Finding("volumes", OK, detail)
    hint = "run ballonet as root, set BALLONET_VIRTIOFSD to a virtiofsd in Rust, or copy files with 'ballonet cp'"
    return Finding("volumes", WARNING, detail, hint)


def _network() -> Finding:
    from ballonet.host.slirp4netns import find_slirp4netns
    from ballonet.machine.name_server import find_name_server
    from ballonet.machine.network import find_nft

    programs = [str(find_slirp4netns().binary), str(find_nft()), find_name_server()]
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        hint = "--net user needs it; udev makes it with mode 666"
        return Finding("network", WARNING, "/dev/net/tun cannot be opened", hint)
    return Finding("network", OK, ", ".join(programs))


def _confinement() -> Finding:
    """Of engines: what keeps one that a guest has taken over from the user's files."""
    from ballonet.host.landlock import landlock_version
    from ballonet.host.system_calls import can_filter

    calls = "seccomp" if can_filter() else "system calls are not restricted on this processor"
    version = landlock_version()
    if version == 0:
        hint = "use Linux 5.13 or later with landlock among the security modules (kernel parameter lsm=)"
        return Finding("confinement", WARNING, f"{calls}; the kernel has no Landlock to restrict files", hint)
    return Finding("confinement", OK if can_filter() else WARNING, f"Landlock {version}, {calls}")


def _optional(check: str, look: Callable[[], str]) -> Finding:
    return _or_warning(check, lambda: Finding(check, OK, look()))


def _or_warning(check: str, look: Callable[[], Finding]) -> Finding:
    """Of something that only some sandboxes need: a failure is a warning."""
    try:
        return look()
    except BallonetError as error:
        return Finding(check, WARNING, error.message.splitlines()[0], error.hint)


def _boots() -> list[Finding]:
    """A boot with each accelerator that this host has; ``boot`` is the one that sandboxes get by default."""
    from ballonet.base.paths import cache_dir
    from ballonet.vmm.accel import usable_accels
    from ballonet.vmm.default_engine import DefaultEngine

    try:
        accels = usable_accels(DefaultEngine.find(cache_dir()).accelerators)
    except BallonetError as error:
        return [Finding("boot", FAILED, error.message.splitlines()[0], error.hint)]
    names = ["boot", *(f"boot with {accel}" for accel in accels[1:])]
    return [
        _judge(name, functools.partial(_boot, name, accel)) for name, accel in zip(names, accels, strict=True)
    ]


def _boot(check: str, accel: Accel) -> Finding:
    import asyncio

    from ballonet.sdk.sandbox import Sandbox, random_name
    from ballonet.settings.config import SandboxConfig

    config = SandboxConfig(
        name=random_name("doctor"),
        memory_mib=256,
        balloon_initial_mib=256,
        balloon_min_mib=_SHRUNK_MIB,
        accel=accel,
    )

    async def prove() -> Finding:
        started = time.monotonic()
        async with await Sandbox.create(config) as sandbox:
            booted = time.monotonic() - started
            done = await sandbox.exec(["uname", "-r"])
            reply = await sandbox.balloon.set(_SHRUNK_MIB, wait=True, timeout_s=60)
        release = done.stdout.decode().strip()
        detail = f"{accel}: booted {release} in {booted:.1f} s; shrink to {_SHRUNK_MIB} MiB: {reply.state}"
        return Finding(check, OK if reply.state == "applied" else WARNING, detail, reply.detail)

    return asyncio.run(prove())


_CHECKS: tuple[tuple[str, Callable[[], Finding]], ...] = (
    ("engine", _engine),
    ("accelerator", _accelerator),
    ("guest kernel", _kernel),
    ("directories", _directories),
    ("registry", _registry),
    ("images", _images),
    ("memory", _memory),
    ("host pressure", _pressure),
    ("hard cap", _hard_cap),
    ("cpu quota", _cpu_quota),
    ("disks", _disks),
    ("volumes", _volumes),
    ("network", lambda: _or_warning("network", _network)),
    ("confinement", _confinement),
)
