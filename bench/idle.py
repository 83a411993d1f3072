"""Idle guests under the autopilot: processor time of everything that runs for them, and whether anything grows.

The sandboxes, their engines and the autopilot are measured from one minute after the last boot to the end, minute by
minute. Processor time is a share of one processor for each guest. Memory is resident memory for engines, with all of
their guests' RAM, and PSS for the others, which counts a shared page in parts.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ballonet.base.memory import MIB
from ballonet.host.proc import read_cpu_s, read_pss_bytes, read_resident
from ballonet.sdk.sandbox import Balloon, Sandbox
from bench.common import BALLONET, RESULTS, options_parser, private_directories, report

MINUTE_S = 60.0


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def engine_memory(pid: int) -> int | None:
    """With all of the guest's RAM: a restored guest's is there before its engine maps it."""
    resident = read_resident(pid)
    return None if resident is None else resident.total_bytes


def total(of: Callable[[int], float | None], pids: Sequence[int]) -> float:
    """The sum for these processes.

    :raises RuntimeError: one of them has ended.
    """
    values = [of(pid) for pid in pids]
    if None in values:
        raise RuntimeError("a process has ended")
    return sum(value for value in values if value is not None)


async def measure(count: int, minutes: int) -> None:
    sandboxes: list[Sandbox] = []
    pilot = None
    try:
        for number in range(count):
            balloon = Balloon(min="128M")
            sandboxes.append(await Sandbox.create(f"idle-{number}", memory="512M", balloon=balloon))
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / "idle-pilot.log").open("wb") as log:
            pilot = subprocess.Popen(
                [*BALLONET, "pilot"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        groups = {
            "engines": [sandbox.engine_pid for sandbox in sandboxes],
            "sandboxes' own processes": [sandbox.pid for sandbox in sandboxes],
            "autopilot": [pilot.pid],
        }
        await asyncio.sleep(MINUTE_S)
        await follow(groups, count, minutes)
    finally:
        if pilot is not None:
            pilot.terminate()
            pilot.wait()
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))


async def follow(groups: dict[str, list[int]], count: int, minutes: int) -> None:
    shares: dict[str, list[float]] = {name: [] for name in (*groups, "all")}
    last = {name: total(read_cpu_s, pids) for name, pids in groups.items()}
    since = time.monotonic()
    print(f"{'minute':>6}", *(f"{name + ': % of a processor, MiB, fds':>55}" for name in groups))
    for minute in range(minutes + 1):
        if minute:
            await asyncio.sleep(MINUTE_S)
        now = time.monotonic()
        columns = []
        for name, pids in groups.items():
            shown = f"{'-':>29}"
            if minute:
                used = total(read_cpu_s, pids)
                shares[name].append((used - last[name]) / (now - since) / count * 100)
                last[name] = used
                shown = f"{shares[name][-1]:29.3f}"
            memory = total(engine_memory if name == "engines" else read_pss_bytes, pids) / MIB
            columns.append(f"{shown} {memory:17.1f} {int(total(descriptors, pids)):7}")
        if minute:
            shares["all"].append(sum(values[-1] for name, values in shares.items() if name != "all"))
        since = now
        print(f"{minute:6}", *columns, flush=True)
    note = f"{count} idle guests under the autopilot for {minutes} minutes; of a processor for each guest"
    report("idle", shares, unit="%", base="engines", note=note)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--count", type=int, default=20, help="number of sandboxes (default: 20)")
    parser.add_argument("--minutes", type=int, default=20, help="how long (default: 20)")
    options = parser.parse_args()
    with private_directories("idle"):
        asyncio.run(measure(options.count, options.minutes))


if __name__ == "__main__":
    main()
