from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.guest.initramfs import (
    DEFAULT_MODULES,
    build_initramfs,
    busybox_applets,
    obtain_initramfs,
    render,
)
from ballonet.guest.kernel import Kernel
from ballonet.guest.modules import Module
from tests.unit import images
from tests.unit.test_cpio import entries

BUSYBOX = shutil.which("busybox")
needs_busybox = pytest.mark.skipif(BUSYBOX is None, reason="install busybox-static")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    image = images.install_kernel(tmp_path / "host")
    return Kernel(images.RELEASE, image, image, tmp_path / "host/lib/modules" / images.RELEASE)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    (tmp_path / "agent").write_bytes(images.elf([(1, b"the agent")]))
    return tmp_path / "agent"


@pytest.fixture
def busybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A static program as far as its bytes go; what it would answer is given instead."""
    monkeypatch.setattr("ballonet.guest.initramfs.busybox_applets", lambda path: ["bin/sh", "usr/bin/wc"])
    (tmp_path / "busybox").write_bytes(images.elf([(1, b"busybox")]))
    return tmp_path / "busybox"


def test_guest_gets_agent_busybox_and_modules_in_load_order(
    kernel: Kernel, agent: Path, busybox: Path, tmp_path: Path
) -> None:
    built = obtain_initramfs(
        kernel=kernel, agent=agent, busybox=busybox, module_names=DEFAULT_MODULES, cache=tmp_path / "cache"
    )
    assert built.modules == ("virtio_ring", "virtio", "virtio_mmio", "virtio_pci", "virtio_balloon")
    found = entries(built.path.read_bytes())
    listed = found["etc/ballonet/modules"][1].decode().splitlines()
    assert [Path(line).stem for line in listed] == list(built.modules)
    for line in listed:
        assert found[line.removeprefix("/")][1].startswith(b"\x7fELF")
        assert line.startswith(f"/lib/modules/{images.RELEASE}/kernel/")
    assert found["init"][1] == agent.read_bytes()
    assert found["bin/busybox"][1] == busybox.read_bytes()
    assert found["usr/bin/wc"][1] == b"/bin/busybox"


def test_modes_and_nodes_are_what_a_system_expects() -> None:
    found = entries(render(release="6.9", agent=b"a", busybox=b"b", applets=["sbin/init"], modules=[]))
    modes = {name: numbers[1] for name, (numbers, _) in found.items()}
    assert modes["init"] == stat.S_IFREG | 0o755
    assert modes["tmp"] == stat.S_IFDIR | 0o1777
    assert modes["root"] == stat.S_IFDIR | 0o700
    assert modes["sbin/init"] == stat.S_IFLNK | 0o777
    assert modes["dev/console"] == stat.S_IFCHR | 0o600
    assert found["dev/console"][0][9:11] == [5, 1]
    assert {"proc", "sys", "dev", "run", "var", "mnt"} <= modes.keys()
    assert found["etc/resolv.conf"][1] == b""
    assert found["etc/passwd"][1].startswith(b"root:x:0:0:")
    assert found["etc/ballonet/modules"][1] == b""
    assert "etc/ballonet/device-modules" not in found


def test_same_inputs_give_the_same_bytes() -> None:
    modules = [
        (Module("a", Path("/x/a.ko"), "kernel/a.ko"), b"a"),
        (Module("b", Path("/x/b.ko"), "kernel/b.ko"), b"b"),
    ]

    def build() -> bytes:
        return render(release="6.9", agent=b"a", busybox=b"b", applets=["bin/sh", "bin/ls"], modules=modules)

    assert build() == build()


def test_drivers_of_disks_and_networks_are_loaded_with_the_setup() -> None:
    modules = [
        (Module(name, Path(f"{name}.ko"), f"{name}.ko"), b"ELF")
        for name in ("overlay", "failover", "virtio_net")
    ]
    archive = render(
        release="6.9", agent=b"a", busybox=b"b", applets=[], modules=modules, late=("failover", "virtio_net")
    )
    found = entries(archive)
    assert found["etc/ballonet/modules"][1] == b"/lib/modules/6.9/overlay.ko\n"
    assert found["etc/ballonet/device-modules"][1].split() == [
        b"/lib/modules/6.9/failover.ko",
        b"/lib/modules/6.9/virtio_net.ko",
    ]


def test_second_build_is_the_first_ones_file_until_an_input_changes(
    kernel: Kernel, agent: Path, busybox: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def build(*names: str) -> Path:
        cache = tmp_path / "cache"
        return obtain_initramfs(
            kernel=kernel, agent=agent, busybox=busybox, module_names=names, cache=cache, report=said.append
        ).path

    first = build("virtio_balloon")
    assert build("virtio_balloon") == first
    assert len(said) == 1
    assert build() != first
    agent.write_bytes(images.elf([(1, b"another agent")]))
    second = build("virtio_balloon")
    assert second != first
    balloon = kernel.modules_dir / "kernel/drivers/virtio/virtio_balloon.ko"
    balloon.write_bytes(images.module("virtio,virtio_ring", text="changed"))
    third = build("virtio_balloon")
    assert third != second
    (kernel.modules_dir / "modules.dep").write_text("kernel/drivers/virtio/virtio_balloon.ko:\n")
    assert build("virtio_balloon") not in (first, second, third)


def test_dynamic_busybox_is_refused_with_the_cure(
    kernel: Kernel, agent: Path, busybox: Path, tmp_path: Path
) -> None:
    busybox.write_bytes(images.elf([(3, b"/lib64/ld-linux-x86-64.so.2\0"), (1, b"busybox")]))
    with pytest.raises(HostError, match="busybox is dynamically linked") as caught:
        build_initramfs(
            kernel=kernel, agent=agent, busybox=busybox, module_names=(), cache=tmp_path / "cache"
        )
    assert "busybox-static" in str(caught.value.hint)


def test_missing_agent_is_an_error(kernel: Kernel, busybox: Path, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"gone cannot be read: No such file"):
        build_initramfs(
            kernel=kernel, agent=tmp_path / "gone", busybox=busybox, module_names=(), cache=tmp_path / "cache"
        )


@needs_busybox
def test_real_busybox_says_where_its_programs_go() -> None:
    applets = busybox_applets(Path(str(BUSYBOX)))
    assert {"bin/sh", "bin/cat"} <= set(applets)
    assert "bin/busybox" not in applets
    assert all("/" in name and not name.startswith("/") for name in applets)


def test_program_that_is_no_busybox_is_refused() -> None:
    with pytest.raises(HostError, match="lists no programs"):
        busybox_applets(Path("/bin/true"))
