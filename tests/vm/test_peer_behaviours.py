"""What Firecracker, cloud-hypervisor and QEMU test of their balloons, shown to hold here too.

Not here: balloons after a restore from a snapshot, since there are no snapshots yet; squeezed's guest models, which
are simulated. Unbind and bind, out-of-memory deflation and relief are in test_relief.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from ballonet.control.client import Client
from ballonet.guest.bundle import GuestBundle
from ballonet.guest.relay import AgentRelay
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.convergence import State
from tests.vm.test_balloon import WAIT_S, meminfo_mib, touch

pytestmark = pytest.mark.extended

PATTERN = b"ballonet-was-here-"


async def guest_ram(client: Client) -> int:
    """Guest RAM that the host holds, in MiB."""
    held = (await client.stats()).host.guest_ram_mib
    assert held is not None
    return held


async def test_resident_falls_again_on_a_second_inflate_after_use(sandbox: Sandbox, client: Client) -> None:
    for _ in range(2):
        await client.set(1024, wait=True, timeout_s=WAIT_S)
        await touch(sandbox, 500)
        used = await guest_ram(client)
        reply = await client.set(256, wait=True, timeout_s=WAIT_S)
        assert reply.state == "applied"
        assert used - await guest_ram(client) > 0.7 * (used - 256)


async def test_resident_is_the_same_after_each_cycle(sandbox: Sandbox, client: Client) -> None:
    after: list[int] = []
    for _ in range(4):
        await client.set(1024, wait=True, timeout_s=WAIT_S)
        await touch(sandbox, 400)
        await client.set(256, wait=True, timeout_s=WAIT_S)
        after.append(await guest_ram(client))
    assert max(after) - min(after) <= 20, after


async def test_a_small_inflate_lowers_the_guests_free_memory_by_as_much(
    sandbox: Sandbox, client: Client
) -> None:
    before = await meminfo_mib(sandbox, "MemFree")
    reply = await client.set(1024 - 64, wait=True, timeout_s=WAIT_S)
    assert reply.state == "applied"
    assert before - await meminfo_mib(sandbox, "MemFree") >= 0.85 * 64


async def test_statistics_follow_what_the_guest_does(sandbox: Sandbox, client: Client) -> None:
    before = (await client.stats()).guest.available_mib
    await sandbox.exec(["dd", "if=/dev/zero", "of=/tmp/held", "bs=1M", "count=200"])
    during = (await client.stats()).guest.available_mib
    await sandbox.exec(["rm", "/tmp/held"])
    assert before is not None
    assert during is not None
    assert before - during > 180
    async with asyncio.timeout(WAIT_S):  # pages that are being reported to the host are not free meanwhile
        while ((await client.stats()).guest.available_mib or 0) - during <= 180:
            await asyncio.sleep(0.2)


def pages_with_pattern(pid: int) -> int:
    """How many 4 KiB pages of the engine's guest memory begin a line of the pattern, read from outside."""
    count = 0
    proc = Path(f"/proc/{pid}")
    with (proc / "maps").open() as maps, (proc / "mem").open("rb", buffering=0) as memory:
        for line in maps:
            if "memfd:" not in line:
                continue
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            # Pages that the host does not hold would be allocated by reading them: ask which it holds.
            with (proc / "pagemap").open("rb", buffering=0) as pagemap:
                present = os.pread(pagemap.fileno(), (end - start) // 4096 * 8, start // 4096 * 8)
            for index in range(len(present) // 8):
                if present[index * 8 + 7] & 0x80:
                    count += PATTERN in os.pread(memory.fileno(), 256, start + index * 4096)
    return count


async def test_memory_given_to_the_host_holds_nothing_of_the_guests(run_directory: Path) -> None:
    config = SandboxConfig(name="secret", memory_mib=512, balloon_min_mib=128, free_page_reporting=False)
    async with await Sandbox.create(config) as sandbox:
        assert sandbox.control_socket is not None
        async with await Client.connect(sandbox.control_socket) as client:
            write = (
                f"yes {PATTERN.decode()} | dd of=/tmp/secret bs=1M count=150 iflag=fullblock; rm /tmp/secret"
            )
            done = await sandbox.exec(["sh", "-c", write])
            assert done.returncode == 0, done.stderr
            before = await asyncio.to_thread(pages_with_pattern, sandbox.engine_pid)
            assert before > 0.9 * 150 * 256, "the guest's kernel does not clear what it frees"
            reply = await client.set(128, force=True, wait=True, timeout_s=WAIT_S)
            assert reply.actual_mib is not None
            assert reply.actual_mib < 200
            after = await asyncio.to_thread(pages_with_pattern, sandbox.engine_pid)
            assert after < 0.25 * before
            # Given back, it is as new: nothing of before comes again.
            await client.set(512, wait=True, timeout_s=WAIT_S)
            assert await asyncio.to_thread(pages_with_pattern, sandbox.engine_pid) <= after


async def test_without_deflate_on_oom_a_guarded_shrink_leaves_a_guest_that_lives(run_directory: Path) -> None:
    config = SandboxConfig(name="no-doo", memory_mib=256, balloon_min_mib=0, deflate_on_oom=False)
    async with await Sandbox.create(config) as sandbox:
        assert sandbox.control_socket is not None
        async with await Client.connect(sandbox.control_socket) as client:
            reply = await client.set(0, wait=True, timeout_s=WAIT_S)
            assert reply.target_mib == 0, "an explicit floor of 0 is honoured"
            assert reply.state == "guest-floor"
            assert (await sandbox.exec(["echo", "alive"])).stdout == b"alive\n"


async def test_a_target_set_before_the_guest_has_booted_is_applied_when_it_has(guest: GuestBundle) -> None:
    vm = build_vm(SandboxConfig(name="early", memory_mib=512, balloon_min_mib=128), guest=guest)
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        assert vm.balloon is not None
        await vm.balloon.set_target(300, force=True)
        assert vm.balloon.status.state is State.CONVERGING
        assert vm.balloon.status.detail == "the guest is booting"
        statistics = await vm.balloon.statistics()
        assert statistics.reported_at is None, "unset before the driver"
        await relay.wait_ready(WAIT_S)
        await vm.balloon.check_driver()
        status = await vm.balloon.wait_settled(vm.balloon.status.generation)
        assert (status.state.value, status.actual_mib) == ("applied", 300)
    finally:
        await relay.close()
        await vm.kill()


async def test_a_sandbox_without_a_balloon_says_so(run_directory: Path) -> None:
    async with await Sandbox.create(SandboxConfig(name="plain")) as sandbox:
        assert sandbox.control_socket is None
        words = ["-P", "-m", "ballonet", "balloon", "get", "plain"]
        done = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
        _, err = await done.communicate()
        assert done.returncode == 2
        assert b"sandbox 'plain' was started without a balloon" in err


async def test_a_client_killed_in_the_middle_of_a_request_leaves_the_target_it_asked_for(
    sandbox: Sandbox, client: Client
) -> None:
    words = ["-P", "-m", "ballonet", "balloon", "set", sandbox.config.name, "300", "--wait"]
    asker = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    async for balloon in client.watch():
        if balloon.target_mib == 300:
            break
    asker.kill()
    await asker.communicate()
    async for balloon in client.watch():
        if balloon.state != "converging":
            break
    assert (balloon.state, balloon.actual_mib) == ("applied", 300)


async def test_half_a_request_changes_nothing(sandbox: Sandbox, client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as half:
        half.connect(str(sandbox.control_socket))
        half.sendall(b'{"jsonrpc":"2.0","id":1,"method":"balloon.set","params":{"target_mib":300')
    assert (await client.get()).target_mib == 1024


async def test_when_the_guest_loses_its_channel_it_powers_off_and_the_sandbox_ends(
    run_directory: Path,
) -> None:
    sandbox = await Sandbox.create(SandboxConfig(name="cut", balloon_min_mib=128))
    try:
        cut = "cd /sys/bus/virtio/drivers/virtio_console; for d in virtio*; do echo $d > unbind; done; sleep 1000"
        cutter = await sandbox.exec_stream(["sh", "-c", cut])
        end = await asyncio.wait_for(sandbox.wait(), WAIT_S)
        assert end.reason == "guest-poweroff"
        assert cutter.exit_status is None
    finally:
        await sandbox.kill()
