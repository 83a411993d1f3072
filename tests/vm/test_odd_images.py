"""Images in which paths that the guest needs are not what they usually are."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet.base.paths import state_dir_of
from ballonet.sdk.sandbox import Sandbox
from tests.unit import oci


@pytest.fixture
def layout(run_directory: Path, tmp_path: Path) -> oci.Layout:
    return oci.Layout(tmp_path / "odd")


async def test_a_guest_boots_where_its_image_has_files_and_links_for_directories(
    guest: object, layout: oci.Layout
) -> None:
    layout.add(
        oci.layer(
            oci.entry("dev", b"a file"),
            oci.entry("proc", b"a file"),
            oci.entry("var/run"),
            oci.link("run", "/var/run"),
            oci.link("sys", "/nowhere"),
            oci.entry("etc"),
            oci.entry("etc/resolv.conf"),
            oci.link("etc/hostname", "/nowhere/name"),
            oci.entry("etc/hosts/kept", b"content"),
        )
    )
    async with await Sandbox.create("odd", image=layout.reference(), memory="160M") as box:
        assert "null" in [info.name for info in await box.fs.list("/dev")]
        assert "meminfo" in [info.name for info in await box.fs.list("/proc")]
        assert "kernel" in [info.name for info in await box.fs.list("/sys")]
        mounts = (await box.fs.read("/proc/self/mounts")).decode()
        assert "tmpfs /var/run tmpfs" in mounts
        assert (await box.fs.stat("/run")).kind == "link"
        # What an image has at the place of a file is replaced, except for a directory with something in it.
        assert await box.fs.read("/etc/hostname") == b"odd\n"
        assert (await box.fs.stat("/etc/resolv.conf")).kind == "file"
        assert await box.fs.read("/etc/hosts/kept") == b"content"
        assert "file /etc/hosts: Is a directory" in messages_of("odd")


async def test_a_guest_boots_where_its_image_has_no_place_for_its_names(
    guest: object, layout: oci.Layout
) -> None:
    layout.add(oci.layer(oci.entry("etc", b"a file")))
    async with await Sandbox.create("odd", image=layout.reference(), memory="160M") as box:
        assert await box.fs.read("/etc") == b"a file"
        assert await box.fs.read("/proc/sys/kernel/hostname") == b"odd\n"
        for name in ("hostname", "hosts", "resolv.conf"):
            assert f"file /etc/{name}: Not a directory" in messages_of("odd")


def messages_of(name: str) -> str:
    """What the sandbox's process and its guest's console have written."""
    return "".join(path.read_text(errors="replace") for path in state_dir_of(name).rglob("*.log"))
