"""Limits of the host's processors and disks. What QEMU reads and writes is counted by the host's kernel."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ballonet.base.errors import HostError
from ballonet.base.paths import state_dir_of
from ballonet.host.cgroup import CPU, Hierarchy, find_hierarchy, open_cpu_group
from ballonet.host.proc import read_cpu_s, read_io
from ballonet.lifecycle.sandboxes import MACHINE_LOG
from ballonet.machine.hardcap import group_name
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from tests.vm.processes import wait_until

WAIT_S = 200
CLI = [sys.executable, "-P", "-m", "ballonet"]
KIB, MIB = 1 << 10, 1 << 20
RATE = 256 * KIB
#: What may pass above the rate: a tenth of a second's worth, a request, and what else QEMU writes and reads.
BURST = RATE // 10 + 512 * KIB
#: A limit is the average of a time: how far a measured rate may be above it, and is above it at least without it.
ABOVE, WITHOUT = 1.25, 4


@pytest.fixture(autouse=True)
def _directories(guest: object, run_directory: Path) -> None:
    """The run directory of the tests."""


@pytest.fixture
def name() -> Iterator[str]:
    """A sandbox of that name is removed at the end."""
    chosen = f"limits-{os.urandom(3).hex()}"
    yield chosen
    subprocess.run([*CLI, "rm", "--force", chosen], capture_output=True, check=False, timeout=WAIT_S)
    assert not state_dir_of(chosen).exists()


def io_bytes(box: Sandbox) -> int:
    """What the engine has read and written."""
    found = read_io(box.engine_pid)
    assert found is not None
    return found.read_bytes + found.written_bytes


async def limited(count: Callable[[], float], least: float, rate: float, burst: float) -> float:
    """Wait until ``least`` more is counted; it must not have come faster than ``rate``. Returns the count."""
    before, began = count(), time.monotonic()
    await asyncio.to_thread(wait_until, lambda: count() - before >= least, "the guest goes on", WAIT_S)
    now = count()
    took_s = time.monotonic() - began
    assert now - before <= ABOVE * rate * took_s + burst, (now - before, took_s)
    return now


async def shell(box: Sandbox, script: str) -> str:
    done = await box.shell(script, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def writing(file: str, size_mib: int) -> str:
    return f"dd if=/dev/zero of={file} bs=64K count={size_mib * 16} oflag=direct 2>/dev/null"


async def test_writes_keep_to_the_rate_and_go_on_at_once_when_it_is_lifted(name: str) -> None:
    box = await Sandbox.create(name, memory="256M", disk="256M", io_rate="256K", detached=True)
    before = io_bytes(box)
    write = asyncio.create_task(box.shell(writing("/disk/f", 64), timeout=WAIT_S))
    now = await limited(lambda: io_bytes(box), 1.5 * MIB, RATE, BURST)
    assert not write.done()
    (change,) = await box.modify(io_rate=0)
    assert (change.old, change.new, change.when, change.state) == (256, None, "live", "done")
    lifted = time.monotonic()
    assert (await write).returncode == 0
    took_s = time.monotonic() - lifted
    assert before + 64 * MIB - now > WITHOUT * RATE * took_s, f"the rest took {took_s:.1f} s"
    # Reads, under a limit that was not there at the start of the guest's work.
    await box.modify(io_rate="256K")
    read = asyncio.create_task(box.shell("dd if=/disk/f of=/dev/null bs=64K iflag=direct", timeout=WAIT_S))
    await limited(lambda: io_bytes(box), 1.5 * MIB, RATE, BURST)
    (change,) = await box.modify(io_rate="1G")
    assert (await read).returncode == 0


async def test_operations_keep_to_their_number(name: str) -> None:
    box = await Sandbox.create(name, memory="256M", disk="256M", io_ops=50, detached=True)
    script = "dd if=/dev/zero of=/disk/f bs=4K count=5000 oflag=direct 2>/dev/null"
    write = asyncio.create_task(box.shell(script, timeout=WAIT_S))
    stat = "cat /sys/block/vd*/stat | awk '{n += $1 + $5} END {print n}'"
    began, before = time.monotonic(), int(await shell(box, stat))
    while (now := int(await shell(box, stat))) < before + 200:
        await asyncio.sleep(0.1)
    assert now - before <= ABOVE * 50 * (time.monotonic() - began) + 20
    await box.modify(io_ops=0)
    lifted = time.monotonic()
    assert (await write).returncode == 0
    assert before + 5000 - now > WITHOUT * 50 * (time.monotonic() - lifted)


async def test_limits_stay_after_a_pause_in_a_fork_and_from_a_template(name: str) -> None:
    box = await Sandbox.create(name, memory="256M", disk="256M", detached=True)
    await shell(box, "dd if=/dev/urandom of=/disk/kept bs=1M count=20; md5sum /disk/kept > /disk/sum; sync")
    await box.modify(io_rate="256K")

    async def keeps_to_the_rate(one: Sandbox) -> None:
        """A write in the background of the guest, which goes on when this returns."""
        await shell(one, f"({writing('/disk/more', 64)}) >/dev/null 2>&1 </dev/null &")
        await limited(lambda: io_bytes(one), MIB, RATE, BURST)

    await keeps_to_the_rate(box)
    # While requests wait for their turn: what is saved has to have them, and the time is not spent waiting.
    (fork,) = await box.fork(f"{name}-fork", detached=False)
    async with fork:
        assert fork.config.io_rate_kib == 256
        await limited(lambda: io_bytes(fork), MIB, RATE, BURST)
        await fork.modify(io_rate=0)
        assert await shell(fork, "killall dd; md5sum -c /disk/sum") == "/disk/kept: OK\n"
    await box.pause()
    await box.resume()
    await limited(lambda: io_bytes(box), MIB, RATE, BURST)
    await box.modify(io_rate=0)
    assert await shell(box, "killall dd; md5sum -c /disk/sum") == "/disk/kept: OK\n"
    # The first sandbox has made a template, if there was none.
    async with await Sandbox.create(f"{name}-2", memory="256M", disk="256M", io_rate="256K") as second:
        log = (state_dir_of(f"{name}-2") / MACHINE_LOG).read_text()
        assert "the guest is restored from a start template" in log
        await keeps_to_the_rate(second)


def cpu_controller() -> Hierarchy | None:
    try:
        open_cpu_group(f"ballonet-probe-{os.getpid()}").remove()
        return find_hierarchy(CPU)
    except HostError:
        return None


needs_cpu_controller = pytest.mark.skipif(cpu_controller() is None, reason="no writable cpu controller")


def cpu_group(name: str) -> Path:
    hierarchy = cpu_controller()
    assert hierarchy is not None
    return hierarchy.parent / group_name(name)


def quota(name: str) -> str:
    """The kernel's limit, in µs of each 100 ms."""
    group = cpu_group(name)
    file = group / "cpu.cfs_quota_us"
    return (file if file.exists() else group / "cpu.max").read_text().split()[0]


def throttled(name: str) -> int:
    """In how many periods the kernel has stopped the sandbox."""
    words = (cpu_group(name) / "cpu.stat").read_text().split()
    return int(words[words.index("nr_throttled") + 1])


def members(name: str) -> list[int]:
    return [int(pid) for pid in (cpu_group(name) / "cgroup.procs").read_text().split()]


@needs_cpu_controller
async def test_the_kernel_keeps_a_sandbox_to_its_quota_and_a_change_holds_at_once(name: str) -> None:
    box = await Sandbox.create(
        name, memory="256M", cpu_quota="20%", balloon=Balloon(hard_cap=True), detached=True
    )
    assert (box.engine_pid in members(name), quota(name)) == (True, "20000")
    await shell(box, "(while :; do :; done) >/dev/null 2>&1 </dev/null &")
    before = throttled(name)
    await limited(lambda: read_cpu_s(box.engine_pid) or 0.0, 0.5, 0.20, 0.1)
    await asyncio.to_thread(wait_until, lambda: throttled(name) > before, "the kernel throttles", WAIT_S)
    (change,) = await box.modify(cpu_quota=0)
    assert (change.old, change.new, change.when, change.state) == (20, None, "live", "done")
    assert quota(name) in ("-1", "max")
    await box.stop()
    assert not cpu_group(name).exists()


@needs_cpu_controller
async def test_a_running_sandbox_gets_a_quota_that_it_keeps_over_stop_and_pause(name: str) -> None:
    box = await Sandbox.create(name, memory="256M", net="user", detached=True)
    assert not cpu_group(name).exists()
    (change,) = await box.modify(cpu_quota=0.5)
    assert (change.new, change.state) == (50, "done")
    helpers = {pid for pid in members(name) if pid != box.engine_pid}
    assert (box.engine_pid in members(name), quota(name)) == (True, "50000")
    assert "slirp4netns" in {Path(f"/proc/{pid}/comm").read_text().strip() for pid in helpers}
    await box.pause()
    assert not cpu_group(name).exists()
    await box.resume()
    assert (box.engine_pid in members(name), quota(name)) == (True, "50000")
    await box.stop()
    box = await Sandbox.start(name)
    assert (box.engine_pid in members(name), quota(name)) == (True, "50000")
    group = cpu_group(name)
    await Sandbox.remove(name, force=True)
    assert not group.exists()


async def test_impossible_limits_are_refused_as_they_were_typed(run_directory: Path) -> None:
    for words, why in (
        (("--cpu-quota", "5%"), "--cpu-quota 5 % is outside 10 to"),
        (("--cpu-quota", "much"), "--cpu-quota 'much' is not an amount of processor time"),
        (("--io-rate", "1K"), "--io-rate 1 KiB a second is outside 256 to"),
        (("--io-ops", "1"), "--io-ops 1 is outside 20 to"),
    ):
        done = await asyncio.to_thread(
            subprocess.run, [*CLI, "run", *words, "--", "true"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
