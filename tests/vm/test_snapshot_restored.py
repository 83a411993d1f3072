"""Sandboxes that are made from snapshots: with an image and a disk that has grown, relief, the hard cap, and files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet.base.memory import MIB
from ballonet.base.paths import state_dir_of
from ballonet.control.client import Client
from ballonet.host.proc import read_guest_ram_bytes
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from tests.unit import oci
from tests.vm.test_balloon import touch
from tests.vm.test_snapshot import WAIT_S, text_of
from tests.vm.test_templates import charged_bytes, memory_controller


@pytest.fixture(autouse=True)
def store(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Snapshots]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield Snapshots.open()


async def test_each_of_two_images_is_restored_with_its_disk_and_one_has_grown(
    store: Snapshots, tmp_path: Path
) -> None:
    layout = oci.Layout(tmp_path / "images")
    contents = {"one": os.urandom(300_000), "two": os.urandom(5_000_000)}
    for name, content in contents.items():
        layout.add(oci.layer(oci.entry("content", content), oci.entry(f"only-{name}", b"")), name=name)
    big = os.urandom(62 * MIB)  # more than the disk had at first
    for name in contents:
        box = await Sandbox.create(
            f"saves-{name}", image=layout.reference(name), memory="256M", disk="64M", detached=True
        )
        try:
            await box.fs.write("/first", name.encode())
            if name == "two":
                await box.stop()
                await box.modify(disk="256M")
                box = await Sandbox.start(box.name)
                await box.fs.write("/big", big)
            assert await box.fs.read("/content") == contents[name]
            await box.snapshot(name)
            await box.fs.write("/later", b"not in the snapshot")
        finally:
            await Sandbox.remove(box.name, force=True)
    for name in contents:
        async with await Sandbox.restore(name, f"of-{name}") as box:
            assert await box.fs.read("/content") == contents[name]
            assert await box.fs.read("/first") == name.encode()
            names = {info.name for info in await box.fs.list("/")}
            assert {"only-one", "only-two", "later"} & names == {f"only-{name}"}
            await box.fs.write("/own", b"of the copy")
            (fork,) = await box.fork(f"fork-{name}")
            async with fork:
                assert await fork.fs.read("/own") == b"of the copy"
                assert await fork.fs.read("/content") == contents[name]
                if name == "two":
                    assert await fork.fs.read("/big") == big
    assert store.names() == ["one", "two"]


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_files_are_private_under_any_umask(store: Snapshots, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with await Sandbox.create("private", memory="192M", disk="64M") as box:
            await text_of(box, "echo kept > /disk/note")
            path = (await box.snapshot("saved")).path
            assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}
            assert path.stat().st_mode & 0o777 == 0o700
        async with await Sandbox.restore("saved", "again") as box:
            assert await text_of(box, "cat /disk/note") == "kept"
            await box.pause()
            directory = state_dir_of("again")
            assert directory.stat().st_mode & 0o777 == 0o700
            files = [file for file in directory.iterdir() if file.suffix in (".img", ".state")]
            assert len(files) == 2
            assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
            await box.resume()
            assert await text_of(box, "cat /disk/note") == "kept"
    finally:
        os.umask(before)


async def test_a_guest_from_a_snapshot_gets_relief(store: Snapshots) -> None:
    async with await Sandbox.create("parent", memory="512M", balloon=Balloon(min="128M")) as box:
        await box.snapshot("saved")
    async with await Sandbox.restore("saved", "relieved", target="200M") as box:
        assert box.control_socket is not None
        async with await Client.connect(box.control_socket) as client:
            reply = await client.set(160, wait=True, timeout_s=WAIT_S, force=True)
            assert (reply.actual_mib, reply.state) == (160, "applied")
            await touch(box, 250)  # more than it has: it stalls, and gets all of it back
            balloon = await client.get()
            assert balloon.target_mib == 512
            assert "stalled" in str(balloon.detail)


@pytest.mark.skipif(memory_controller() is None, reason="this host has no writable memory controller")
async def test_the_hard_cap_of_a_guest_from_a_snapshot_counts_its_memory(store: Snapshots) -> None:
    async with await Sandbox.create("parent", memory="512M", balloon=Balloon(hard_cap=True)) as box:
        await text_of(box, f"mount -t tmpfs none /mnt && head -c {60 * MIB} /dev/urandom > /mnt/x")
        await box.snapshot("saved")
    async with await Sandbox.restore("saved", "capped") as box:
        held = read_guest_ram_bytes(box.engine_pid)
        assert held is not None
        assert held > 100 * MIB
        assert await asyncio.to_thread(charged_bytes, "capped") >= held
        assert (await box.balloon.set("256M")).target_mib == 256
        await text_of(box, "md5sum /mnt/x")
