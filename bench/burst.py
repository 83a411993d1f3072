"""A burst of allocations in one guest while the host is nearly full: how long the guest's tasks stall.

Two sandboxes share a budget, managed by ``ballonet pilot``. One uses most of it. The other was shrunk to what it needs
and then allocates as fast as it can. Its stall is the increase of the guest's PSI counter (``some`` total) over the
whole burst: an upper bound of the time until relief, by the guest's clock, since a guest with enough memory does not
stall. For comparison: the same burst in a guest that was never shrunk.
"""

from __future__ import annotations

import asyncio
import subprocess
import time

from ballonet.control.client import Client
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import BALLONET, Arms, options_parser, percentile, private_directories, report

CEILING_MIB = 768
BUDGET_MIB = 1400
#: Memory that the neighbour uses, and memory that the burst allocates.
NEIGHBOUR_MIB, BURST_MIB = 380, 550
_LOW_MIB = 350


async def burst(box: Sandbox, client: Client) -> tuple[float, float, int]:
    """One burst: stall in ms, memory that the guest got in MiB/s, and processes killed by its kernel."""
    before = await client.stats()
    began = time.perf_counter()
    done = await box.exec(["dd", "if=/dev/zero", "of=/dev/null", f"bs={BURST_MIB}M", "count=1"])
    took_s = time.perf_counter() - began
    after = await client.stats()
    assert done.returncode == 0, done.stderr
    stalled = (after.pressure.some_total_us or 0) - (before.pressure.some_total_us or 0)
    kills = (after.oom_kills or 0) - (before.oom_kills or 0)
    return stalled / 1000, BURST_MIB / took_s, kills


async def measure(rounds: int) -> None:
    boxes = [
        await Sandbox.create(
            SandboxConfig(
                name=name, memory_mib=CEILING_MIB, balloon_initial_mib=CEILING_MIB, balloon_min_mib=128
            )
        )
        for name in ("burst", "neighbour")
    ]
    box, neighbour = boxes
    arms: Arms = {"never shrunk": [], "shrunk by the autopilot": []}
    speeds: list[float] = []
    kills = 0
    assert box.control_socket is not None
    try:
        # Stays in use: a tmpfs file cannot be reclaimed like a cache.
        await neighbour.shell(f"dd if=/dev/zero of=/dev/shm/held bs=1M count={NEIGHBOUR_MIB}")
        async with await Client.connect(box.control_socket) as client:
            for _ in range(rounds):
                await client.set(CEILING_MIB, wait=True, timeout_s=60)
                arms["never shrunk"].append((await burst(box, client))[0])
                argv = [*BALLONET, "pilot", "--budget", f"{BUDGET_MIB}M", "--json"]
                pilot = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
                try:
                    async for balloon in client.watch():
                        if balloon.actual_mib is not None and balloon.actual_mib < _LOW_MIB:
                            break
                    stalled, speed, killed = await burst(box, client)
                finally:
                    pilot.terminate()
                    pilot.wait()
                arms["shrunk by the autopilot"].append(stalled)
                speeds.append(speed)
                kills += killed
        killed_there = (await neighbour.metrics()).oom_kills
    finally:
        for each in boxes:
            await each.kill()
    report("burst", arms, unit="ms stalled", base="shrunk by the autopilot", note=f"{BURST_MIB} MiB at once")
    for arm, values in arms.items():
        print(f"  p99 {arm}: {percentile(values, 0.99):.1f} ms")
    print(f"  the guest got {min(speeds):.0f} to {max(speeds):.0f} MiB/s during relief")
    print(f"  processes killed by the kernel: {kills} in the guest, {killed_there} in the neighbour")


def main() -> None:
    rounds = options_parser(__doc__, rounds=20).parse_args().rounds
    with private_directories("burst"):
        asyncio.run(measure(rounds))


if __name__ == "__main__":
    main()
