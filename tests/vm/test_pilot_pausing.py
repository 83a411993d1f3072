"""The autopilot pauses the idlest sandbox that allows it when the host is nearly full, and its next use resumes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.lifecycle.record import State
from ballonet.sdk.creation import Balloon
from ballonet.sdk.sandbox import Sandbox
from tests.vm.test_balloon import WAIT_S
from tests.vm.test_pilot import piloting

NAMES = ("fly-idle", "fly-works", "fly-held", "fly-never")


@pytest_asyncio.fixture(loop_scope="session")
async def boxes(guest: object, run_directory: Path) -> AsyncIterator[dict[str, Sandbox]]:
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for name in NAMES:
            # The floor is the ceiling: the balloon does not move, which would be work.
            balloon = Balloon(min="192M")
            box = await Sandbox.create(name, memory="192M", balloon=balloon, pausable=name != "fly-never")
            found[name] = await stack.enter_async_context(box)
        yield found


async def test_the_idlest_is_paused_on_a_full_host_and_others_are_not(
    boxes: dict[str, Sandbox], ballonet: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    await boxes["fly-idle"].shell("echo kept > /run/note")
    # A command ends with the object that stands for it.
    held = await boxes["fly-held"].exec_stream(["sleep", "1000"])
    works = await boxes["fly-works"].exec_stream(["sh", "-c", "while true; do :; done"])
    async with (
        held,
        works,
        piloting("--budget", "400M") as pilot,  # less than the engines hold
    ):
        tick = await pilot.wait_tick(lambda tick: "fly-idle" in tick["pausing"])
        assert tick["price"] == 1
        async with asyncio.timeout(WAIT_S):
            while boxes["fly-idle"].record().state is not State.PAUSED:
                await asyncio.sleep(0.2)
        await pilot.wait_tick(lambda tick: "fly-idle" not in {view["name"] for view in tick["sandboxes"]})
        # The one in which a command waits is as quiet, but refuses. Two more ticks: nothing else follows.
        for _ in range(2):
            tick = await pilot.wait_tick(lambda tick: True)
            assert not {"fly-works", "fly-never"} & set(tick["pausing"])
        assert await pilot.end() == 0
    states = {name: box.record().state.value for name, box in boxes.items()}
    assert states == {
        "fly-idle": "paused",
        "fly-works": "running",
        "fly-held": "running",
        "fly-never": "running",
    }
    told = [
        json.loads(line) for line in ballonet("pilot", "explain", "fly-idle", "--json").stdout.splitlines()
    ]
    (paused,) = [entry for entry in told if entry["pause"]]
    assert "paused: the host is nearly full (price 1.00" in paused["reason"]
    assert paused["inputs"]["pausable"] is True
    assert "is paused" in ballonet("pilot", "explain", "fly-idle").stdout
    # Its next use resumes it, with what it had.
    assert (await boxes["fly-idle"].shell("cat /run/note")).stdout == b"kept\n"
    assert boxes["fly-idle"].record().state is State.RUNNING


async def test_a_change_is_live_and_a_use_keeps_it_awake(boxes: dict[str, Sandbox]) -> None:
    from ballonet.base.errors import StillRunningError
    from ballonet.lifecycle.pause import pause_sandbox
    from ballonet.lifecycle.registry import Registry
    from ballonet.pilot.fleet import find_members

    (change,) = await boxes["fly-never"].modify(pausable=True)
    assert (change.setting, change.when, change.state) == ("pausable", "live", "done")
    assert {member.name for member in find_members(["fly-*"]) if member.pausable} == set(NAMES)
    with Registry.open() as registry, pytest.raises(StillRunningError, match="started, touched or changed"):
        await pause_sandbox(registry, "fly-never", if_idle=True)
    assert boxes["fly-never"].record().state is State.RUNNING
