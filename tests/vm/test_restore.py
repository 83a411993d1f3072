"""A balloon after a VM was saved and restored, at the engine's level: ballonet itself has no snapshots yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ballonet.base.process import spawn, wait_exit
from ballonet.guest.bundle import GuestBundle
from ballonet.guest.relay import AgentRelay
from ballonet.host.proc import read_resident
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.qemu.balloon_device import QemuBalloonDevice, changed_actual
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from ballonet.vmm.qemu.qmp import Qmp
from ballonet.vmm.qemu.vm import QemuVm

CONFIG = SandboxConfig(name="saved", memory_mib=512, balloon_initial_mib=300, balloon_min_mib=128)
WAIT_S = 60


async def save(qmp: Qmp, path: Path) -> bytes:
    """All that the engine has to say of its VM, through QEMU's migration to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        await qmp.execute("migrate", uri=f"unix:{path}")
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        with connection:
            connection.setblocking(False)
            saved = bytearray()
            while piece := await loop.sock_recv(connection, 1 << 20):
                saved += piece
    assert (await qmp.execute("query-migrate"))["status"] == "completed"
    return bytes(saved)


async def test_balloon_and_statistics_work_after_a_restore(guest: GuestBundle, tmp_path: Path) -> None:
    """As Firecracker tests of its snapshots: the size is kept, moves in both directions, and statistics refresh."""
    vm = build_vm(CONFIG, guest=guest)
    assert isinstance(vm, QemuVm)
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        await relay.wait_ready(120)
        assert vm.balloon is not None
        async with asyncio.timeout(WAIT_S):
            await vm.balloon.wait_settled(vm.balloon.status.generation)
        saved = await save(vm.qmp, tmp_path / "save")
    finally:
        await vm.kill()
        await relay.close()
    pairs = [socket.socketpair() for _ in range(3)]
    argv = render_command(vm.spec, vm.engine, EngineFds(*(far.fileno() for _, far in pairs)))
    incoming = tmp_path / "restore"
    engine = spawn([*argv, "-incoming", f"unix:{incoming}"], pass_fds=[far.fileno() for _, far in pairs])
    for _, far in pairs:
        far.close()
    assert vm.spec.balloon is not None

    def told(event: str, data: Mapping[str, Any]) -> None:
        if (actual := changed_actual(event, data)) is not None:
            balloon.actual_changed(actual)

    try:
        qmp = Qmp("restored", told)
        balloon = Balloon(
            vm.spec.balloon, QemuBalloonDevice(vm.spec.machine, vm.spec.balloon.ceiling_mib, qmp), engine.pid
        )
        await qmp.connect(pairs[0][0])
        with socket.socket(socket.AF_UNIX) as into:
            into.setblocking(False)
            into.connect(str(incoming))
            await asyncio.get_running_loop().sock_sendall(into, saved)
        async with asyncio.timeout(WAIT_S):
            while (await qmp.execute("query-status"))["status"] == "inmigrate":
                await asyncio.sleep(0.05)
        assert (await qmp.execute("query-balloon"))["actual"] == 300 << 20, "what the guest had is kept"
        await balloon.start()
        await qmp.execute("cont")
        for target in (200, 450, 256):
            async with asyncio.timeout(WAIT_S):
                _, generation = await balloon.set_target(target, force=True)
                status = await balloon.wait_settled(generation)
            assert (status.actual_mib, status.state) == (target, "applied")
        statistics = await balloon.statistics(max_age_s=0)
        assert statistics.total_bytes is not None
        assert statistics.available_bytes is not None
        resident = read_resident(engine.pid)
        assert resident is not None
        assert resident.guest_ram_mib <= 256 + 32
        await balloon.stop()
        await qmp.close()
    finally:
        engine.kill()
        await wait_exit(engine)
        for near, _ in pairs:
            near.close()
