"""Renders QEMU's command line. Pure.

The options are documented in QEMU (``qemu-system-x86_64 -help``, docs/system/i386/microvm.rst).
"""

from __future__ import annotations

import json

from ballonet.base.dataclass import dataclass, field
from ballonet.base.memory import kib_to_bytes
from ballonet.vmm.attach import Net
from ballonet.vmm.config import Accel, BalloonSpec, DiskSpec, IoLimits, Machine, VmSpec
from ballonet.vmm.engine import Engine

#: What the value of ``-name`` begins with.
NAME_PREFIX = "guest="
#: QOM id of the balloon device; its object is at /machine/peripheral/<id>.
BALLOON_ID = "balloon0"
#: Id of the network backend.
NETWORK_ID = "net0"
#: Id of the object that has the limits of all disks.
THROTTLE_ID = "disks"
#: Name of the virtio-serial port on which the guest's agent listens.
AGENT_PORT = "org.ballonet.agent.0"
#: The firmware of a microvm. QEMU's default is SeaBIOS, which waits for ever: it cannot boot a kernel when option ROMs
#: are off. Debian 12 has qboot under the default's name; Debian 13, like QEMU itself, has SeaBIOS.
MICROVM_FIRMWARE = "qboot.rom"
#: Size of the translation cache for emulation in MiB. QEMU's default may be an eighth of the host's memory.
TRANSLATION_CACHE_MIB = 64
#: Before this version, emulated CMPXCHG16B puts bits of other operands into EFLAGS (docs/decisions.md, 91).
CMPXCHG16B_FIXED = (8, 0)
#: X86_FEATURE_CX16, by its number (arch/x86/include/asm/cpufeatures.h): kernels before 5.18 know no names.
CX16 = 4 * 32 + 13


@dataclass(frozen=True)
class EngineFds:
    """Descriptors that QEMU inherits: each is one end of a connected Unix socket."""

    qmp: int
    agent: int
    console: int
    #: The memfd with the guest's RAM.
    ram: int
    #: Connected to the servers of the shared directories.
    shares: tuple[int, ...] = field(default=(), kw_only=True)
    #: The tap device of the network "user".
    tap: int | None = field(default=None, kw_only=True)


def render_command(spec: VmSpec, engine: Engine, fds: EngineFds, *, restore: bool = False) -> list[str]:
    """The argument list that starts ``spec``, paused, with its channels on ``fds``.

    :param restore: it waits for a saved state instead of booting.
    """
    argv = [str(engine.binary), "-name", f"{NAME_PREFIX}{spec.name},debug-threads=on"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S"]
    if engine.seccomp:
        argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    argv += ["-machine", _machine(spec), "-accel", _accel(spec), "-cpu", _cpu(spec)]
    if spec.machine is Machine.MICROVM:
        argv += ["-bios", MICROVM_FIRMWARE]
    argv += ["-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"]
    # In a shared memfd, guest RAM counts as RssShmem, separately from QEMU's own memory.
    ram = f"memory-backend-file,id=ram0,mem-path=/proc/self/fd/{fds.ram},size={spec.memory_mib}M,share=on"
    argv += ["-object", ram]
    if restore:
        argv += ["-incoming", "defer"]
    else:  # a restored guest has them in its RAM
        argv += ["-kernel", str(spec.kernel), "-initrd", str(spec.initramfs)]
        argv += ["-append", kernel_command_line(spec, engine.version)]
    argv += ["-chardev", f"socket,id=console0,fd={fds.console}", "-serial", "chardev:console0"]
    argv += ["-chardev", f"socket,id=qmp0,fd={fds.qmp}", "-mon", "chardev=qmp0,mode=control"]
    argv += ["-device", _virtio("virtio-serial", spec.machine)]
    argv += ["-chardev", f"socket,id=agent0,fd={fds.agent}"]
    argv += ["-device", f"virtserialport,chardev=agent0,name={AGENT_PORT}"]
    if spec.balloon is not None:
        argv += ["-device", _balloon(spec.balloon, spec.machine)]
    if spec.disks:
        throttle = {
            "qom-type": "throttle-group",
            "id": THROTTLE_ID,
            "limits": throttle_limits(spec.io_limits),
        }
        argv += ["-object", json.dumps(throttle)]
    for disk in spec.disks:
        argv += _disk(disk, spec.machine)
    if spec.shares and spec.machine is Machine.MICROVM:
        # virtiofsd supports virtio 1 only; virtio-mmio is a legacy transport by default.
        argv += ["-global", "virtio-mmio.force-legacy=off"]
    for number, (tag, fd) in enumerate(zip(spec.shares, fds.shares, strict=True)):
        argv += ["-chardev", f"socket,id=share{number},fd={fd}"]
        device = _virtio("vhost-user-fs", spec.machine)
        argv += ["-device", f"{device},chardev=share{number},tag={tag},queue-size=1024"]
    if spec.net is not Net.NONE:
        argv += ["-netdev", _network(spec, fds.tap)]
        argv += ["-device", f"{_virtio('virtio-net', spec.machine)},netdev={NETWORK_ID}"]
    return argv


def kernel_command_line(spec: VmSpec, version: tuple[int, ...]) -> str:
    """The guest kernel's parameters (Documentation/admin-guide/kernel-parameters.txt).

    :param version: of QEMU.
    """
    # Otherwise Debian's kernels fill each page with zeros when it is allocated, also those that the balloon takes: the
    # host would have to provide all of them first, and a shrink would take five times as much processor time.
    words = ["console=ttyS0", "quiet", "panic=-1", "psi=1", "init_on_alloc=0"]
    if spec.machine is Machine.MICROVM:
        words.append("pci=off")  # a microvm has no PCI bus: the kernel need not probe
        # By a triple fault. Otherwise the kernel jumps to the firmware, which halts where it finds no kernel: in a
        # restored guest.
        words.append("reboot=t")
    if spec.accel is Accel.TCG:
        # Emulated code is not executed speculatively: mitigations only cost time.
        words.append("mitigations=off")
        if version < CMPXCHG16B_FIXED:
            # The kernel's allocator uses the instruction all the time: guests panicked. Programs may use it as before.
            words.append(f"clearcpuid={CX16}")
        if spec.tsc_khz is not None:
            # An emulated microvm has neither HPET nor PM timer: without this the kernel sometimes cannot calibrate
            # its clock and hangs.
            words.append(f"tsc_early_khz={spec.tsc_khz}")
            # On a busy host the kernel's watchdog mistakes pauses of the emulator for an unstable clock. A guest that
            # has dropped the TSC ticks 250 times a second, even when idle.
            words.append("tsc=nowatchdog")
    return " ".join(words)


def _machine(spec: VmSpec) -> str:
    if spec.machine is Machine.Q35:
        return "q35,memory-backend=ram0,usb=off,vmport=off,smbus=off,sata=off"
    # ACPI announces the virtio-mmio devices: Debian's kernels do not accept them on the command line.
    options = (
        "microvm,memory-backend=ram0,acpi=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off"
    )
    # A kernel that knows its clock never programs the old timer (i8254), which would run as it does after a reset, for
    # ever: it woke the engine 70 times a second, two thirds of the processor time of an idle guest.
    knows_its_clock = spec.accel is Accel.KVM or spec.tsc_khz is not None
    return f"{options},pit=off" if knows_its_clock else options


def _accel(spec: VmSpec) -> str:
    if spec.accel is Accel.KVM:
        return "kvm"
    return f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"


def _cpu(spec: VmSpec) -> str:
    # Five-level page tables only make emulated page walks longer.
    return "host" if spec.accel is Accel.KVM else "max,la57=off"


def _virtio(device: str, machine: Machine) -> str:
    return f"{device}-device" if machine is Machine.MICROVM else f"{device}-pci"


def disk_node(serial: str) -> str:
    """QEMU's name of a disk, below the filter with its limits."""
    return f"disk-{serial}"


def throttle_limits(limits: IoLimits) -> dict[str, int]:
    """QEMU's form (``ThrottleLimits``). 0 is no limit; what is left out stays as it is."""
    return {"bps-total": kib_to_bytes(limits.rate_kib or 0), "iops-total": limits.ops or 0}


def _disk(disk: DiskSpec, machine: Machine) -> list[str]:
    """A raw file, locked while QEMU runs, so that no other QEMU writes to it. In JSON no character of a path is special
    (docs/interop/qmp-spec, BlockdevOptions)."""
    node = disk_node(disk.serial)
    file = {"driver": "file", "filename": str(disk.path), "locking": "on"}
    # Of both nodes: blocks that the guest deletes are freed in the file.
    both: dict[str, str | bool] = {"read-only": disk.read_only}
    if not disk.read_only:
        both["discard"] = "unmap"
    block = {"driver": "raw", "node-name": node, "file": file, **both}
    # Always there: without limits it costs next to nothing, and they can be set at any time (docs/throttle.txt).
    limited = f"limited-{disk.serial}"
    throttle = {
        "driver": "throttle",
        "node-name": limited,
        "file": node,
        "throttle-group": THROTTLE_ID,
        **both,
    }
    device = f"{_virtio('virtio-blk', machine)},drive={limited},serial={disk.serial}"
    # The guest gets an error if the host's disk is full. By default QEMU would pause the guest until someone resumes
    # it.
    device += ",rerror=report,werror=report"
    return ["-blockdev", json.dumps(block), "-blockdev", json.dumps(throttle), "-device", device]


def _network(spec: VmSpec, tap: int | None) -> str:
    """A tap device, or QEMU's user-mode network without a way out (docs/system/devices/net)."""
    if spec.net is Net.USER:
        assert tap is not None, "the network has no link"
        return f"tap,id={NETWORK_ID},fd={tap}"
    words = ["user", f"id={NETWORK_ID}", "ipv6=off", "restrict=on"]
    words += [f"hostfwd={port.protocol}:{port.address}:{port.host}-:{port.guest}" for port in spec.ports]
    return ",".join(words)


def _balloon(balloon: BalloonSpec, machine: Machine) -> str:
    deflate = "on" if balloon.deflate_on_oom else "off"
    reporting = "on" if balloon.free_page_reporting else "off"
    device = _virtio("virtio-balloon", machine)
    return f"{device},id={BALLOON_ID},deflate-on-oom={deflate},free-page-reporting={reporting}"
