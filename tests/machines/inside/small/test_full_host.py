"""Sandboxes that ask for twice what a host has: their guests work in turn, and nobody is killed."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ballonet.base.memory import bytes_to_mib
from ballonet.host.cgroup_directory import keyed
from ballonet.host.memory import read_host_memory
from ballonet.host.memory_limit import read_memory_limit
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.vm.test_balloon import touch
from tests.vm.test_pilot import piloting

NAMES = [f"fly-{number}" for number in range(4)]
CEILING_MIB, WORK_MIB = 1536, 1000


def kills() -> int:
    """How many processes the kernel has killed for memory in this host's group."""
    limit = read_memory_limit()
    assert limit is not None
    for name in ("memory.events", "memory.oom_control"):
        if (path := limit.directory / name).exists():
            return keyed(path, "oom_kill")
    raise AssertionError(f"{limit.directory} does not count kills")


@asynccontextmanager
async def running(*, reporting: bool) -> AsyncIterator[list[Sandbox]]:
    """The sandboxes; the kernel kills nobody while they run.

    :param reporting: by free-page reporting, guests give the host what their programs have freed. Without, it stays
        there until the autopilot takes it.
    """
    before = kills()
    async with AsyncExitStack() as stack:
        boxes = []
        for name in NAMES:
            config = SandboxConfig(
                name=name,
                memory_mib=CEILING_MIB,
                balloon_initial_mib=512,
                balloon_min_mib=128,
                free_page_reporting=reporting,
            )
            boxes.append(await stack.enter_async_context(await Sandbox.create(config)))
        yield boxes
        assert kills() == before


async def work_in_turn(boxes: list[Sandbox]) -> None:
    for box in boxes:
        await touch(box, WORK_MIB)
    assert [(await box.metrics()).oom_kills for box in boxes] == [0] * len(boxes)


def test_the_host_is_what_its_cgroup_permits() -> None:
    memory = read_host_memory()
    assert memory.limited_by is not None
    assert memory.total_bytes is not None
    assert bytes_to_mib(memory.total_bytes) < len(NAMES) * CEILING_MIB


async def test_guests_that_work_in_turn_share_a_host_of_half_their_memory(run_directory: Path) -> None:
    async with running(reporting=False) as boxes, piloting() as pilot:
        await pilot.wait_tick(lambda tick: len(tick["sandboxes"]) == len(NAMES))
        await work_in_turn(boxes)
        # Memory had its price meanwhile.
        await pilot.wait_tick(lambda tick: (tick["price"] or 0) > 0.5)
        await work_in_turn(boxes)
        # What they hold now is less than what they touched together.
        tick = await pilot.wait_tick(lambda tick: not tick["moved"])
        held = sum(int(view["guest_ram_mib"]) for view in tick["sandboxes"])
        assert held < len(NAMES) * WORK_MIB


async def test_the_autopilot_killed_half_way_leaves_them_working(run_directory: Path) -> None:
    async with running(reporting=True) as boxes:
        async with piloting() as pilot:
            await pilot.wait_tick(lambda tick: len(tick["sandboxes"]) == len(NAMES))
            await work_in_turn(boxes[:2])
            pilot.child.kill()
        await work_in_turn(boxes[2:])
        async with piloting() as pilot:
            await pilot.wait_tick(lambda tick: len(tick["sandboxes"]) == len(NAMES))
            await work_in_turn(boxes)


async def test_a_sandbox_that_does_not_fit_is_refused_with_the_numbers(
    run_directory: Path, ballonet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    async with running(reporting=True) as boxes, piloting() as pilot:
        await pilot.wait_tick(lambda tick: len(tick["sandboxes"]) == len(NAMES))
        words = ("--memory", "2800M", "--balloon-min", "2800M")
        refused = ballonet("run", "--name", "fly-new", *words, "--", "true")
        assert refused.returncode == 125
        assert "not enough memory for sandbox 'fly-new'" in refused.stderr
        assert "it needs" in refused.stderr
        await work_in_turn(boxes[:1])
