"""What the autopilot's looking costs: a tick over 10, 100 and 400 simulated sandboxes, against asking each for its
balloon and doing nothing else.

The sandboxes are real control servers with scripted guests in which nothing moves, as in most of a full host; the
tick is the real loop's, with everything that it does: questions, host, policy, checks, what it writes down.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable

from ballonet.control.client import Client
from ballonet.pilot.fleet import find_members
from ballonet.pilot.loop import Pilot, Settings
from ballonet.pilot.policies.catalog import make_policy
from bench.result import state
from bench.simulated import simulated

COUNTS = (10, 100, 400)


async def timed(what: Callable[[], Awaitable[object]], rounds: int) -> tuple[list[float], list[float]]:
    """Wall and processor time of each round (milliseconds), one a second."""
    wall, cpu = [], []
    for _ in range(rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        await what()
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - began_cpu) * 1000)
        await asyncio.sleep(max(0.0, 1.0 - wall[-1] / 1000))
    return wall, cpu


async def measure(count: int, rounds: int) -> dict[str, list[float]]:
    clients = [await Client.connect(member.control_socket) for member in find_members()]

    async def ask() -> None:
        await asyncio.gather(*(client.get() for client in clients))

    await ask()
    asked_wall, asked_cpu = await timed(ask, rounds)
    for client in clients:
        await client.close()
    pilot = Pilot(make_policy("ballonet"), Settings())
    await pilot.tick()
    tick = await pilot.tick()
    assert all(view.problem is None for view in tick.sandboxes) and len(tick.sandboxes) == count
    wall, cpu = await timed(pilot.tick, rounds)
    await pilot.close()
    return {
        f"{count}: asked only, wall": asked_wall,
        f"{count}: asked only, processor": asked_cpu,
        f"{count}: tick, wall": wall,
        f"{count}: tick, processor": cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    arms: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="ballonet-pilot-") as directory:
        os.environ["XDG_STATE_HOME"] = f"{directory}/state"
        os.environ["BALLONET_RUN_DIR"] = f"{directory}/run"
        for count in COUNTS:
            with simulated(count):
                arms |= asyncio.run(measure(count, rounds))
    state("pilot", arms, unit="ms", base="10: asked only, processor", note="a tick, once a second")
    for count in COUNTS:
        each = statistics.median(arms[f"{count}: tick, processor"]) / count
        print(f"  {count}: {each:.2f} ms of processor time a sandbox and second")


if __name__ == "__main__":
    main()
