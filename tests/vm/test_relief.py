"""What happens to a guest that needs more than it was left: relief, the host's limit, and the hard cap."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ballonet.base.errors import GuestError, HostError
from ballonet.control.backend import TrimRequest
from ballonet.control.client import Client
from ballonet.host.cgroup import open_group
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from tests.vm.test_balloon import WAIT_S, touch

#: Shell words for the guest: tell the balloon's driver to let go, and to take the device again.
UNBIND = "cd /sys/bus/virtio/drivers/virtio_balloon; for d in virtio*; do echo $d > unbind; echo $d > /tmp/device; done"
BIND = "cat /tmp/device > /sys/bus/virtio/drivers/virtio_balloon/bind"


async def settled(client: Client) -> None:
    """Wait until the balloon is at rest."""
    async for balloon in client.watch():
        if balloon.state != "converging":
            return


async def test_a_stalling_guest_gets_everything_back_in_one_step(sandbox: Sandbox, client: Client) -> None:
    reply = await client.set(256, wait=True, timeout_s=WAIT_S)
    assert reply.state == "applied"
    await touch(
        sandbox, 500
    )  # far more than it has: it stalls, and gets memory back before anything is killed
    balloon = await client.get()
    assert balloon.target_mib == 1024
    assert "raised from 256 MiB" in str(balloon.detail)
    assert (await client.stats()).oom_kills == 0


async def test_relief_is_told_to_watchers(sandbox: Sandbox, client: Client) -> None:
    await client.set(256, wait=True, timeout_s=WAIT_S)
    seen: list[int] = []

    async def watch() -> None:
        async for balloon in client.watch():
            seen.append(balloon.target_mib)
            if balloon.target_mib == 1024:
                assert "stalled" in str(balloon.detail)
                return

    watching = asyncio.create_task(watch())
    await touch(sandbox, 500)
    await asyncio.wait_for(watching, WAIT_S)
    assert seen[-1] == 1024


async def test_relief_stops_at_the_limit_that_the_host_has_set(sandbox: Sandbox, client: Client) -> None:
    await client.set(256, wait=True, timeout_s=WAIT_S)
    limited = await client.limit(600)
    assert limited.target_mib == 256
    try:
        await touch(sandbox, 400)
        assert (await client.get()).target_mib == 600
    finally:
        await client.limit(None)


async def test_without_relief_an_out_of_memory_deflation_is_said_and_the_target_asked_again(
    run_directory: Path,
) -> None:
    config = SandboxConfig(name="oom", memory_mib=512, balloon_min_mib=192, pressure_relief=False)
    async with await Sandbox.create(config) as sandbox:
        assert sandbox.control_socket is not None
        async with await Client.connect(sandbox.control_socket) as client:
            reply = await client.set(192, force=True, wait=True, timeout_s=WAIT_S)
            assert reply.state == "applied"
            await touch(sandbox, 200)
            said: list[str] = []
            async for balloon in client.watch():
                said.append(f"{balloon.state}: {balloon.detail}")
                if balloon.state == "applied":
                    break
            assert any("took back" in line for line in said), said
            assert balloon.actual_mib == balloon.target_mib == 192
            assert (await client.stats()).oom_kills == 0


async def test_a_trim_gives_the_hosts_memory_back_without_moving_the_target(run_directory: Path) -> None:
    config = SandboxConfig(
        name="trim", memory_mib=1024, balloon_min_mib=256, free_page_reporting=False, pressure_relief=False
    )
    async with await Sandbox.create(config) as sandbox:
        assert sandbox.control_socket is not None
        async with await Client.connect(sandbox.control_socket) as client:
            await touch(sandbox, 500)
            before = (await client.stats()).host.guest_ram_mib
            assert before is not None
            assert before > 500
            result = await client.trim(TrimRequest(timeout_s=WAIT_S))
            assert result.complete, result.detail
            assert result.returned_mib is not None
            assert result.returned_mib > 350
            after = (await client.stats()).host.guest_ram_mib
            assert after is not None
            assert before - after > 350
            balloon = await client.get()
            assert (balloon.state, balloon.target_mib, balloon.actual_mib) == ("applied", 1024, 1024)


def has_memory_controller() -> bool:
    try:
        open_group(f"ballonet-probe-{os.getpid()}").remove()
    except HostError:
        return False
    return True


@pytest.mark.skipif(not has_memory_controller(), reason="this host has no writable memory controller")
async def test_a_guest_that_refuses_is_held_by_the_hard_cap_while_its_neighbour_goes_on(
    sandbox: Sandbox, run_directory: Path
) -> None:
    config = SandboxConfig(
        name="capped",
        memory_mib=1024,
        balloon_initial_mib=256,
        balloon_min_mib=256,
        hard_cap=True,
        pressure_relief=False,
    )
    capped = await Sandbox.create(config)
    try:
        assert capped.control_socket is not None
        async with await Client.connect(capped.control_socket) as client:
            assert (await client.version()).capabilities.hard_cap
            await settled(client)
        # The guest frees itself of its balloon: the driver is told to let go.
        await capped.exec(["sh", "-c", UNBIND])
        with pytest.raises(GuestError):
            await touch(capped, 800)
        end = await capped.wait()
        assert end.reason == "host-oom"
        assert "hard cap" in end.detail
    finally:
        await capped.kill()
    assert (await sandbox.exec(["true"])).returncode == 0


async def test_a_driver_that_goes_is_noticed_and_one_that_comes_back_finds_the_target(
    sandbox: Sandbox, client: Client
) -> None:
    await client.set(400, wait=True, timeout_s=WAIT_S)
    await sandbox.exec(["sh", "-c", UNBIND])
    async for balloon in client.watch():
        if balloon.driver == "absent":
            break
    assert balloon.state == "no-driver"
    async for balloon in client.watch():
        if balloon.actual_mib == 1024:
            break
    await sandbox.exec(["sh", "-c", BIND])
    async for balloon in client.watch():
        if balloon.state == "applied":
            break
    assert (balloon.driver, balloon.actual_mib, balloon.target_mib) == ("present", 400, 400)
