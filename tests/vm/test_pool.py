"""Pools of waiting sandboxes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet import sync
from ballonet.base.errors import ConfigError, ImageError, SandboxClosedError
from ballonet.base.memory import MIB
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import list_sandboxes
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.sdk.creation import Balloon
from ballonet.sdk.pool import Pool
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.sync_pool import Pool as SyncPool
from tests.vm.test_snapshot import engines_of, memfd_bytes, store, text_of

WAIT_S = 120
__all__ = ["store"]


def names() -> list[str]:
    with Registry.open() as registry:
        return [record.name for record in list_sandboxes(registry) if record.name.startswith("pool-")]


async def test_a_pool_gives_out_sandboxes_and_starts_others(guest: object, run_directory: Path) -> None:
    async with Pool(size=2, memory="512M", balloon=Balloon(initial="300M", min="128M")) as pool:
        await pool.fill(WAIT_S)
        assert pool.waiting == 2
        waiting = list(pool._waiting)
        for box in waiting:
            assert (await box.balloon.get()).target_mib == 128
        box = await pool.take()
        assert box is waiting[0]
        async with box:
            assert (await box.balloon.get()).target_mib == 300
            assert await text_of(box, "hostname") == box.name
            await pool.fill(WAIT_S)
            assert len(names()) == 3
            # One that was killed while it waited is not given out.
            os.kill(waiting[1].engine_pid, signal.SIGKILL)
            await waiting[1].wait()
            other = await pool.take(WAIT_S)
            assert other.name not in (box.name, waiting[1].name)
            assert await text_of(other, "echo on") == "on"
    with pytest.raises(SandboxClosedError):
        await pool.take()
    # The one that was taken is the caller's.
    assert names() == [other.name]
    await other.close()
    assert names() == []


async def test_a_pool_of_a_snapshot_waits_small(store: Snapshots) -> None:
    async with await Sandbox.create("warm", memory="512M", balloon=Balloon(min="128M")) as box:
        await text_of(box, "mkdir /keep; mount -t tmpfs none /keep; echo ready > /keep/state")
        await text_of(box, "head -c 200000000 /dev/zero | tail -c 1000 > /dev/null")
        await box.snapshot("warm")
    with pytest.raises(ConfigError, match="takes no memory"):
        Pool(size=1, snapshot="warm", memory="1G")
    async with Pool(size=2, snapshot="warm") as pool:
        await pool.fill(WAIT_S)
        assert all(memfd_bytes(box.engine_pid) <= 130 * MIB for box in pool._waiting)
        async with await pool.take() as taken:
            assert await text_of(taken, "cat /keep/state") == "ready"
            assert (await taken.balloon.get()).target_mib == 512
    assert names() == []


async def test_a_pool_tells_why_nothing_starts(guest: object, run_directory: Path) -> None:
    async with Pool(size=1, image="localhost/there-is-no-such-image:1", pull="never") as pool:
        with pytest.raises((ImageError, ConfigError), match="there-is-no-such-image"):
            await pool.take(WAIT_S)
    with pytest.raises(ConfigError, match="size 0"):
        Pool(size=0)
    with pytest.raises(SandboxClosedError, match="not open yet"):
        await Pool(size=1).take()


def test_a_pool_without_asyncio(guest: object, run_directory: Path) -> None:
    with SyncPool(size=1, memory="256M") as pool:
        with pool.take(WAIT_S) as box:
            assert isinstance(box, sync.Sandbox)
            assert box.shell("hostname").stdout.decode().strip() == box.name
        pool.fill(WAIT_S)
    assert names() == []


async def test_nothing_is_left_of_a_pool_whose_program_is_killed(guest: object, run_directory: Path) -> None:
    code = (
        "import time; from ballonet import Pool\n"
        "pool = Pool(size=2, memory='256M').open(); pool.fill(120)\n"
        "print(*(box.name for box in pool._inner._waiting), flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    waiting = (await asyncio.to_thread(child.stdout.readline)).split()
    assert len(waiting) == 2
    child.send_signal(signal.SIGKILL)
    child.communicate()
    async with asyncio.timeout(WAIT_S):
        while any(engines_of(name) for name in waiting) or names():
            await asyncio.sleep(0.2)
