"""A guest whose root is a real Debian: scripts, packages, services, its disk, its memory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet import lifecycle
from ballonet.builder import SandboxBuilder
from ballonet.errors import EngineError, GuestBootError, HostError
from ballonet.machine.build import build_vm
from ballonet.memory import MIB
from ballonet.registry.registry import Registry
from ballonet.sandbox import Sandbox
from tests.vm.processes import guest_ram_mib, wait_until
from tests.vm.roots import debian_root

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    return debian_root()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the guest has as /work."""
    return tmp_path_factory.mktemp("work")


def rooted(name: str, root: Path) -> SandboxBuilder:
    builder = SandboxBuilder(name).memory(512).balloon(512, 160)
    builder._set(root=root)  # what ballonet.imaged does with an image's root
    return builder.disk("1G")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def debian(guest: object, run_directory: Path, root: Path, shared: Path) -> AsyncIterator[Sandbox]:
    """One guest for all tests that leave it usable."""
    config = rooted("debian", root).volume(f"{shared}:/work").publish("0:8000").build()
    async with await Sandbox.create(config) as running:
        yield running


async def run(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.shell(script)
    assert result.returncode == 0, result
    return result.stdout.decode()


def disk_of(sandbox: Sandbox) -> Path:
    return lifecycle.state_dir_of(sandbox.name) / "disk.img"


def used_mib(file: Path) -> int:
    """What a sparse file takes of the host's space."""
    return file.stat().st_blocks * 512 // MIB


async def test_a_real_script_runs_on_a_real_root(debian: Sandbox) -> None:
    script = """
import json, os, pathlib, platform, sqlite3, subprocess
kept = pathlib.Path("/var/lib/records.db")
with sqlite3.connect(kept) as database:
    database.execute("CREATE TABLE IF NOT EXISTS seen (what TEXT)")
    database.execute("INSERT INTO seen VALUES (?)", (platform.machine(),))
    rows = database.execute("SELECT * FROM seen").fetchall()
print(json.dumps({
    "rows": rows,
    "distribution": platform.freedesktop_os_release()["ID"],
    "dpkg": "python3" in subprocess.run(["dpkg", "-l"], capture_output=True, text=True).stdout,
    "host": platform.node(),
    "init": os.readlink("/proc/1/exe"),
    "tmp": oct(os.stat("/tmp").st_mode & 0o7777),
}))
"""
    done = await debian.exec(["python3", "-c", script])
    assert done.returncode == 0, done
    told = json.loads(done.stdout)
    assert told["rows"] == [["x86_64"]]
    assert (told["distribution"], told["dpkg"], told["host"], told["tmp"]) == (
        "debian",
        True,
        "debian",
        "0o1777",
    )


async def test_what_is_mounted_is_the_roots_and_the_initramfs_is_freed(debian: Sandbox) -> None:
    mounts = (await run(debian, "cat /proc/mounts")).splitlines()
    kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert kinds["/"] == "overlay"
    assert kinds["/work"] == "virtiofs"
    assert {"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/sys/fs/cgroup"} <= set(kinds)
    assert "/tmp" not in kinds, "its files belong on the disk, not in the guest's memory"
    memory = dict(line.split(":") for line in (await run(debian, "cat /proc/meminfo")).splitlines())
    # Nothing else of the kind is there: what the agent locks is counted, too (some 300 KiB).
    assert int(memory["Unevictable"].split()[0]) < 1024


async def test_a_wheel_in_a_volume_is_installed_and_imported(debian: Sandbox, shared: Path) -> None:
    wheel = shared / "greeting-1.0-py3-none-any.whl"
    information = "greeting-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greeting.py", "def hello(): return 'hello from a wheel'\n")
        archive.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        archive.writestr(
            f"{information}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{information}/RECORD", "")
    install = f"python3 -m pip install --no-index --break-system-packages --quiet /work/{wheel.name}"
    await run(debian, f"{install} 2>&1")
    said = await run(
        debian, "cd / && python3 -c 'import greeting; print(greeting.hello(), greeting.__file__)'"
    )
    assert said.startswith("hello from a wheel /usr/local/lib/python3")


async def test_http_is_served_to_the_host_through_a_published_port(debian: Sandbox) -> None:
    (port,) = debian.ports
    assert (port.address, port.guest) == ("127.0.0.1", 8000)
    await run(debian, "mkdir -p /srv/www && echo served by a guest > /srv/www/page")
    async with await debian.exec_stream(
        ["python3", "-um", "http.server", "8000", "-d", "/srv/www"]
    ) as server:
        assert b"Serving HTTP" in await server.stdout.read()
        url = f"http://127.0.0.1:{port.host}/page"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())
    assert page == b"served by a guest\n"


async def test_what_is_deleted_leaves_the_hosts_file(debian: Sandbox) -> None:
    disk = disk_of(debian)
    await run(debian, "sync")
    before = used_mib(disk)
    await run(debian, "dd if=/dev/urandom of=/var/big bs=1M count=64 2>/dev/null && sync")
    assert used_mib(disk) >= before + 64
    await run(debian, "rm /var/big && sync")
    # The kernel discards when the journal has committed the deletion.
    wait_until(lambda: used_mib(disk) < before + 20, "the deleted file's blocks to leave the host's file")


async def test_no_second_engine_gets_the_disk(debian: Sandbox) -> None:
    config = rooted("second", debian.config.root or Path("/"))
    vm = build_vm(config.build(), disk=disk_of(debian))
    with pytest.raises(EngineError, match='Failed to get "write" lock'):
        await vm.start()


async def test_the_balloon_works_with_a_root(debian: Sandbox) -> None:
    """Dirtied, freed and shrunk: the host holds less, and the guest goes on."""
    hold = "x = bytearray(250 << 20); x[::4096] = bytes(len(x[::4096])).replace(b'\\0', b'1'); print(len(x))"
    assert (await debian.exec(["python3", "-c", hold])).stdout == b"262144000\n"
    high = guest_ram_mib(debian.engine_pid)
    reply = await debian.balloon.set(200, wait=True, timeout_s=120)
    assert reply.state == "applied", reply
    assert high > 260
    assert guest_ram_mib(debian.engine_pid) <= 200
    assert (await debian.exec(["python3", "-c", "import json"])).returncode == 0
    assert (await debian.balloon.set(512, wait=True, timeout_s=120)).state == "applied"


async def test_a_disk_outlives_stops_grows_and_goes_with_its_sandbox(
    guest: object, run_directory: Path, root: Path
) -> None:
    config = rooted("kept", root).build()
    box = await Sandbox.create(config, detached=True)
    try:
        await run(box, "echo remembered > /etc/note; touch /usr/bin/mine; rm /etc/debian_version")
        await box.stop()
        (change,) = await box.modify(disk="2G")
        assert (change.when, change.old, change.new) == ("next start", 1024, 2048)
        box = await Sandbox.start("kept")
        assert await run(box, "cat /etc/note; ls /usr/bin/mine; ls /etc/debian_version || true") == (
            "remembered\n/usr/bin/mine\n"
        )
        size_kib = int((await run(box, "df -k / | tail -1")).split()[1])
        assert size_kib > 1900 * 1024
        disk = disk_of(box)
        assert disk.exists()
    finally:
        await Sandbox.remove("kept", force=True)
    assert not disk.exists()


async def test_a_damaged_root_is_an_error_that_names_it(
    guest: object, run_directory: Path, root: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.erofs"
    with root.open("rb") as whole, damaged.open("wb") as half:
        half.write(whole.read(2048))
        half.truncate(1 * MIB)
        half.seek(1024 + 16)
        half.write(os.urandom(64))
    with pytest.raises(GuestBootError, match="root erofs"):
        await Sandbox.create(rooted("damaged", damaged).build())
    shutil.copyfile("/etc/passwd", damaged)
    with pytest.raises(HostError, match="neither erofs nor squashfs"):
        await Sandbox.create(rooted("damaged", damaged).build())
    with Registry.open() as registry:
        assert registry.find("damaged") is None
