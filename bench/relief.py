"""From a guest's stall to its raised target.

Each round shrinks a guest to its floor and lets a guest program allocate far more than is left. The program's start
is not the stall: the stall's beginning is taken from the guest's own PSI counter. The guest's kernel says, at the
moment of its trigger, for how long tasks had been stalled (``some`` total); host time of the raised target, less host
time of the stalled program's last step before that, would mix two clocks. So what is measured here is told in two
parts: the stall that the kernel had counted when it fired (guest clock), and the time from the frame's arrival on the
host to the engine having the new target (host clock); a third, from the kernel's wake-up to the frame's arrival, is
bounded by a ping of the agent under the same load.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from ballonet.base.errors import GuestError
from ballonet.guest.relay import AgentRelay
from ballonet.guest.report import GuestReport
from ballonet.machine.build import build_vm
from ballonet.machine.guest_memory import STALL_US, WINDOW_US
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.balloon import Balloon
from bench.result import state


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class _Stall:
    """One stall: relieved as the sandbox's process would, and timed."""

    def __init__(self, balloon: Balloon, before: GuestReport, over: asyncio.Future[None]) -> None:
        self._balloon = balloon
        self._before = before
        self._task: asyncio.Task[None] | None = None
        self.over = over
        self.stalled_ms = 0.0
        self.raised_ms = 0.0

    def told(self, report: GuestReport) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._relieve(report))

    async def _relieve(self, report: GuestReport) -> None:
        came = time.perf_counter()
        await self._balloon.relieve("bench")
        self.raised_ms = (time.perf_counter() - came) * 1000
        self.stalled_ms = ((report.psi_some_total_us or 0) - (self._before.psi_some_total_us or 0)) / 1000
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
            await asyncio.sleep(1)  # the kernel's averages come to rest
            before = await relay.stats()
            stall = _Stall(balloon, before, asyncio.get_running_loop().create_future())
            await relay.watch_pressure(STALL_US, WINDOW_US, stall.told)
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
        "stalled when the kernel fired": stalled_ms,
        "agent's answer under load": ping_ms,
        "frame to raised": raised_ms,
    }
    state("relief", arms, unit="ms", base="stalled when the kernel fired", note="one stall a round")
    for name, values in arms.items():
        print(f"  p99 {name}: {percentile(values, 0.99):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    asyncio.run(measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
