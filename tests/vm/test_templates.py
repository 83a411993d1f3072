"""Sandboxes that start from a template: what they have of their own, and what a damaged template leads to."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ballonet.base.errors import GuestError, HostError
from ballonet.base.memory import MIB
from ballonet.base.paths import cache_dir, state_dir_of
from ballonet.control.client import Client
from ballonet.host.cgroup import Hierarchy, find_hierarchy
from ballonet.host.proc import read_guest_ram_bytes, read_words
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import MACHINE_LOG
from ballonet.machine.templates import templates_dir
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Machine
from tests.unit import oci
from tests.vm.processes import parent_of
from tests.vm.test_balloon import touch

WAIT_S = 120
RESTORED, BOOTED = "the guest is restored from a start template", "the guest is booted"
#: Started by a command, so that it can be killed apart from the test.
_START_KILLED = [sys.executable, "-P", "-m", "ballonet"]
_START_KILLED += ["run", "-d", "--name", "killed", "--memory", "192M", "--idle"]
#: Random bytes, the clock, how long a second takes, the time since boot, and the boot's id.
_OWN = """
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'; echo
date +%s
before=$(cut -d' ' -f1 /proc/uptime); sleep 1; after=$(cut -d' ' -f1 /proc/uptime)
echo $before $after
cat /proc/sys/kernel/random/boot_id
hostname
"""


@pytest.fixture(autouse=True)
def templates(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """No templates at first; everything else of the cache is that of the other tests."""
    ignored = shutil.ignore_patterns("templates", "test-data*", "machines")
    shutil.copytree(cache_dir(), tmp_path / "cache/ballonet", copy_function=os.symlink, ignore=ignored)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield templates_dir()
    assert list(templates_dir().glob("*.part")) == [], "nothing is left half-written"


def how(name: str) -> str:
    """How the sandbox was started, by the log of its process."""
    return next(
        line for line in (state_dir_of(name) / MACHINE_LOG).read_text().splitlines() if "the guest is" in line
    )


def only_template(templates: Path) -> Path:
    """The template, when it is complete: its maker waits for the disk while the sandbox already runs."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = list(templates.iterdir())
        if [path.suffix for path in found] == [".state"]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(found)


async def make_template(templates: Path, **settings: object) -> Path:
    """Start and stop a sandbox that makes the template of its shape."""
    async with await Sandbox.create("maker", **settings):  # type: ignore[arg-type]
        assert BOOTED in how("maker")
    return await asyncio.to_thread(only_template, templates)


async def text_of(box: Sandbox, script: str) -> str:
    done = await box.shell(script)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def check_guests_of_one_template(templates: Path, count: int) -> None:
    template = await make_template(templates, memory="192M")
    before = template.read_bytes()
    seen: list[str] = []
    boots: list[str] = []
    for number in range(count):
        name = f"own-{number}"
        async with await Sandbox.create(name, memory="192M") as box:
            assert RESTORED in how(name)
            asked_at = time.time()
            random, date, uptimes, boot_id, hostname = (await text_of(box, _OWN)).splitlines()
            assert asked_at - 2 <= int(date) <= time.time() + 1
            first, second = map(float, uptimes.split())
            assert 0.9 <= second - first <= 10, "the monotonic clock runs"
            assert hostname == name
            # All pieces of 8 bytes: no two guests share any.
            seen += [random[at : at + 16] for at in range(0, 64, 16)]
            boots.append(boot_id)
    assert len(set(seen)) == 4 * count
    assert len(set(boots)) == count
    assert template.read_bytes() == before


async def test_ten_guests_of_one_template_have_random_numbers_clocks_and_names_of_their_own(
    templates: Path,
) -> None:
    await check_guests_of_one_template(templates, 10)


async def test_guests_of_one_template_are_their_own(templates: Path) -> None:
    """The same with fewer guests, for hosts on which each takes long."""
    await check_guests_of_one_template(templates, 2)


async def test_a_restored_guest_has_its_network(templates: Path) -> None:
    settings: dict[str, object] = {"memory": "192M", "ports": ["0:80"]}
    await make_template(templates, **settings)
    async with await Sandbox.create("served", **settings) as box:  # type: ignore[arg-type]
        assert RESTORED in how("served")
        assert "0% packet loss" in await text_of(box, "ping -c 1 10.0.2.2")
        await text_of(box, "mkdir /www && hostname > /www/name && httpd -h /www")
        reader, writer = await asyncio.open_connection("127.0.0.1", box.ports[0].host)
        writer.write(b"GET /name HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.read()).endswith(b"served\n")
        writer.close()


async def test_a_restored_guest_breathes_and_gets_relief(templates: Path) -> None:
    await make_template(templates, memory="512M", balloon=Balloon(min="128M"))
    async with await Sandbox.create("breathes", memory="512M", balloon=Balloon(min="128M")) as box:
        assert RESTORED in how("breathes")
        assert box.control_socket is not None
        async with await Client.connect(box.control_socket) as client:
            for target in (200, 400):
                reply = await client.set(target, wait=True, timeout_s=WAIT_S, force=True)
                assert (reply.actual_mib, reply.state) == (target, "applied")
            held = read_guest_ram_bytes(box.engine_pid)
            assert held is not None
            assert held < 200 * MIB, "the memory that was taken is the host's"
            # Free-page reporting: what is freed leaves the host.
            await touch(box, 100)
            async with asyncio.timeout(WAIT_S):
                while (read_guest_ram_bytes(box.engine_pid) or 0) > held + 50 * MIB:
                    await asyncio.sleep(0.25)
            assert (await client.stats(max_age_s=0)).guest.available_mib is not None
            await client.set(160, wait=True, timeout_s=WAIT_S)
            await touch(box, 250)  # more than it has: it stalls, and gets all of it back
            balloon = await client.get()
            assert balloon.target_mib == 512
            assert "stalled" in str(balloon.detail)


@pytest.mark.parametrize("machine", Machine)
async def test_two_images_have_one_template_and_each_guest_reads_its_own(
    templates: Path, tmp_path: Path, machine: Machine
) -> None:
    layout = oci.Layout(tmp_path / "images")
    contents = {"one": os.urandom(300_000), "two": os.urandom(5_000_000)}
    for name, content in contents.items():
        layout.add(oci.layer(oci.entry("content", content), oci.entry(f"only-{name}", b"")), name=name)

    for number, name in enumerate(("one", "two", "one", "two")):
        config = SandboxConfig(
            name=f"reads-{name}",
            image=layout.reference(name),
            memory_mib=192,
            disk_mib=64,
            machine=machine,
        )
        async with await Sandbox.create(config) as box:
            assert (RESTORED if number else BOOTED) in how(f"reads-{name}")
            await asyncio.to_thread(only_template, templates)
            assert await box.fs.read("/content") == contents[name]
            names = {info.name for info in await box.fs.list("/")}
            assert {f"only-{other}" for other in contents} & names == {f"only-{name}"}
            await box.fs.write("/written", b"on the disk")
    await asyncio.to_thread(only_template, templates)


async def test_a_disk_that_has_grown_has_its_size_in_a_restored_guest(
    templates: Path,
) -> None:
    box = await Sandbox.create("grows", memory="192M", disk="64M", detached=True)
    try:
        await text_of(box, "echo kept > /disk/note")
        await box.stop()
        await asyncio.to_thread(only_template, templates)
        await box.modify(disk="256M")
        box = await Sandbox.start("grows")
        assert RESTORED in how("grows")
        assert await text_of(box, "cat /disk/note") == "kept\n"
        assert int(await text_of(box, "df -k /disk | tail -1 | awk '{print $2}'")) > 200 * 1024
    finally:
        await Sandbox.remove("grows", force=True)


def memory_controller() -> Hierarchy | None:
    try:
        return find_hierarchy()
    except HostError:
        return None


@pytest.mark.skipif(memory_controller() is None, reason="this host has no writable memory controller")
async def test_the_hard_cap_of_a_restored_guest_counts_its_memory(templates: Path) -> None:
    await make_template(templates, memory="512M")
    async with await Sandbox.create("capped", memory="512M", balloon=Balloon(hard_cap=True)) as box:
        assert RESTORED in how("capped")
        held = read_guest_ram_bytes(box.engine_pid)
        assert held is not None
        assert held > 40 * MIB
        assert charged_bytes("capped") >= held
        assert (await box.exec(["true"])).returncode == 0


def charged_bytes(name: str) -> int:
    """What the memory controller counts for the engine of a sandbox."""
    hierarchy = find_hierarchy()
    (group,) = hierarchy.parent.glob(f"ballonet-{name}-*")
    return int((group / ("memory.usage_in_bytes", "memory.current")[hierarchy.version - 1]).read_text())


async def test_a_sandbox_with_a_volume_boots_and_so_does_one_that_is_told_to(
    templates: Path, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    async with await Sandbox.create("shares", memory="192M", volumes=[f"{tmp_path}/shared:/shared"]):
        assert BOOTED in how("shares")
    assert list(templates.iterdir()) == []
    command = [sys.executable, "-P", "-m", "ballonet", "--debug", "run", "--memory", "192M"]
    made = False
    for words, source in ((["--cold"], "booted"), ([], "booted"), ([], "restored"), (["--cold"], "booted")):
        done = subprocess.run(
            [*command, *words, "--", "true"], capture_output=True, text=True, timeout=WAIT_S, check=True
        )
        assert f"is {source}" in done.stderr
        # The first one has made none.
        assert (list(templates.iterdir()) == []) == (words == ["--cold"] and source == "booted" and not made)
        made = made or words == []
        if made:
            await asyncio.to_thread(only_template, templates)
    pruned = subprocess.run(
        [*command[:4], "prune", "--templates"], capture_output=True, text=True, check=True
    )
    assert "\nremoved start template " in f"\n{pruned.stdout}"  # after what killed tests have left
    assert list(templates.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "devices", "memory"])
async def test_a_damaged_template_leads_to_a_boot_that_replaces_it(templates: Path, damage: str) -> None:
    template = await make_template(templates, memory="192M")
    with template.open("r+b") as file:
        size = template.stat().st_size
        if damage == "truncated":
            file.truncate(size // 2)
        elif damage == "devices":
            file.seek(size - 30_000)
            inverted = bytes(byte ^ 0xFF for byte in file.read(1000))  # zeros may be what is there
            file.seek(size - 30_000)
            file.write(inverted)
        else:
            file.seek(4096)
            file.write(os.urandom(size - 200_000))
    async with await Sandbox.create("damaged", memory="192M") as box:
        assert f"{BOOTED}, because" in how("damaged")
        assert (await box.exec(["true"])).returncode == 0
    await asyncio.to_thread(only_template, templates)
    async with await Sandbox.create("again", memory="192M"):
        assert RESTORED in how("again")


async def test_of_many_that_start_at_once_one_makes_the_template(templates: Path) -> None:
    names = [f"many-{number}" for number in range(4)]
    boxes = await asyncio.gather(*(Sandbox.create(name, memory="192M") for name in names))
    try:
        made = [
            name
            for name in names
            if "start template: saved" in (state_dir_of(name) / MACHINE_LOG).read_text()
        ]
        assert len(made) == 1
        await asyncio.to_thread(only_template, templates)
    finally:
        await asyncio.gather(*(box.kill() for box in boxes))


async def test_a_sandbox_that_is_killed_while_it_saves_leaves_nothing_that_is_used(templates: Path) -> None:
    """Killed at the first sight of the file, so in the middle of writing it."""
    while not await asyncio.to_thread(killed_while_it_saves, templates):
        # On a busy host it may be too late.
        await Sandbox.remove("killed", force=True)
        for left in templates.iterdir():
            left.unlink()
    assert [path.suffix for path in templates.iterdir()] == [".part"]
    async with await Sandbox.create("next", memory="192M"):
        assert BOOTED in how("next")
    await asyncio.to_thread(only_template, templates)


def killed_while_it_saves(templates: Path) -> bool:
    """Kill a sandbox that makes a template as soon as it has written something; false if it had started by then."""
    starter = subprocess.Popen(_START_KILLED, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.kill(when_it_saves(templates), signal.SIGKILL)
        return starter.wait(WAIT_S) != 0
    finally:
        starter.kill()
        starter.wait()


def when_it_saves(templates: Path) -> int:
    """The process of the sandbox "killed", as soon as it has written something of a template."""
    deadline = time.monotonic() + WAIT_S
    written = False
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # renamed meanwhile
            written = any(path.stat().st_size > MIB for path in templates.iterdir())
        if written:
            with Registry.open() as registry:
                process = registry.get("killed").process
            assert process is not None
            return process.pid
        time.sleep(0.001)
    raise AssertionError("nothing was saved")


async def test_a_sandbox_that_is_killed_while_it_is_restored_leaves_the_template_as_it_was(
    templates: Path,
) -> None:
    template = await make_template(templates, memory="192M")
    before = template.read_bytes()
    starter = subprocess.Popen(_START_KILLED, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        engine, machine = await asyncio.to_thread(when_it_restores, "killed")
        os.kill(machine, signal.SIGKILL)
        assert await asyncio.to_thread(starter.wait, WAIT_S) != 0
    finally:
        starter.kill()
        starter.wait()
    async with asyncio.timeout(WAIT_S):
        while Path(f"/proc/{engine}/exe").exists():
            await asyncio.sleep(0.05)
    assert template.read_bytes() == before
    assert list(templates.iterdir()) == [template]
    async with await Sandbox.create("next", memory="192M"):
        assert RESTORED in how("next")


def when_it_restores(name: str) -> tuple[int, int]:
    """The engine that waits for a saved state, as soon as there is one, and its sandbox's process."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
            argv = read_words(pid)
            if "-incoming" in argv and any(word.startswith(f"guest={name},") for word in argv):
                return pid, parent_of(pid)
        time.sleep(0.001)
    raise AssertionError("nothing was restored")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_a_disk_that_is_full_while_a_guest_is_saved_leaves_a_sandbox_that_runs(templates: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(templates)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        async with await Sandbox.create("full", memory="192M") as box:
            assert BOOTED in how("full")
            log = (state_dir_of("full") / MACHINE_LOG).read_text()
            assert "no start template was made: [Errno 28] No space left on device" in log
            assert (await box.exec(["true"])).returncode == 0
        assert list(templates.iterdir()) == []
    finally:
        subprocess.run(["umount", str(templates)], check=True)


@pytest.mark.parametrize("machine", Machine)
async def test_a_restored_guest_that_ends_itself_ends_its_sandbox_with_the_reason(
    templates: Path, machine: Machine
) -> None:
    """A reset needs the firmware, or does not: in a restored machine the firmware finds no kernel."""
    for name, key, reason in (
        ("maker", "b", "guest-reboot"),
        ("panics", "c", "guest-panic"),
        ("reboots", "b", "guest-reboot"),
        ("powers-off", "o", "guest-poweroff"),
    ):
        box = await Sandbox.create(SandboxConfig(name=name, memory_mib=192, machine=machine))
        try:
            assert (BOOTED if name == "maker" else RESTORED) in how(name)
            await asyncio.to_thread(only_template, templates)
            with pytest.raises(GuestError):
                await box.shell(f"echo {key} > /proc/sysrq-trigger; sleep 1000")
            async with asyncio.timeout(WAIT_S):
                assert (await box.wait()).reason == reason
        finally:
            await box.kill()
