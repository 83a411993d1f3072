"""The autopilot over real sandboxes: it takes what is idle, gives it back at once, and harms nobody when it dies."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ballonet.control.backend import TrimRequest
from ballonet.control.client import Client
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.vm.test_balloon import WAIT_S, touch

CEILING_MIB = 768
#: Less than the two ceilings together, and what the engines themselves need beside.
BUDGET_MIB = 1400


class Pilot:
    """A real ``ballonet pilot`` process, and the ticks that it tells."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def wait_tick(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first tick from now on that is as wanted."""
        assert self.child.stdout is not None
        tick = None
        try:
            async with asyncio.timeout(WAIT_S):
                async for line in self.child.stdout:
                    tick = json.loads(line)
                    if wanted(tick):
                        return dict(tick)
        except TimeoutError:
            raise AssertionError(f"no such tick within {WAIT_S} s; the last one: {tick}") from None
        raise AssertionError("the autopilot ended")

    async def end(self) -> int:
        if self.child.returncode is None:
            self.child.send_signal(signal.SIGTERM)
        await self.child.communicate()
        assert self.child.returncode is not None
        return self.child.returncode


@asynccontextmanager
async def piloting(*words: str) -> AsyncIterator[Pilot]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ballonet", "pilot", "--json", "--only", "fly-*", *words),
        stdout=subprocess.PIPE,
        limit=1 << 20,
    )
    pilot = Pilot(child)
    try:
        yield pilot
    finally:
        await pilot.end()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(run_directory: Path) -> AsyncIterator[dict[str, Sandbox]]:
    boxes: dict[str, Sandbox] = {}
    try:
        for name in ("fly-a", "fly-b"):
            # Without free-page reporting what a program has touched stays on the host: there is something to take.
            config = SandboxConfig(
                name=name,
                memory_mib=CEILING_MIB,
                balloon_initial_mib=CEILING_MIB,
                balloon_min_mib=128,
                free_page_reporting=False,
            )
            boxes[name] = await Sandbox.create(config)
        yield boxes
    finally:
        for box in boxes.values():
            await box.close()


def view(tick: dict[str, Any], name: str) -> dict[str, Any]:
    return next(view for view in tick["sandboxes"] if view["name"] == name)


def promised(tick: dict[str, Any]) -> int:
    return sum(int(view["target_mib"]) for view in tick["sandboxes"])


async def test_what_is_idle_is_taken_and_a_burst_gets_it_back_with_no_one_killed(
    fleet: dict[str, Sandbox],
) -> None:
    box = fleet["fly-a"]
    await touch(box, 500)
    async with piloting("--budget", f"{BUDGET_MIB}M", "--overcommit", "1") as pilot:
        # At the start both have their ceilings, more than may be promised; then each is brought to what it needs.
        await pilot.wait_tick(lambda tick: (view(tick, "fly-a")["actual_mib"] or CEILING_MIB) < 500)
        await touch(box, 550)
        tick = await pilot.wait_tick(
            lambda tick: not tick["moved"] and all(v["state"] == "applied" for v in tick["sandboxes"])
        )
        assert promised(tick) <= BUDGET_MIB
        assert [(await each.metrics()).oom_kills for each in fleet.values()] == [0, 0]
        assert await pilot.end() == 0


async def test_when_it_is_killed_targets_stay_relief_works_and_the_next_one_starts_from_there(
    fleet: dict[str, Sandbox], ballonet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    box = fleet["fly-b"]
    await touch(box, 500)
    async with piloting("--budget", f"{BUDGET_MIB}M", "--overcommit", "1") as pilot:
        await pilot.wait_tick(
            lambda tick: view(tick, "fly-b")["state"] == "applied" and view(tick, "fly-b")["target_mib"] < 500
        )
        told = ballonet("pilot", "explain", "fly-b", "--last", "1").stdout
        assert "guest_available_mib" in told
        second = ballonet("pilot", "--ticks", "1")
        assert second.returncode == 125
        assert f"pid {pilot.child.pid}" in second.stderr
        pilot.child.kill()
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        left_at = (await client.get()).target_mib
        assert left_at < 500
        await touch(box, 550)
        assert (await client.get()).target_mib == CEILING_MIB
        assert (await client.stats()).oom_kills == 0
    async with piloting("--budget", f"{BUDGET_MIB}M", "--overcommit", "1") as pilot:
        tick = await pilot.wait_tick(lambda tick: bool(tick["sandboxes"]))
        assert view(tick, "fly-b")["target_mib"] == CEILING_MIB


async def test_a_new_sandbox_is_refused_where_there_is_no_room_with_the_numbers(
    fleet: dict[str, Sandbox], ballonet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for box in fleet.values():
        await box.balloon.set(CEILING_MIB, wait=True, timeout_s=WAIT_S)
    async with piloting("--budget", "500M") as pilot:
        await pilot.wait_tick(lambda tick: len(tick["sandboxes"]) == 2)
        refused = ballonet("run", "--name", "fly-new", "--memory", "640M", "--", "true")
        assert refused.returncode == 125
        assert "not enough memory for sandbox 'fly-new'" in refused.stderr
        assert "it needs" in refused.stderr
        assert "--no-admission" in refused.stderr
        # Its budget is not about this one.
        other = ballonet("run", "--name", "other", "--memory", "128M", "--", "echo", "in")
        assert (other.returncode, other.stdout) == (0, "in\n")
        forced = ballonet("run", "--no-admission", "--name", "fly-new", "--", "echo", "in")
        assert (forced.returncode, forced.stdout) == (0, "in\n")


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    fleet: dict[str, Sandbox], ballonet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    box = fleet["fly-a"]
    await box.balloon.set(CEILING_MIB, wait=True, timeout_s=WAIT_S)
    told = ballonet("pilot", "--dry-run", "--ticks", "1", "--only", "fly-a")
    assert told.returncode == 0
    assert "fly-a" in told.stdout
    assert (await box.balloon.get()).target_mib == CEILING_MIB


async def test_caches_that_nobody_reads_again_are_dropped_by_the_guest_and_leave_the_host(
    run_directory: Path,
) -> None:
    config = SandboxConfig(
        name="fly-cache", memory_mib=512, balloon_initial_mib=512, balloon_min_mib=128, disk_mib=512
    )
    async with await Sandbox.create(config) as box:
        done = await box.shell("dd if=/dev/zero of=/disk/once bs=1M count=240 && sync")
        assert done.returncode == 0, done.stderr
        before = (await box.metrics()).host.guest_ram_mib
        assert before is not None
        assert before > 280
        async with piloting() as pilot:
            await pilot.wait_tick(lambda tick: "fly-cache" in tick["trimmed"])
            tick = await pilot.wait_tick(lambda tick: view(tick, "fly-cache")["guest_ram_mib"] < before - 150)
        # Its room stays: a burst finds the memory there.
        assert view(tick, "fly-cache")["target_mib"] == 512


async def wrote_a_file(name: str) -> Sandbox:
    """A sandbox whose page cache has a file that nobody reads again."""
    config = SandboxConfig(
        name=name, memory_mib=384, balloon_initial_mib=384, balloon_min_mib=128, disk_mib=512
    )
    box = await Sandbox.create(config)
    done = await box.shell("dd if=/dev/zero of=/disk/once bs=1M count=160 && sync")
    assert done.returncode == 0, done.stderr
    return box


async def trims_of(box: Sandbox) -> tuple[int, int, int]:
    """By the guest's own account: trims that it has started, what they reclaimed, and its caches (MiB)."""
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as client:
        guest = (await client.stats()).guest
    assert guest.trims is not None and guest.trimmed_mib is not None and guest.disk_caches_mib is not None
    return guest.trims, guest.trimmed_mib, guest.disk_caches_mib


async def test_a_guest_at_work_is_never_trimmed_while_the_host_has_plenty_and_an_idle_one_is(
    run_directory: Path,
) -> None:
    async with await wrote_a_file("fly-work") as at_work, await wrote_a_file("fly-idle") as idle:
        cached = (await trims_of(at_work))[2]
        assert cached >= 150
        work = await at_work.exec_stream(["/bin/sh", "-c", "while :; do :; done"])
        trimmed: list[str] = []

        def seen(tick: dict[str, Any], name: str, at_most_mib: int) -> bool:
            trimmed.extend(tick["trimmed"])
            return int(view(tick, name)["guest_caches_mib"] or 0) < at_most_mib

        async with piloting() as pilot:
            tick = await pilot.wait_tick(lambda tick: seen(tick, "fly-idle", cached - 100))
            if tick["price"] != 0:
                pytest.skip(f"this host is short of memory: price {tick['price']}")
            assert "fly-work" not in trimmed
            assert view(tick, "fly-work")["target_mib"] == 384
            trims, reclaimed, _ = await trims_of(idle)
            assert trims >= 1
            assert reclaimed >= 100
            trims, _, caches = await trims_of(at_work)
            assert trims == 0
            assert caches >= cached - 8
            # The same guest is trimmed when its work is done.
            await work.kill()
            await pilot.wait_tick(lambda tick: seen(tick, "fly-work", cached - 100))
        assert "fly-work" in trimmed
        assert (await trims_of(at_work))[1] >= 100


async def test_a_gentle_trim_ends_when_the_guest_goes_to_work(run_directory: Path) -> None:
    async with await wrote_a_file("gentle") as box:
        assert box.control_socket is not None
        # Nothing of the lowest priority runs beside eight that never rest.
        work = await box.exec_stream(
            ["/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"]
        )
        async with await Client.connect(box.control_socket) as client:
            request = TrimRequest(caches_percent=90, inflate=False, gentle=True)
            stopped = await client.trim(request)
            assert stopped.complete is False
            assert "it went to work" in (stopped.detail or "")
            assert stopped.reclaimed_mib is not None and stopped.reclaimed_mib < 100
            await work.kill()
            assert await work.wait() is not None
            done = await client.trim(request)
        assert done.reclaimed_mib is not None and done.reclaimed_mib >= 60, done
        assert stopped.reclaimed_mib < done.reclaimed_mib
