"""A VM that is saved and restored, at the engine's level: its balloon, its memory, and the engine that saved it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path

import pytest

from ballonet.base.errors import EngineError
from ballonet.base.memory import MIB
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.bundle import GuestBundle
from ballonet.guest.relay import AgentRelay
from ballonet.guest.restored import renew_guest
from ballonet.host.proc import read_guest_ram_bytes, read_resident
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Machine
from ballonet.vmm.engine import Vm
from ballonet.vmm.saved_state import PendingState, SavedState

WAIT_S = 180


def config(machine: Machine) -> SandboxConfig:
    return SandboxConfig(
        name="saved", memory_mib=512, balloon_initial_mib=300, balloon_min_mib=128, machine=machine
    )


def key_of(vm: Vm) -> str:
    key = vm.engine.state_key(vm.spec)
    assert key is not None
    return key


async def move_balloon(vm: Vm, *targets: int) -> None:
    assert vm.balloon is not None
    for target in targets:
        async with asyncio.timeout(WAIT_S):
            _, generation = await vm.balloon.set_target(target, force=True)
            status = await vm.balloon.wait_settled(generation)
        assert (status.actual_mib, status.state) == (target, "applied")


async def save(vm: Vm, path: Path, *, quiet: bool = False) -> None:
    pending = PendingState.claim(path)
    assert pending is not None
    stopped_s = await vm.save(pending.file, key_of(vm), quiet=quiet)
    assert 0 < stopped_s < WAIT_S
    pending.commit()


async def start_saved(guest: GuestBundle, path: Path, machine: Machine) -> Vm:
    vm = build_vm(config(machine), guest=guest)
    with SavedState.open(path, key_of(vm)) as state:
        vm.launch(state=state)
        await vm.start()
    return vm


@pytest.mark.parametrize("machine", Machine)
async def test_balloon_and_statistics_work_after_a_restore(
    guest: GuestBundle, tmp_path: Path, machine: Machine
) -> None:
    """As Firecracker tests of its snapshots: the size is kept, moves in both directions, and statistics refresh."""
    vm = build_vm(config(machine), guest=guest)
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    path = tmp_path / "one.state"
    try:
        await relay.wait_ready(120)
        assert vm.balloon is not None
        async with asyncio.timeout(WAIT_S):
            await vm.balloon.wait_settled(vm.balloon.status.generation)
        held = read_guest_ram_bytes(vm.pid)
        assert held is not None
        await save(vm, path)
        assert path.stat().st_size < held, "pages that are zero or the host's are left out"
        # The guest that was saved continues as if nothing had happened.
        await relay.ping(b"still here", timeout_s=WAIT_S)
        await move_balloon(vm, 200, 300)
    finally:
        await vm.kill()
        await relay.close()
    vm = await start_saved(guest, path, machine)
    try:
        assert vm.balloon is not None
        assert vm.balloon.status.actual_mib == 300, "what the guest had is kept"
        filled = read_guest_ram_bytes(vm.pid)
        assert filled is not None
        assert filled <= path.stat().st_size + 8 * MIB, "holes stay holes"
        channel = vm.take_agent_channel()
        await renew_guest(channel, WAIT_S)
        relay = AgentRelay(channel)
        await relay.wait_ready(WAIT_S)
        await move_balloon(vm, 200, 450, 256)
        statistics = await vm.balloon.statistics(max_age_s=0)
        assert statistics.total_bytes is not None
        assert statistics.available_bytes is not None
        resident = read_resident(vm.pid)
        assert resident is not None
        assert resident.guest_ram_mib <= 256 + 32
    finally:
        await vm.kill()
        await relay.close()


@pytest.mark.parametrize(("machine", "least_mib"), [(Machine.MICROVM, 7), (Machine.Q35, 0)])
async def test_empty_buffers_of_the_agents_channel_are_not_saved_and_work_afterwards(
    guest: GuestBundle, tmp_path: Path, machine: Machine, least_mib: int
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    data = random.Random(seed).randbytes(12 * MIB)  # three times what all buffers of a queue hold

    async def fill_buffers(agent: AgentClient) -> None:
        async with await agent.exec(["sha256sum"], stdin=True) as process:
            digest, _ = await process.communicate(data)
        assert digest.decode().split()[0] == hashlib.sha256(data).hexdigest()

    vm = build_vm(config(machine), guest=guest)
    await vm.start()
    agent = AgentClient(vm.take_agent_channel())
    path = tmp_path / "one.state"
    try:
        await agent.wait_ready(120)
        before = read_guest_ram_bytes(vm.pid)
        await save(vm, path, quiet=True)
        after = read_guest_ram_bytes(vm.pid)
        assert before is not None
        assert after is not None
        assert before - after >= least_mib * MIB
        with SavedState.open(path, key_of(vm)) as state:
            assert state.data_bytes <= after
        await fill_buffers(agent)
    finally:
        await vm.kill()
        await agent.close()
    vm = await start_saved(guest, path, machine)
    try:
        channel = vm.take_agent_channel()
        await renew_guest(channel, WAIT_S)
        agent = AgentClient(channel)
        await agent.wait_ready(WAIT_S)
        await fill_buffers(agent)
    finally:
        await vm.kill()
        await agent.close()


async def test_a_state_that_cannot_be_written_or_read_leaves_a_guest_that_runs_or_no_engine(
    guest: GuestBundle, tmp_path: Path
) -> None:
    vm = build_vm(config(Machine.MICROVM), guest=guest)
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    path = tmp_path / "one.state"
    try:
        await relay.wait_ready(120)
        with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"):
            await vm.save(full.fileno(), key_of(vm))
        await relay.ping(b"still here", timeout_s=WAIT_S)
        await save(vm, path)  # the failure does not keep it from being saved later
    finally:
        await vm.kill()
        await relay.close()
    # Its checks pass, and its device state is nonsense to the engine.
    with SavedState.open(path, key_of(vm)) as state:
        state.device = os.urandom(len(state.device))
        vm = build_vm(config(Machine.MICROVM), guest=guest)
        vm.launch(state=state)
        with pytest.raises(EngineError, match="QEMU did not start"):
            await vm.start()
    assert not Path(f"/proc/{vm.pid}").exists()
