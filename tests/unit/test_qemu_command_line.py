"""The engine's command line, rendered without starting anything."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ballonet.vmm.attach import Net, Port
from ballonet.vmm.config import Accel, BalloonSpec, DiskSpec, IoLimits, Machine, VmSpec
from ballonet.vmm.qemu.command_line import EngineFds, kernel_command_line, render_command
from ballonet.vmm.qemu.engine import Qemu

ENGINE = Qemu(
    Path("/usr/bin/qemu-system-x86_64"), (7, 2, 0), ("microvm", "q35"), ("kvm", "tcg"), seccomp=True
)
SPEC = VmSpec(
    name="box",
    cpus=2,
    memory_mib=1024,
    machine=Machine.MICROVM,
    accel=Accel.TCG,
    kernel=Path("/k/vmlinux"),
    initramfs=Path("/k/initramfs"),
    balloon=BalloonSpec(1024, 512, 256),
    tsc_khz=2_500_000,
)
FDS = EngineFds(qmp=10, agent=11, console=12, ram=9, tap=13)


def rendered(spec: VmSpec, engine: Qemu = ENGINE) -> str:
    return " ".join(render_command(spec, engine, FDS))


def test_nothing_is_inherited_from_the_user_or_given_by_default() -> None:
    command = rendered(SPEC)
    for word in ("-nodefaults", "-no-user-config", "-sandbox on,", "-display none", "-no-reboot"):
        assert word in command
    for word in ("-net", "-blockdev", "vhost-user", "-global"):
        assert word not in command


def test_guest_memory_is_a_shared_memfd_of_the_ceiling() -> None:
    assert "memory-backend-file,id=ram0,mem-path=/proc/self/fd/9,size=1024M,share=on" in rendered(SPEC)


def test_a_microvm_has_a_firmware_that_boots_a_kernel_without_option_roms() -> None:
    assert "x-option-roms=off" in rendered(SPEC)
    assert "-bios qboot.rom" in rendered(SPEC)
    assert "-bios" not in rendered(replace(SPEC, machine=Machine.Q35))


def test_without_a_balloon_there_is_no_balloon_device() -> None:
    assert "virtio-balloon" in rendered(SPEC)
    assert "virtio-balloon" not in rendered(replace(SPEC, balloon=None))


def test_balloon_switches_reach_the_device() -> None:
    assert "deflate-on-oom=on,free-page-reporting=on" in rendered(SPEC)
    off = replace(SPEC, balloon=BalloonSpec(1024, 512, 256, deflate_on_oom=False, free_page_reporting=False))
    assert "deflate-on-oom=off,free-page-reporting=off" in rendered(off)


def test_q35_has_pci_devices_and_microvm_has_mmio_ones() -> None:
    assert "virtio-balloon-device," in rendered(SPEC)
    assert "virtio-balloon-pci," in rendered(replace(SPEC, machine=Machine.Q35))


def test_emulation_bounds_its_cache_and_tells_the_guest_its_clock() -> None:
    assert "tb-size=64" in rendered(SPEC)
    assert "tsc_early_khz=2500000" in kernel_command_line(SPEC, ENGINE.version)


def test_kvm_keeps_the_guests_mitigations() -> None:
    line = kernel_command_line(replace(SPEC, accel=Accel.KVM), (7, 2, 0))
    assert "mitigations" not in line
    assert "clearcpuid" not in line
    assert "tsc_early_khz" not in line


def test_a_microvm_has_the_old_timer_only_if_its_kernel_may_need_it() -> None:
    assert "pit=off" in rendered(SPEC)
    assert "pit=off" in rendered(replace(SPEC, accel=Accel.KVM, tsc_khz=None))
    assert "pit=off" not in rendered(replace(SPEC, tsc_khz=None)), "its clock is calibrated with it"
    assert "pit=off" not in rendered(replace(SPEC, machine=Machine.Q35))


@pytest.mark.parametrize("accel", list(Accel))
@pytest.mark.parametrize("machine", list(Machine))
def test_the_balloon_takes_pages_that_the_kernel_does_not_fill_first(accel: Accel, machine: Machine) -> None:
    line = kernel_command_line(replace(SPEC, accel=accel, machine=machine), ENGINE.version)
    assert "init_on_alloc=0" in line.split()


def test_a_kernel_does_not_use_the_instruction_that_an_older_qemu_emulates_wrongly() -> None:
    assert "clearcpuid=141" in kernel_command_line(SPEC, (7, 2, 22))
    assert "clearcpuid" not in kernel_command_line(SPEC, (8, 0, 0))


def test_an_engine_without_seccomp_is_not_asked_for_it() -> None:
    assert "-sandbox" not in rendered(SPEC, replace(ENGINE, seccomp=False))


def test_disks_are_locked_and_no_character_of_their_paths_has_a_meaning() -> None:
    disks = (DiskSpec("r", Path('/a,b="c"\\d'), read_only=True), DiskSpec("w", Path("/disk.img")))
    argv = render_command(replace(SPEC, disks=disks), ENGINE, FDS)
    _, root, root_filter, disk, _ = (json.loads(word) for word in argv if word.startswith("{"))
    assert root["file"] == {"driver": "file", "filename": '/a,b="c"\\d', "locking": "on"}
    assert (root["read-only"], disk["read-only"], disk["discard"]) == (True, False, "unmap")
    assert (root_filter["file"], root_filter["read-only"]) == ("disk-r", True)
    assert "virtio-blk-device,drive=limited-r,serial=r,rerror=report,werror=report" in argv


def test_all_disks_have_one_limit_which_is_no_part_of_a_templates_shape(tmp_path: Path) -> None:
    for name in ("vmlinux", "initramfs", "qemu"):
        (tmp_path / name).touch()
    engine = replace(ENGINE, binary=tmp_path / "qemu")
    disks = (DiskSpec("r", Path("/r"), read_only=True), DiskSpec("w", Path("/w")))
    free = replace(SPEC, disks=disks, kernel=tmp_path / "vmlinux", initramfs=tmp_path / "initramfs")
    limited = replace(free, io_limits=IoLimits(rate_kib=1024, ops=50))
    group, *blocks = (json.loads(word) for word in render_command(limited, engine, FDS) if word[0] == "{")
    assert group["limits"] == {"bps-total": 1 << 20, "iops-total": 50}
    filters = [block for block in blocks if block["driver"] == "throttle"]
    assert [block["throttle-group"] for block in filters] == [group["id"]] * 2
    assert all(("discard" in block) is not block["read-only"] for block in blocks), "both nodes pass it on"
    group, *_ = (json.loads(word) for word in render_command(free, engine, FDS) if word[0] == "{")
    assert group["limits"] == {"bps-total": 0, "iops-total": 0}, "0 is no limit"
    assert engine.state_key(limited) == engine.state_key(free)
    assert "throttle" not in rendered(SPEC), "it has no disks"


def test_shared_directories_come_over_inherited_sockets_and_the_newer_transport() -> None:
    fds = EngineFds(qmp=10, agent=11, console=12, ram=9, shares=(13, 14))
    argv = render_command(replace(SPEC, shares=("volume0", "volume1")), ENGINE, fds)
    assert "socket,id=share1,fd=14" in argv
    assert "vhost-user-fs-device,chardev=share1,tag=volume1,queue-size=1024" in argv
    assert "virtio-mmio.force-legacy=off" in argv


def test_an_isolated_network_is_qemus_own_and_ports_are_bound_where_they_were_asked() -> None:
    ports = (Port(8080, 80), Port(0, 53, "0.0.0.0", "udp"))
    command = rendered(replace(SPEC, net=Net.ISOLATED, ports=ports))
    forwards = "hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:0-:53"
    words = f"-netdev user,id=net0,ipv6=off,restrict=on,{forwards} -device virtio-net-device,netdev=net0"
    assert words in command


def test_the_user_network_is_a_link_without_anything_of_the_engines_own() -> None:
    command = rendered(replace(SPEC, net=Net.USER, ports=(Port(8080, 80),)))
    assert "-netdev tap,id=net0,fd=13 -device virtio-net-device,netdev=net0" in command
    assert "user," not in command
    assert "hostfwd" not in command


def test_a_restored_machine_has_the_same_devices_and_loads_no_kernel() -> None:
    spec = replace(SPEC, disks=(DiskSpec("root", Path("/images/one"), read_only=True),), net=Net.USER)
    booted, restored = render_command(spec, ENGINE, FDS), render_command(spec, ENGINE, FDS, restore=True)
    assert restored[restored.index("-incoming") + 1] == "defer"
    assert not {"-kernel", "-initrd", "-append"} & set(restored)
    devices = [word for flag, word in pairwise(booted) if flag in ("-device", "-object", "-machine", "-cpu")]
    assert devices == [
        word for flag, word in pairwise(restored) if flag in ("-device", "-object", "-machine", "-cpu")
    ]


def test_machines_that_look_the_same_to_their_guests_restore_each_others_states(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("qemu", "kernel", "initramfs")]
    for file in files:
        file.write_text("first")
    engine = replace(ENGINE, binary=files[0])
    disks = (DiskSpec("root", Path("/images/one"), read_only=True), DiskSpec("disk", Path("/one.img")))
    spec = replace(SPEC, kernel=files[1], initramfs=files[2], disks=disks, net=Net.USER)
    key = engine.state_key(spec)
    assert key is not None
    same = [
        replace(spec, name="other"),
        replace(spec, disks=tuple(replace(disk, path=Path("/two")) for disk in disks)),
        replace(spec, ports=(Port(8080, 80),)),
        replace(spec, balloon=BalloonSpec(1024, 256, 128, guard_mib=64)),
    ]
    assert {engine.state_key(other) for other in same} == {key}
    others = [
        replace(spec, cpus=1),
        replace(spec, memory_mib=512),
        replace(spec, machine=Machine.Q35),
        replace(spec, accel=Accel.KVM),
        replace(spec, tsc_khz=2_500_001),
        replace(spec, balloon=None),
        replace(spec, balloon=BalloonSpec(1024, 512, 256, free_page_reporting=False)),
        replace(spec, disks=disks[:1]),
        replace(spec, disks=(disks[0], replace(disks[1], read_only=True))),
        replace(spec, net=Net.NONE),
    ]
    keys = [engine.state_key(other) for other in others]
    keys.append(replace(engine, version=(7, 2, 1)).state_key(spec))
    for file in files:
        file.write_text("another")
        keys.append(engine.state_key(spec))
    assert len({key, *keys}) == 1 + len(keys)
    assert engine.state_key(replace(spec, shares=("volume0",))) is None
