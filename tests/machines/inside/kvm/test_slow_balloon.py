"""The balloon where each page that a guest gives up costs milliseconds: KVM on an emulated processor.

A guest that moves less than 15 MiB/s for 5 s counts as refusing and is not asked any more. Here every guest is that
slow, so a target is set again until it is reached, and the steps are small. What is checked is where memory goes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from ballonet.control.client import Client
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.vm.test_balloon import held, touch

CEILING, SHRUNK = 256, 240
_WAIT_S = 400


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def box(run_directory: Path) -> AsyncIterator[Sandbox]:
    # Without reporting, what a program has freed stays with the host until the balloon takes it.
    config = SandboxConfig(
        name="slow", memory_mib=CEILING, balloon_min_mib=128, free_page_reporting=False, pressure_relief=True
    )
    async with await Sandbox.create(config) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(box: Sandbox) -> AsyncIterator[Client]:
    assert box.control_socket is not None
    async with await Client.connect(box.control_socket) as connected:
        yield connected


async def reach(client: Client, target_mib: int) -> None:
    ends = time.monotonic() + _WAIT_S
    while (reply := await client.set(target_mib, force=True, wait=True, timeout_s=60)).state != "applied":
        assert time.monotonic() < ends, reply
    assert reply.actual_mib == target_mib


async def test_memory_leaves_the_host_with_the_balloon_and_the_guest_gets_it_back(
    box: Sandbox, client: Client
) -> None:
    await touch(box, 100)
    before, _ = await held(client)
    assert before > 100
    await reach(client, SHRUNK)
    after, _ = await held(client)
    assert before - after >= 0.7 * (CEILING - SHRUNK), (
        f"guest RAM on the host went from {before} to {after} MiB"
    )
    await reach(client, CEILING)


async def test_a_stalling_guest_gets_its_memory_back(box: Sandbox, client: Client) -> None:
    await reach(client, SHRUNK)
    # Files in memory, a few more than there is room for.
    fill = (
        "for n in $(seq 20); do dd if=/dev/zero of=/dev/shm/$n bs=8M count=1 || break; done; rm -f /dev/shm/*"
    )
    await box.shell(f"mount -o remount,size=90% /dev/shm; {fill}")
    balloon = await client.get()
    assert (balloon.target_mib, balloon.actual_mib) == (CEILING, CEILING), balloon
