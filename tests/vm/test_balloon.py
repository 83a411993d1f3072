"""The balloon of a real guest: what it gives back, what it refuses, and what is said about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.memory import MIB, mib_to_pages
from ballonet.control.client import Client
from ballonet.control.client_blocking import send_plain
from ballonet.guest.bundle import GuestBundle, prepare_guest
from ballonet.guest.relay import AgentRelay
from ballonet.host.proc import read_guest_ram_bytes
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.convergence import Driver, State

WAIT_S = 120


async def meminfo_mib(sandbox: Sandbox, field: str) -> int:
    """A field of the guest's own /proc/meminfo."""
    done = await sandbox.exec(["cat", "/proc/meminfo"])
    line = next(line for line in done.stdout.decode().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) // 1024


async def touch(sandbox: Sandbox, mib: int) -> None:
    """Have a guest program fill that much memory, and end."""
    done = await sandbox.exec(["dd", "if=/dev/zero", "of=/dev/null", f"bs={mib}M", "count=1"])
    assert done.returncode == 0, done.stderr


async def held(client: Client) -> tuple[int, int]:
    """What the host holds, in MiB: guest RAM, and all of the engine's resident memory."""
    host = (await client.stats()).host
    assert host.guest_ram_mib is not None
    assert host.resident_mib is not None
    return host.guest_ram_mib, host.resident_mib


async def test_dirtied_memory_comes_back_to_the_host_and_can_be_used_again(
    sandbox: Sandbox, client: Client
) -> None:
    dirtied = 640
    await touch(sandbox, dirtied)
    before, process_before = await held(client)
    assert before >= dirtied

    reply = await client.set(256, wait=True, timeout_s=WAIT_S)
    assert (reply.state, reply.actual_mib) == ("applied", 256)
    after, process_after = await held(client)
    above_target = before - 256
    assert before - after >= 0.7 * above_target, f"guest RAM on the host went from {before} to {after} MiB"
    assert process_before - process_after >= 0.7 * above_target, "and so did the engine's resident memory"

    reply = await client.set(1024, wait=True, timeout_s=WAIT_S)
    assert reply.state == "applied"
    await touch(sandbox, dirtied)
    again, _ = await held(client)
    assert again - after >= 0.7 * dirtied


def pages_provided(pid: int) -> int:
    """How many pages the kernel has provided for a process (its minor page faults, proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


async def test_the_host_provides_nothing_of_what_a_shrink_takes() -> None:
    config = SandboxConfig(name="untouched", memory_mib=1024, balloon_min_mib=256)
    async with await Sandbox.create(config, cold=True) as booted:
        assert booted.control_socket is not None
        async with await Client.connect(booted.control_socket) as client:
            before = pages_provided(booted.engine_pid)
            reply = await client.set(512, wait=True, timeout_s=WAIT_S)
            provided = pages_provided(booted.engine_pid) - before
    assert reply.state == "applied"
    assert provided < mib_to_pages(512) / 8, f"{provided} pages, of memory that the guest never used"


async def test_guest_visible_memory_after_boot_is_initial(sandbox: Sandbox) -> None:
    reserved = 1024 - await meminfo_mib(
        sandbox, "MemTotal"
    )  # deflate-on-OOM: MemTotal does not see the balloon
    config = SandboxConfig(name="initial", memory_mib=1024, balloon_initial_mib=512, deflate_on_oom=False)
    async with await Sandbox.create(config) as booted:
        assert booted.control_socket is not None
        async with await Client.connect(booted.control_socket) as client:
            async for balloon in client.watch():
                if balloon.state == "applied":
                    break
            assert balloon.actual_mib == balloon.target_mib == balloon.initial_mib == 512
        visible = await meminfo_mib(booted, "MemTotal")
    assert abs(visible + reserved - 512) <= 2


async def test_the_plain_protocol_moves_a_real_balloon(sandbox: Sandbox, client: Client) -> None:
    assert sandbox.control_socket is not None
    pages = await asyncio.to_thread(send_plain, sandbox.control_socket, 700)
    assert pages == mib_to_pages(1024 - 700)
    async for balloon in client.watch():
        if balloon.state == "applied":
            break
    assert balloon.actual_mib == 700
    assert await asyncio.to_thread(send_plain, sandbox.control_socket, 5000) == 0
    assert await asyncio.to_thread(send_plain, sandbox.control_socket, 1) == mib_to_pages(1024 - 256)


async def test_statistics_are_the_guests_own(sandbox: Sandbox, client: Client) -> None:
    stats = await client.stats()
    assert stats.guest.age_s is not None
    assert stats.guest.age_s < 5
    total, available = stats.guest.total_mib, stats.guest.available_mib
    assert total is not None
    assert available is not None
    assert abs(total - await meminfo_mib(sandbox, "MemTotal")) <= 1
    assert abs(available - await meminfo_mib(sandbox, "MemAvailable")) <= 32
    assert stats.host.resident_mib is not None
    assert stats.host.guest_ram_mib is not None
    assert stats.host.guest_ram_mib < stats.host.resident_mib


@pytest_asyncio.fixture(loop_scope="session")
async def pinned(sandbox: Sandbox, client: Client) -> AsyncIterator[int]:
    """A guest process that holds 600 MiB which cannot be taken from it (there is no swap)."""
    mib = 600
    holder = await sandbox.exec_stream(["sh", "-c", f"dd if=/dev/zero bs={mib}M count=1 | sleep 1000"])
    while await meminfo_mib(sandbox, "AnonPages") < mib:
        await asyncio.sleep(0.1)
    yield mib
    await holder.send_signal(9)
    await holder.wait()
    await sandbox.exec(["sh", "-c", "killall dd sleep; true"])


async def test_a_guest_whose_memory_is_pinned_refuses_and_says_how_far_it_came(
    sandbox: Sandbox, client: Client, pinned: int
) -> None:
    reply = await client.set(256, force=True, wait=True, timeout_s=WAIT_S)
    while reply.outcome == "superseded":  # on a busy host the guest stalls, and gets its memory back
        reply = await client.set(256, force=True, wait=True, timeout_s=WAIT_S)
    assert reply.state == "guest-refused", reply
    assert reply.actual_mib is not None
    assert reply.actual_mib > 256
    balloon = await client.get()
    assert balloon.target_mib == 256
    assert balloon.detail is not None


async def test_a_guarded_shrink_stops_before_it_hurts(sandbox: Sandbox, client: Client, pinned: int) -> None:
    reply = await client.set(256, wait=True, timeout_s=WAIT_S)
    assert reply.state == "guest-floor"
    available = (await client.stats()).guest.available_mib
    assert available is not None
    guard = 102
    assert available >= guard * 0.8, "what is left to the guest is about the guard"
    balloon = await client.get()
    assert balloon.actual_mib is not None
    assert pinned < balloon.actual_mib < 1024


async def test_a_guest_without_the_module_has_no_driver(guest: GuestBundle) -> None:
    bundle = prepare_guest(without_modules=["virtio_balloon"])
    config = SandboxConfig(name="no-driver", memory_mib=256, balloon_initial_mib=200)
    vm = build_vm(config, guest=bundle)
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        await relay.wait_ready(WAIT_S)
        assert vm.balloon is not None
        assert await vm.balloon.check_driver() is Driver.ABSENT
        assert vm.balloon.status.state is State.NO_DRIVER
        await vm.balloon.set_target(150)
        assert vm.balloon.status.state is State.NO_DRIVER
        assert vm.balloon.status.actual_mib == 256
        statistics = await vm.balloon.statistics(max_age_s=0)
        assert statistics.reported_at is None
        assert statistics.available_bytes is None
    finally:
        await relay.close()
        await vm.kill()


@pytest.mark.parametrize("machine", ["q35"])
async def test_the_other_machine_type_does_the_same(machine: str, run_directory: object) -> None:
    config = SandboxConfig(name=machine, memory_mib=512, balloon_min_mib=256, machine=machine)  # type: ignore[arg-type]
    async with await Sandbox.create(config) as sandbox:
        assert sandbox.control_socket is not None
        async with await Client.connect(sandbox.control_socket) as client:
            reply = await client.set(256, wait=True, timeout_s=WAIT_S)
            assert (reply.state, reply.actual_mib) == ("applied", 256)
            assert (await client.get()).driver == "present"


def wakes(pid: int) -> int:
    """How often the main thread of a process has waited for something (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


async def test_an_idle_guest_seldom_wakes_its_engine(sandbox: Sandbox) -> None:
    """The old timer, which no kernel here uses, woke it 70 times a second."""
    rates = []
    for _ in range(3):
        before, began = wakes(sandbox.engine_pid), time.monotonic()
        await asyncio.sleep(3)
        rates.append((wakes(sandbox.engine_pid) - before) / (time.monotonic() - began))
    assert min(rates) < 45, rates


async def test_a_guest_that_is_asked_for_its_figures_for_hours_does_not_grow(
    sandbox: Sandbox, client: Client
) -> None:
    """Its kernel's small blocks of free memory take turns, so that it comes to hold a few MiB more; not for ever."""

    async def ram_after(times: int) -> int:
        for _ in range(times):
            await client.stats(0)
        ram = read_guest_ram_bytes(sandbox.engine_pid)
        assert ram is not None
        return ram

    before = await ram_after(1)
    turned = await ram_after(3000)
    assert turned - before < 8 * MIB
    assert await ram_after(1500) - turned < MIB // 2
