"""What a guest is told to make of its machine, and which kernel modules that takes."""

from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.machine.guest_setup import needed_modules, root_kind, setup_steps
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Tmpfs, Volume

PLAIN = SandboxConfig(name="box")
ROOTED = SandboxConfig(name="box", root=Path("/r"), disk_mib=64)


def test_a_plain_guest_needs_no_modules_and_gets_no_mounts() -> None:
    assert {step[0] for step in setup_steps(PLAIN, None)} == {"memory", "hostname", "file"}
    assert needed_modules(PLAIN, None) == []


def test_the_root_comes_first_and_no_mount_hides_another() -> None:
    config = SandboxConfig(
        name="box",
        root=Path("/r"),
        disk_mib=64,
        volumes=(Volume(Path("/a"), "/data/in/deep", read_only=True), Volume(Path("/b"), "/data")),
        tmpfs=(Tmpfs("/data/in", 5),),
    )
    steps = setup_steps(config, "erofs")
    assert steps[0] == ["root", "erofs", "ballonet-root", "ballonet-disk"]
    assert steps[1:4] == [
        ["volume", "volume1", "/data", "rw"],
        ["tmpfs", "/data/in", "mode=1777,size=5m"],
        ["volume", "volume0", "/data/in/deep", "ro"],
    ]
    assert needed_modules(config, "erofs") == ["virtio_blk", "erofs", "overlay", "virtiofs"]


def test_a_disk_beside_the_built_in_root_has_a_place_of_its_own() -> None:
    config = SandboxConfig(name="box", disk_mib=64)
    assert setup_steps(config, None)[1] == ["disk", "ballonet-disk", "/disk"]
    assert needed_modules(config, None) == ["virtio_blk"]


def test_a_guest_may_have_another_name_than_its_sandbox() -> None:
    steps = setup_steps(SandboxConfig(name="box", hostname="web.example.org", net=Net.USER), None)
    assert ["hostname", "web.example.org"] in steps
    assert ["file", "/etc/hostname", "web.example.org\n"] in steps
    hosts = next(step[2] for step in steps if step[:2] == ["file", "/etc/hosts"])
    assert hosts.endswith("\tweb.example.org web\n")


@pytest.mark.parametrize("config, kind", [(PLAIN, None), (ROOTED, "erofs")])
def test_a_guest_knows_its_name_and_without_a_network_no_name_server(
    config: SandboxConfig, kind: str | None
) -> None:
    steps = setup_steps(config, kind)
    assert ["hostname", "box"] in steps
    hosts = next(step[2] for step in steps if step[:2] == ["file", "/etc/hosts"])
    assert {tuple(line.split()[:2]) for line in hosts.splitlines()} == {
        ("127.0.0.1", "localhost"),
        ("::1", "localhost"),
        ("127.0.1.1", "box"),
    }
    assert ["file", "/etc/resolv.conf", ""] in steps
    assert not [step for step in steps if step[0] == "network"]


@pytest.mark.parametrize("net, server", [(Net.USER, "nameserver 10.0.2.3\n"), (Net.ISOLATED, "")])
def test_a_network_is_configured_without_asking_for_it(net: Net, server: str) -> None:
    steps = setup_steps(SandboxConfig(name="box", net=net), None)
    assert ["file", "/etc/resolv.conf", server] in steps
    assert steps[-1] == ["network", "10.0.2.15", "255.255.255.0", "10.0.2.2"]


def test_a_root_is_known_by_its_magic_number(tmp_path: Path) -> None:
    file = tmp_path / "root"
    file.write_bytes(bytes(1024) + b"\xe2\xe1\xf5\xe0" + bytes(100))
    assert root_kind(file) == "erofs"
    file.write_bytes(b"hsqs" + bytes(100))
    assert root_kind(file) == "squashfs"
    file.write_bytes(b"")
    with pytest.raises(HostError, match="neither an erofs nor a squashfs file system"):
        root_kind(file)
    with pytest.raises(HostError, match="No such file"):
        root_kind(tmp_path / "absent")
