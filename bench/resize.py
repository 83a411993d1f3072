"""From setting a target to convergence: through the control socket, compared with raw QMP on the same VM.

Both arms use one VM and one event loop. While the raw arm moves the balloon, ballonet's own polling is stopped. The raw
arm polls ``query-balloon`` every 5 ms, as a script that uses QMP would.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from ballonet.base.memory import mib_to_bytes
from ballonet.control.client import Client
from ballonet.control.server import ControlServer
from ballonet.control.socketfile import bind_control_socket
from ballonet.guest.relay import AgentRelay
from ballonet.machine.backend import MachineBackend
from ballonet.machine.build import build_vm
from ballonet.machine.guest_memory import GuestMemory
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.qemu.vm import QemuVm
from bench.common import Arms, options_parser, report

HIGH_MIB, LOW_MIB = 1024, 256


async def raw(vm: QemuVm, target_mib: int) -> float:
    """Seconds until ``query-balloon`` shows the target."""
    wanted = mib_to_bytes(target_mib)
    started = time.perf_counter()
    await vm.qmp.execute("balloon", value=wanted)
    while (await vm.qmp.execute("query-balloon"))["actual"] != wanted:
        await asyncio.sleep(0.005)
    return time.perf_counter() - started


async def through_socket(client: Client, target_mib: int) -> float:
    """Seconds until the control socket replies that the target is applied."""
    started = time.perf_counter()
    reply = await client.set(target_mib, wait=True, timeout_s=120)
    took = time.perf_counter() - started
    if reply.state != "applied":
        raise SystemExit(f"not applied: {reply}")
    return took


async def measure(rounds: int) -> None:
    config = SandboxConfig(name="bench", memory_mib=HIGH_MIB, balloon_min_mib=LOW_MIB)
    vm = build_vm(config)
    assert isinstance(vm, QemuVm)
    arms: dict[str, Arms] = {
        "shrink": {"raw QMP": [], "control socket": []},
        "grow": {"raw QMP": [], "control socket": []},
    }
    with tempfile.TemporaryDirectory() as directory:
        await vm.start()
        relay = AgentRelay(vm.take_agent_channel())
        guest = GuestMemory(relay, vm.balloon)
        socket = bind_control_socket(Path(directory) / "control.sock")
        server = ControlServer(MachineBackend(vm, guest), socket)
        try:
            await server.start()
            await guest.start(await relay.wait_ready(120), relief=False)
            assert vm.balloon is not None
            await vm.balloon.check_driver()
            async with await Client.connect(Path(directory) / "control.sock") as client:
                for turn in range(rounds + 1):
                    for direction, target in (("shrink", LOW_MIB), ("grow", HIGH_MIB)):
                        took = await through_socket(client, target)
                        if turn:  # the first round touches new memory and translates new code
                            arms[direction]["control socket"].append(took)
                    await vm.balloon.stop()
                    for direction, target in (("shrink", LOW_MIB), ("grow", HIGH_MIB)):
                        took = await raw(vm, target)
                        if turn:
                            arms[direction]["raw QMP"].append(took)
                    await vm.balloon.start()
        finally:
            await relay.close()
            await server.close()
            await vm.kill()
    for direction, measured in arms.items():
        note = f"{direction}, {HIGH_MIB} and {LOW_MIB} MiB, until converged"
        report(f"resize-{direction}", measured, unit="s", base="raw QMP", note=note)


def main() -> None:
    asyncio.run(measure(options_parser(__doc__, rounds=10).parse_args().rounds))


if __name__ == "__main__":
    main()
