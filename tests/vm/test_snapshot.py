"""Snapshots and forks of running sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import ConfigError, HostError, NameInUseError, SnapshotError, UnknownSandboxError
from ballonet.base.memory import MIB
from ballonet.base.paths import state_dir_of
from ballonet.control.client import Client
from ballonet.host.proc import read_guest_ram_bytes
from ballonet.lifecycle.record import State
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.snapshots import Snapshots as SdkSnapshots
from ballonet.vmm.guest_ram import MEMFD_NAME
from tests.vm.processes import descriptors
from tests.vm.test_balloon import touch

WAIT_S = 120
#: Random bytes, the date, how long a second takes, and the name.
_OWN = """
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'; echo
date +%s
before=$(cut -d' ' -f1 /proc/uptime); sleep 1; after=$(cut -d' ' -f1 /proc/uptime)
echo $before $after
hostname
"""
_COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"


@pytest.fixture(autouse=True)
def store(
    guest: object, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Snapshots]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    yield Snapshots.open()
    assert [path.name for path in Snapshots.open().directory.iterdir() if path.name.startswith(".")] == []


def cli(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "ballonet", *words]


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(cli(*words), capture_output=True, text=True, timeout=WAIT_S, check=False)


async def text_of(box: Sandbox, script: str) -> str:
    done = await box.shell(script)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


def digests(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def memfd_bytes(pid: int) -> int:
    """What the host holds for a guest: the blocks of its memfd, whatever the engine has mapped."""
    fd = next(fd for fd, to in descriptors(pid).items() if MEMFD_NAME in to)
    return Path(f"/proc/{pid}/fd/{fd}").stat().st_blocks * 512


async def check_breathing(box: Sandbox) -> None:
    """The balloon moves in both directions, and the host gets back what the guest gives."""
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        await touch(box, 100)
        for target in (200, 400):
            reply = await client.set(target, wait=True, timeout_s=WAIT_S, force=True)
            assert (reply.actual_mib, reply.state) == (target, "applied")
            if target == 200:
                held = memfd_bytes(box.engine_pid)
                assert held <= 201 * MIB
                assert read_guest_ram_bytes(box.engine_pid) == pytest.approx(held, abs=8 * MIB)
        await touch(box, 120)
        async with asyncio.timeout(WAIT_S):  # free-page reporting
            while memfd_bytes(box.engine_pid) > held + 60 * MIB:
                await asyncio.sleep(0.25)


async def check_forks(count: int, store: Snapshots) -> None:
    names = [f"fork-{number}" for number in range(count)]
    parent = await Sandbox.create(
        "parent", memory="512M", balloon=Balloon(min="128M"), command=["sh", "-c", _COUNT]
    )
    async with parent:
        await text_of(
            parent, "mkdir /keep; mount -t tmpfs none /keep; head -c 9000000 /dev/urandom > /keep/x"
        )
        before = await text_of(parent, "md5sum /keep/x")
        snapshot = await parent.snapshot("before")
        saved = digests(snapshot.path)
        forks = await parent.fork(*names)
        assert [fork.name for fork in forks] == names
        async with contextlib.AsyncExitStack() as stack:
            for fork in forks:
                await stack.enter_async_context(fork)
            asked_at = time.time()
            seen: list[str] = []
            said = await asyncio.gather(*(text_of(fork, _OWN) for fork in forks))
            for name, text in zip(names, said, strict=True):
                random, date, uptimes, hostname = text.splitlines()
                assert hostname == name
                assert asked_at - 2 <= int(date) <= time.time() + 1
                first, second = map(float, uptimes.split())
                assert 0.9 <= second - first <= 20, "the monotonic clock runs"
                seen += [random[at : at + 16] for at in range(0, 64, 16)]
            seen.append(await text_of(parent, "head -c 8 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'"))
            assert len(set(seen)) == 4 * count + 1
            assert [await text_of(fork, "md5sum /keep/x") for fork in forks] == [before] * count
            for fork in forks:
                await check_breathing(fork)
                await text_of(fork, "head -c 9000000 /dev/zero > /keep/x")
                assert "parent" not in await text_of(fork, "cat /etc/hosts /etc/hostname")
        assert await text_of(parent, "md5sum /keep/x") == before
        assert digests(snapshot.path) == saved
        assert await text_of(parent, "hostname") == "parent"
    with pytest.raises(UnknownSandboxError):
        await Sandbox.get(names[0])


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.extended)])
async def test_forks_are_their_own_and_breathe(store: Snapshots, count: int) -> None:
    await check_forks(count, store)


def lines_of(name: str) -> list[int]:
    return list(map(int, run_cli("logs", name).stdout.split()))


async def wait_for(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(what):
            await asyncio.sleep(0.2)


async def test_the_command_goes_on_in_a_sandbox_from_a_snapshot_and_in_the_saved_one(
    store: Snapshots,
) -> None:
    async with await Sandbox.create("counting", memory="256M", command=["sh", "-c", _COUNT]) as box:
        await wait_for(lambda: len(lines_of("counting")) >= 3)
        snapshot = await box.snapshot("counted")
        facts = snapshot.readable()
        assert (facts.sandbox, facts.command_runs) == ("counting", True)
        at_save = len(lines_of("counting"))
        async with await Sandbox.restore("counted", "goes-on", target="200M") as restored:
            await wait_for(lambda: len(lines_of("goes-on")) >= 3)
            numbers = lines_of("goes-on")
            assert numbers[0] <= at_save + 1, "no number is skipped"
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            assert (await restored.balloon.get()).target_mib == 200
            # A snapshot of a restored sandbox is one like others.
            await restored.snapshot("again")
        await wait_for(lambda: len(lines_of("counting")) >= at_save + 3)
        numbers = lines_of("counting")
        assert numbers == list(range(1, numbers[-1] + 1)), "the saved one has lost nothing"
    assert store.names() == ["again", "counted"]
    # After its end nothing of it is left, and its name can be used.
    async with await Sandbox.restore("again", "counting") as box:
        assert await text_of(box, "hostname") == "counting"


async def test_a_paused_sandbox_is_saved_and_stays_paused(store: Snapshots) -> None:
    async with await Sandbox.create(
        "asleep", memory="256M", disk="256M", command=["sh", "-c", _COUNT]
    ) as box:
        await text_of(box, "echo kept > /disk/file; echo kept > /run/file")
        await asyncio.gather(box.snapshot("first"), box.snapshot("second"))  # one after the other
        await box.pause()
        saved_at = len(lines_of("asleep"))
        await box.snapshot("sleeping")
        (fork,) = await box.fork("woken")
        async with fork:
            assert await text_of(fork, "cat /disk/file /run/file; hostname") == "kept\nkept\nwoken"
            await wait_for(lambda: len(lines_of("woken")) >= 2)
            assert lines_of("woken")[0] == saved_at + 1
        assert box.record().state is State.PAUSED
        assert await text_of(box, "cat /disk/file /run/file; hostname") == "kept\nkept\nasleep"
    assert store.names() == ["first", "second", "sleeping"]
    async with await Sandbox.restore("sleeping", "again") as box:
        assert await text_of(box, "cat /disk/file") == "kept"


@pytest.fixture
async def with_disk() -> AsyncIterator[Sandbox]:
    async with await Sandbox.create("on-disk", memory="256M", disk="512M") as box:
        yield box


async def test_a_disk_is_that_of_the_moment_while_the_guest_writes(
    with_disk: Sandbox, store: Snapshots
) -> None:
    """One file has pairs of equal numbers that are written in order, in memory and on the disk."""
    script = (
        "head -c 30000000 /dev/urandom > /disk/big; md5sum /disk/big > /disk/sum; sync; cd /disk; i=0;"
        " while true; do i=$((i+1)); echo $i > n; mv n a; sync; echo $i > n; mv n b;"
        " head -c 500000 /dev/urandom > c; done"
    )
    writing = await with_disk.exec_stream(["sh", "-c", script])
    async with asyncio.timeout(WAIT_S):
        while (await with_disk.shell("test -s /disk/b")).returncode != 0:
            await asyncio.sleep(0.2)
    await with_disk.snapshot("moment")
    forks = await with_disk.fork("disk-1", "disk-2")
    async with forks[0], forks[1]:
        for fork in forks:
            # Cached blocks are dropped, so that everything is read from the copy.
            await text_of(fork, "sync; echo 3 > /proc/sys/vm/drop_caches; md5sum -c /disk/sum")
            a, b = map(int, (await text_of(fork, "cat /disk/a; cat /disk/b")).split())
            assert a in (b, b + 1)
            await text_of(fork, "rm /disk/big; head -c 1000000 /dev/zero > /disk/sum; sync")
            assert "error" not in await text_of(fork, "dmesg | grep -i ext4")
    await text_of(with_disk, "md5sum -c /disk/sum")
    assert writing.running
    async with await Sandbox.restore("moment", "disk-3") as box:
        await text_of(box, "echo 3 > /proc/sys/vm/drop_caches; md5sum -c /disk/sum")
    disk = store.get("moment").disk_path
    assert disk.stat().st_blocks * 512 < 200 * MIB, "holes stay holes"


async def test_two_forks_publish_ports_of_their_own(store: Snapshots) -> None:
    serve = ["sh", "-c", "echo $$ > /pid; httpd -f -p 80 -h /etc"]
    async with await Sandbox.create(
        "serving", memory="256M", net="user", ports=["0:80"], command=serve
    ) as box:
        with pytest.raises(ConfigError, match="cannot be published by 2 copies"):
            await box.fork("one", "two", ports=["8080:80"])
        forks = await box.fork("one", "two", ports=["0:80"])
        async with forks[0], forks[1]:
            ports = {each.ports[0].host for each in (box, *forks)}
            assert len(ports) == 3
            for each in (box, *forks):
                address = f"http://127.0.0.1:{each.ports[0].host}/hostname"
                async with asyncio.timeout(WAIT_S):
                    while (text := await asyncio.to_thread(fetched, address)) is None:
                        await asyncio.sleep(0.2)
                assert text.strip() == each.name


def fetched(address: str) -> str | None:
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            text: bytes = answer.read()
            return text.decode()
    except OSError:
        return None


async def test_what_cannot_be_saved_or_restored_is_refused_and_the_sandbox_runs_on(
    store: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await Sandbox.create("refusing", memory="256M") as box:
        await box.snapshot("kept")
        with pytest.raises(NameInUseError, match="'kept'"):
            await box.snapshot("kept")
        with pytest.raises(NameInUseError, match="'refusing'"):
            await box.fork("other", "refusing")
        with pytest.raises(ConfigError, match="twice"):
            await box.fork("other", "other")
        with pytest.raises(ConfigError, match="has no network"):
            await Sandbox.restore("kept", "other", ports=["0:80"])
        path = store.get("kept").path / "snapshot.json"
        facts = json.loads(path.read_text())
        facts["platform"]["engine_version"] = "9.9.9"
        path.write_text(json.dumps(facts))
        with pytest.raises(SnapshotError, match=r"QEMU 9\.9\.9, and this host has QEMU"):
            await Sandbox.restore("kept", "other")
        with pytest.raises(UnknownSandboxError):
            await Sandbox.get("other")
        assert await text_of(box, "echo on") == "on"


async def test_a_full_disk_is_told_and_the_sandbox_runs_on(with_disk: Sandbox, store: Snapshots) -> None:
    await text_of(with_disk, "head -c 60000000 /dev/urandom > /disk/big; sync; echo marked > /run/mark")
    for limit in (50 * MIB, 10 * MIB):  # the memory's file, then the disk's
        old = resource.prlimit(with_disk.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with pytest.raises(HostError, match="the snapshot of sandbox 'on-disk' cannot be written"):
            await with_disk.snapshot("full")
        resource.prlimit(with_disk.pid, resource.RLIMIT_FSIZE, old)
        assert await text_of(with_disk, "cat /run/mark; md5sum < /disk/big > /dev/null") == "marked"
        assert store.names() == []
    await with_disk.snapshot("fits")
    async with await Sandbox.restore("fits", "restored") as box:
        assert await text_of(box, "cat /run/mark") == "marked"


async def test_an_export_is_restored_from_its_file(
    with_disk: Sandbox, store: Snapshots, tmp_path: Path
) -> None:
    await text_of(with_disk, "echo here > /disk/file; echo there > /run/file")
    await with_disk.snapshot("exported")
    file = tmp_path / "exported.tar"
    before = os.umask(0)
    try:
        SdkSnapshots.export("exported", file)
        SdkSnapshots.load(file, "imported")
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o600
    SdkSnapshots.remove("exported")
    # Through a pipe, as to another host. Its engine has other files: the key in the header is another one.
    export = subprocess.Popen(cli("snapshot", "export", "imported", "-"), stdout=subprocess.PIPE)
    words = cli("snapshot", "import", "-", "--name", "piped")
    piped = subprocess.run(
        words, stdin=export.stdout, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    export.communicate()
    assert piped.stdout.strip() == "piped", piped.stderr
    from ballonet.vmm.saved_state import amend_state

    piped_path = store.get("piped").path
    amend_state(piped_path / "memory.state", key="0" * 64)
    facts = json.loads((piped_path / "snapshot.json").read_text())
    facts["state_key"] = "0" * 64
    (piped_path / "snapshot.json").write_text(json.dumps(facts))
    before = os.umask(0)
    try:
        async with await Sandbox.restore("piped", "elsewhere") as box:
            assert await text_of(box, "cat /disk/file /run/file") == "here\nthere"
            files = [
                path for path in state_dir_of("elsewhere").iterdir() if path.suffix in (".img", ".state")
            ]
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    finally:
        os.umask(before)
    assert await text_of(with_disk, "cat /run/file") == "there"


def engines_of(name: str) -> list[int]:
    """The engines whose command line has the name of a sandbox."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if f"guest={name},".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.mark.parametrize("after_s", [0.3, 0.5, 0.7, 0.9, 1.2])
async def test_a_kill_during_a_snapshot_leaves_all_or_nothing(
    with_disk: Sandbox, store: Snapshots, after_s: float
) -> None:
    await text_of(with_disk, "head -c 20000000 /dev/urandom > /disk/big; sync")
    child = subprocess.Popen(cli("snapshot", "create", "on-disk", "killed"), stdout=subprocess.PIPE)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(after_s)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    # The sandbox's process may still be writing into the directory.
    assert await text_of(with_disk, "echo on") == "on"
    await with_disk.snapshot("whole")
    store.prune()
    for name in store.names():
        snapshot = store.get(name)
        assert snapshot.readable().sandbox == "on-disk"
        assert {path.name for path in snapshot.path.iterdir()} == {
            "snapshot.json",
            "memory.state",
            "disk.img",
        }
    async with await Sandbox.restore("whole", "restored") as box:
        await text_of(box, "md5sum /disk/big")


#: Kills itself where the first argument says, while it makes a sandbox of a snapshot or of another sandbox.
_KILLED = """
import asyncio, os, signal, sys
from ballonet.lifecycle import restore
from ballonet.machine import launch
from ballonet.sdk.sandbox import Sandbox

async def kill(*args, **settings):
    os.kill(os.getpid(), signal.SIGKILL)

places = {"registered": (restore, "start_sandbox"), "starting": (launch, "launch"), "paused": (restore, "kill")}
setattr(*places[sys.argv[1]], kill)

async def main(how, detached):
    if how == "restore":
        box = await Sandbox.restore("kept", "half", detached=detached)
        await box.pause()
        await kill()
    else:
        box = await Sandbox.get("parent")
        await box.fork("half", detached=detached)

asyncio.run(main(sys.argv[2], sys.argv[3] == "detached"))
"""


async def test_a_program_that_is_killed_before_its_restored_sandbox_runs_leaves_no_owned_one(
    store: Snapshots,
) -> None:
    async with await Sandbox.create("parent", memory="256M") as parent:
        await parent.snapshot("kept")
        for where in ("registered", "starting"):
            for how in ("restore", "fork"):
                for owned in (True, False):
                    words = [where, how, "owned" if owned else "detached"]
                    done = await asyncio.to_thread(
                        subprocess.run, [sys.executable, "-P", "-c", _KILLED, *words], check=False
                    )
                    assert done.returncode == -signal.SIGKILL
                    if owned:
                        with pytest.raises(UnknownSandboxError):
                            await Sandbox.get("half")
                        assert not state_dir_of("half").exists()
                    else:
                        box = await Sandbox.get("half")
                        assert box.record().state is State.PAUSED
                        await Sandbox.remove("half", force=True)
        # One that has run, and was paused, is kept if its program is killed.
        words = ["paused", "restore", "owned"]
        await asyncio.to_thread(subprocess.run, [sys.executable, "-P", "-c", _KILLED, *words], check=False)
        record = (await Sandbox.get("half")).record()
        assert record.state is State.PAUSED
        assert record.auto_remove
        await Sandbox.remove("half")
    run_cli("prune")


@pytest.mark.parametrize("after_s", [0.4, 0.8, 1.2, 1.6, 2.0])
async def test_a_kill_during_a_fork_leaves_whole_sandboxes_or_none(
    with_disk: Sandbox, store: Snapshots, after_s: float
) -> None:
    child = subprocess.Popen(cli("fork", "on-disk", "half-1", "half-2"), stdout=subprocess.PIPE)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(after_s)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert await text_of(with_disk, "echo on") == "on"
    for name in ("half-1", "half-2"):
        try:
            box = await Sandbox.get(name)
        except UnknownSandboxError:
            assert engines_of(name) == []
            continue

        # A fork that had begun to run ends with the program that made it; its state then is still there.
        def ended(box: Sandbox = box) -> bool:
            return box.record().state.value in ("failed", "paused", "running", "created", "stopped")

        await wait_for(ended)
        await Sandbox.remove(name, force=True)
        await wait_for(lambda name=name: engines_of(name) == [])  # type: ignore[misc]
        assert not state_dir_of(name).exists()
    run_cli("prune")
    assert store.names() == []
