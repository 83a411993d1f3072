"""Time from a guest's stall to its raised target.

Each round shrinks a guest to its floor and then runs a program in it that allocates far more than is left. The start of
the program is not the start of the stall, and a difference between guest and host times would mix two clocks.
Therefore two parts are measured separately: the stall that the guest's kernel had counted (PSI ``some`` total) when its
trigger fired, by the guest's clock; and the time from the arrival of the agent's frame on the host until the engine has
the new target, by the host's clock. The third part, from the trigger to the arrival of the frame, is bounded by a ping
of the agent under the same load.
"""

from __future__ import annotations

import asyncio
import time

from ballonet.base.errors import GuestError
from ballonet.guest.relay import AgentRelay
from ballonet.guest.report import GuestReport
from ballonet.machine.build import build_vm
from ballonet.machine.guest_memory import STALL_US, WINDOW_US
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.balloon import Balloon
from bench.common import options_parser, percentile, report


class _Stall:
    """One stall: relieved in the same way as by the sandbox's process, and timed."""

    def __init__(self, balloon: Balloon, before: GuestReport, over: asyncio.Future[None]) -> None:
        self._balloon = balloon
        self._before = before
        self._task: asyncio.Task[None] | None = None
        self.over = over
        self.stalled_ms = 0.0
        self.raised_ms = 0.0

    def on_pressure(self, guest_report: GuestReport) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._relieve(guest_report))

    async def _relieve(self, guest_report: GuestReport) -> None:
        came = time.perf_counter()
        await self._balloon.relieve("bench")
        self.raised_ms = (time.perf_counter() - came) * 1000
        stalled_us = (guest_report.psi_some_total_us or 0) - (self._before.psi_some_total_us or 0)
        self.stalled_ms = stalled_us / 1000
        self.over.set_result(None)


async def measure(rounds: int) -> None:
    vm = build_vm(SandboxConfig(name="relief", memory_mib=1024, balloon_min_mib=192))
    stalled_ms: list[float] = []
    raised_ms: list[float] = []
    ping_ms: list[float] = []
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        await relay.wait_ready(120)
        balloon = vm.balloon
        assert balloon is not None
        await balloon.check_driver()
        for _ in range(rounds):
            await balloon.set_target(192, force=True)
            await balloon.wait_settled(balloon.status.generation)
            await asyncio.sleep(1)  # until the kernel's averages have settled
            before = await relay.stats()
            stall = _Stall(balloon, before, asyncio.get_running_loop().create_future())
            await relay.watch_pressure(STALL_US, WINDOW_US, stall.on_pressure)
            process = await relay.exec(["dd", "if=/dev/zero", "of=/dev/null", "bs=600M", "count=1"])
            while not stall.over.done():
                started = time.perf_counter()
                try:
                    await relay.ping(timeout_s=30)
                except GuestError:
                    break
                ping_ms.append((time.perf_counter() - started) * 1000)
                await asyncio.sleep(0.005)
            await process.communicate()
            await process.wait()
            stalled_ms.append(stall.stalled_ms)
            raised_ms.append(stall.raised_ms)
            await relay.stop_watching_pressure()
    finally:
        await relay.close()
        await vm.kill()
    arms = {
        "stall when the trigger fired": stalled_ms,
        "ping of the agent under load": ping_ms,
        "frame to raised target": raised_ms,
    }
    report("relief", arms, unit="ms", base="stall when the trigger fired", note="one stall per round")
    for name, values in arms.items():
        print(f"  p99 {name}: {percentile(values, 0.99):.1f} ms")


def main() -> None:
    asyncio.run(measure(options_parser(__doc__, rounds=30).parse_args().rounds))


if __name__ == "__main__":
    main()
