"""A guest whose root is a real Debian: scripts, packages, services, its disk, its memory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import EngineError, GuestBootError, GuestCommandError, HostError
from ballonet.base.memory import MIB
from ballonet.base.paths import state_dir_of
from ballonet.guest.bundle import find_busybox
from ballonet.lifecycle.registry import Registry
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs
from ballonet.vmm.config import Machine
from tests.unit import oci
from tests.vm.processes import guest_ram_mib, wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the guest has as /work."""
    return tmp_path_factory.mktemp("work")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def debian(guest: object, debian_image: str, shared: Path) -> AsyncIterator[Sandbox]:
    """One guest for all tests that leave it usable."""
    async with await Sandbox.create(
        "debian",
        image=debian_image,
        balloon=Balloon(min=160),
        volumes=[f"{shared}:/work"],
        ports=["0:8000", "0:5353/udp"],
    ) as running:
        yield running


async def run(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.shell(script)
    assert result.returncode == 0, result
    return result.stdout.decode()


def disk_of(sandbox: Sandbox) -> Path:
    return state_dir_of(sandbox.name) / "disk.img"


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
    port, _ = debian.ports
    assert (port.address, port.guest) == ("127.0.0.1", 8000)
    await run(debian, "mkdir -p /srv/www && echo served by a guest > /srv/www/page")
    async with await debian.exec_stream(
        ["python3", "-um", "http.server", "8000", "-d", "/srv/www"]
    ) as server:
        assert b"Serving HTTP" in await server.stdout.read()
        url = f"http://127.0.0.1:{port.host}/page"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=60).read())
    assert page == b"served by a guest\n"


async def test_datagrams_come_in_through_a_published_udp_port(debian: Sandbox) -> None:
    _, port = debian.ports
    assert (port.address, port.guest, port.protocol) == ("127.0.0.1", 5353, "udp")
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353));"
        "print('bound', flush=True); print(s.recv(99).decode())"
    )
    async with await debian.exec_stream(["python3", "-c", script]) as server:
        assert await server.stdout.read() == b"bound\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"a datagram", (port.address, port.host))
            assert await server.stdout.read() == b"a datagram\n"


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
    vm = build_vm(replace(debian.config, volumes=(), ports=(), net=Net.NONE), disk=disk_of(debian))
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
    guest: object, debian_image: str
) -> None:
    box = await Sandbox.create("kept", image=debian_image, disk="1G", detached=True)
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


async def test_a_damaged_root_is_an_error_that_names_it(debian: Sandbox, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.erofs"
    root = debian.config.root
    assert root is not None
    config = SandboxConfig(name="damaged", root=damaged, disk_mib=64)
    with root.open("rb") as whole, damaged.open("wb") as half:
        half.write(whole.read(2048))
        half.truncate(1 * MIB)
        half.seek(1024 + 16)
        half.write(os.urandom(64))
    with pytest.raises(GuestBootError, match="root erofs"):
        await Sandbox.create(config)
    shutil.copyfile("/etc/passwd", damaged)
    with pytest.raises(HostError, match="neither an erofs nor a squashfs file system"):
        await Sandbox.create(config)
    with Registry.open() as registry:
        assert registry.find("damaged") is None


async def test_all_of_it_works_on_q35_too(debian: Sandbox, shared: Path) -> None:
    ports = (Port(0, 80), Port(0, 81, "0.0.0.0"))
    config = replace(
        debian.config, name="q35", machine=Machine.Q35, tmpfs=(Tmpfs("/scratch", 16),), ports=ports
    )
    async with await Sandbox.create(config) as box:
        script = (
            "python3 -c 'import json'; echo x > /var/x; echo q35 > /work/from-q35; df -k /scratch / | wc -l"
        )
        assert await run(box, script) == "3\n"
        assert (shared / "from-q35").read_text() == "q35\n"
        assert all(port.host != 0 for port in box.ports), "those that the host chose"


@pytest.fixture(scope="module")
def small_image(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of busybox that says how it wants its command run."""
    layout = oci.Layout(tmp_path_factory.mktemp("layout") / "small")
    busybox = find_busybox(os.environ)
    links = [oci.link(f"bin/{name}", "busybox") for name in ("sh", "id", "pwd", "echo", "cat", "sleep")]
    files = {
        "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:/bin/sh\n",
        "etc/group": b"root:x:0:\nusers:x:100:\naudio:x:29:app\nvideo:x:44:root,app\n",
    }
    entries = [
        oci.entry("bin"),
        oci.entry("bin/busybox", busybox.read_bytes(), mode=0o755),
        *links,
        oci.entry("etc"),
    ]
    entries += [oci.entry(name, content) for name, content in files.items()]
    entries += [oci.entry("home/app", uid=1000, gid=100), oci.entry("srv")]
    config = {
        "Entrypoint": ["/bin/sh", "-c", 'echo "$GREETING $1: $(id -u) $(id -G) $(pwd) $HOME"', "sh"],
        "Cmd": ["by itself"],
        "Env": ["GREETING=hello", "PATH=/bin"],
        "User": "app",
        "WorkingDir": "/srv",
    }
    layout.add(oci.layer(*entries), config=config)
    return layout.reference()


def test_a_command_gets_what_the_image_says_unless_it_says_so_itself(
    ballonet: Call, small_image: str
) -> None:
    def said(*words: str) -> str:
        done = ballonet("run", "--image", small_image, *words)
        assert done.returncode == 0, done
        return done.stdout

    assert said() == "hello by itself: 1000 100 29 44 /srv /home/app\n"
    assert (
        said("-e", "GREETING=bye", "-w", "/etc", "-u", "root", "--", "word")
        == "bye word: 0 0 44 /etc /root\n"
    )
    assert said("--entrypoint", "echo", "--", "only this") == "only this\n"


def test_exec_and_the_sandboxs_own_command_get_it_too_and_the_image_is_in_use(
    ballonet: Call, small_image: str
) -> None:
    directory = str(Path(small_image.split(":")[1]))
    assert ballonet("image", "load", directory, "--tag", "small").returncode == 0
    created = ballonet("create", "--name", "own", "--image", "small", "--entrypoint", "sleep", "--", "1000")
    assert created.returncode == 0, created
    try:
        refused = ballonet("image", "rm", "small")
        assert refused.returncode == 2
        assert "'own'" in refused.stderr or "own" in refused.stderr
        with Registry.open() as registry:
            record = registry.get("own")
        assert record.command is not None
        assert (record.command.argv, record.command.user) == (("sleep", "1000"), "app")
        assert record.command.cwd == "/srv"
    finally:
        ballonet("rm", "own")
    assert ballonet("image", "rm", "small").returncode == 0


async def test_commands_in_a_running_sandbox_get_the_images_user_and_directory(small_image: str) -> None:
    async with await Sandbox.create("small", image=small_image) as box:
        show = 'echo "$GREETING $(id -u) $(id -G) $(pwd)"'
        assert (await box.shell(show)).stdout == b"hello 1000 100 29 44 /srv\n"
        done = await box.exec(["sh", "-c", show], user="root:video", cwd="/", env={"GREETING": "x"})
        assert done.stdout == b"x 0 44 /\n"
        with pytest.raises(GuestCommandError, match="unable to find user nobody-here"):
            await box.exec(["id"], user="nobody-here")
