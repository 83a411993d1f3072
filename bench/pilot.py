"""The cost of the autopilot: a tick with 10, 100 and 400 simulated sandboxes, compared with only querying the balloon
of each.

The sandboxes are real control servers with scripted guests in which nothing changes, as for most sandboxes of a full
host. The tick is that of the real loop with all its parts: queries, host, policy, checks and records.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable

from ballonet.control.client import Client
from ballonet.pilot.fleet import find_members
from ballonet.pilot.loop import Pilot, Settings
from ballonet.pilot.policies.catalog import make_policy
from bench.common import Arms, options_parser, private_directories, report, timed_with_cpu
from bench.simulated_sandboxes import simulated

COUNTS = (10, 100, 400)


async def timed_once_a_second(
    work: Callable[[], Awaitable[object]], rounds: int
) -> tuple[list[float], list[float]]:
    """Wall time and CPU time of each round (milliseconds), with one round per second."""
    wall: list[float] = []
    cpu: list[float] = []
    for _ in range(rounds):
        with timed_with_cpu(wall, cpu):
            await work()
        await asyncio.sleep(max(0.0, 1.0 - wall[-1] / 1000))
    return wall, cpu


async def measure(count: int, rounds: int) -> Arms:
    clients = [await Client.connect(member.control_socket) for member in find_members()]

    async def query() -> None:
        await asyncio.gather(*(client.get() for client in clients))

    await query()
    query_wall, query_cpu = await timed_once_a_second(query, rounds)
    for client in clients:
        await client.close()
    pilot = Pilot(make_policy("ballonet"), Settings())
    await pilot.tick()
    tick = await pilot.tick()
    assert all(view.problem is None for view in tick.sandboxes) and len(tick.sandboxes) == count
    wall, cpu = await timed_once_a_second(pilot.tick, rounds)
    await pilot.close()
    return {
        f"{count}: queries only, wall": query_wall,
        f"{count}: queries only, CPU": query_cpu,
        f"{count}: tick, wall": wall,
        f"{count}: tick, CPU": cpu,
    }


def main() -> None:
    rounds = options_parser(__doc__, rounds=20).parse_args().rounds
    arms: Arms = {}
    with private_directories("pilot"):
        for count in COUNTS:
            with simulated(count):
                arms |= asyncio.run(measure(count, rounds))
    report("pilot", arms, unit="ms", base="10: queries only, CPU", note="one tick per second")
    for count in COUNTS:
        each = statistics.median(arms[f"{count}: tick, CPU"]) / count
        print(f"  {count}: {each:.2f} ms of CPU time per sandbox and second")


if __name__ == "__main__":
    main()
