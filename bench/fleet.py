"""A host full of sandboxes under several policies: the memory that they use, and the slowdown of their work.

Real VMs with ceilings of 768 MiB run staggered work (builds, programs that allocate and free, file reading, idle
phases; see :mod:`bench.fleet_work`). All arms use the same host, image and work:

- ``static``: no balloon, no free-page reporting;
- ``reporting``: free-page reporting only;
- others: ``ballonet pilot --policy NAME`` with a budget below the sum of the ceilings.

Sizes: 4 VMs leave processors of a machine with two cores to spare, 7 saturate them; larger machines take more, such as
``--sizes 56`` on 16 cores. With more than 7, the timelines start in groups, 3 s apart.

The footprint is guest RAM held by the host, integrated over time; the engines' own memory, which is the same in all
arms, is listed separately. Work is compared job by job in pairs within each round (:mod:`bench.paired`); the order of
the arms is reversed in every other round. The intervals are 95 %. With one round they say nothing about the differences
between rounds: take three or more. The image is a Debian root with python3 (``ballonet image build-debian``).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ballonet.base.memory import mib_to_bytes
from ballonet.host.load import tasks_per_processor
from ballonet.host.proc import read_cpu_s, read_resident
from ballonet.sdk.sandbox import Balloon, Sandbox
from bench.common import BALLONET, RESULTS, options_parser, private_directories
from bench.fleet_plan import CEILING_MIB, SHORT, Member, budget_mib, members
from bench.fleet_report import print_size
from bench.paired import order

SAMPLE_S = 0.25
#: Boots and requests at the same time.
PARALLEL = 2 * (os.cpu_count() or 1)
DEFAULT_ARMS = ("static", "reporting", "proxmox", "vm0", "hypeman", "ballonet")
_GIB_MIN = mib_to_bytes(1024) * 60
_WORK = Path(__file__).with_name("fleet_work.py")


class Root(NamedTuple):
    """The guests' root: an image, or a file or directory."""

    image: str | None
    rootfs: str | None


@dataclass
class Result:
    """One arm of one round."""

    arm: str
    #: Guest RAM held by the host at each sample, and all memory of the engines (bytes).
    guest_ram: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    #: Durations by ``GUEST/number job`` (seconds).
    jobs: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    oom_kills: int = 0
    #: Processor time of the autopilot (seconds), and tasks for each processor of the host at the end.
    pilot_cpu_s: float = 0.0
    load: float = 0.0

    def gib_minutes(self, values: Sequence[int]) -> float:
        steps = zip(values, self.at, self.at[1:], strict=False)
        return sum(value * (end - start) for value, start, end in steps) / _GIB_MIN

    def summary(self) -> dict[str, float]:
        return {
            "footprint GiB·min": self.gib_minutes(self.guest_ram),
            "with engines GiB·min": self.gib_minutes(self.resident),
            "peak MiB": max(self.guest_ram, default=0) / mib_to_bytes(1),
            "work s": sum(self.jobs.values()),
            "oom kills": self.oom_kills,
            "failed jobs": len(self.failed),
            "pilot s": self.pilot_cpu_s,
            "load": self.load,
        }


async def run_arm(arm: str, fleet: Sequence[Member], root: Root, scale: float) -> Result:
    result = Result(arm)
    made: dict[str, Sandbox] = {}
    pilot = None
    try:
        await start_all(arm, fleet, root, made)
        if arm not in ("static", "reporting"):
            pilot = start_pilot(arm, len(fleet))
        sampling = asyncio.create_task(sample(made, result))
        await asyncio.gather(*(work(member, made[member.name], scale, result) for member in fleet))
        sampling.cancel()
        result.load = tasks_per_processor()
        if pilot is not None:
            result.pilot_cpu_s = read_cpu_s(pilot.pid) or 0.0
        if arm != "static":
            stats = await asyncio.gather(*(box.metrics() for box in made.values()))
            result.oom_kills = sum(each.oom_kills or 0 for each in stats)
    finally:
        if pilot is not None:
            pilot.terminate()
            pilot.wait()
        await asyncio.gather(*(box.kill() for box in made.values()))
    return result


async def start_all(arm: str, fleet: Sequence[Member], root: Root, made: dict[str, Sandbox]) -> None:
    """Start all guests of one arm, which is not measured."""
    balloon: Balloon | bool = arm != "static" and Balloon(min="128M")
    room = asyncio.Semaphore(PARALLEL)

    async def start(member: Member) -> None:
        async with room:
            box = await Sandbox.create(
                f"fleet-{member.name}",
                image=root.image,
                rootfs=root.rootfs,
                memory=CEILING_MIB,
                balloon=balloon,
                admission=False,
            )
            made[member.name] = box
            await box.fs.write("/root/fleet_work.py", _WORK.read_bytes())

    await asyncio.gather(*map(start, fleet))


def start_pilot(policy: str, count: int) -> subprocess.Popen[bytes]:
    argv = [*BALLONET, "pilot", "--policy", policy, "--budget", f"{budget_mib(count)}M"]
    with (RESULTS / f"fleet-{count}-pilot-{policy}.log").open("wb") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log)


async def sample(sandboxes: Mapping[str, Sandbox], result: Result) -> None:
    began = time.monotonic()
    while True:
        held = [read_resident(box.engine_pid) for box in sandboxes.values()]
        result.at.append(time.monotonic() - began)
        result.guest_ram.append(sum(each.guest_ram_bytes for each in held if each))
        result.resident.append(sum(each.total_bytes for each in held if each))
        await asyncio.sleep(SAMPLE_S)


async def work(member: Member, box: Sandbox, scale: float, result: Result) -> None:
    await asyncio.sleep(member.delay_s)
    done = await box.exec(["python3", "/root/fleet_work.py", member.role, str(scale)])
    if done.returncode != 0:
        result.failed.append(f"{member.name}: status {done.returncode}: {done.stderr[-500:]!r}")
    for number, line in enumerate(done.stdout.splitlines()):
        job = json.loads(line)
        result.jobs[f"{member.name}/{number} {job['job']}"] = job["took"]
        if job["failed"]:
            result.failed.append(f"{member.name}/{number} {job['job']}: {job['failed']}")


async def measure(count: int, arms: Sequence[str], rounds: int, root: Root, scale: float) -> None:
    fleet = members(count)
    done: list[dict[str, Result]] = []
    for number in range(rounds):
        results = {}
        for arm in order(arms, number):
            results[arm] = await run_arm(arm, fleet, root, scale)
            shown = ", ".join(f"{name} {value:.2f}" for name, value in results[arm].summary().items())
            print(f"{count} VMs, round {number + 1}, {arm}: {shown}", flush=True)
        done.append(results)
        # After each round: a long run that is interrupted keeps what it has measured.
        document = [{arm: vars(result) for arm, result in round_.items()} for round_ in done]
        (RESULTS / f"fleet-{count}.json").write_text(
            json.dumps({"vms": count, "budget_mib": budget_mib(count), "scale": scale, "rounds": document})
            + "\n"
        )
    print_size(
        count,
        arms,
        [{arm: result.summary() for arm, result in round_.items()} for round_ in done],
        [{arm: result.jobs for arm, result in round_.items()} for round_ in done],
    )
    for round_ in done:
        for arm, result in round_.items():
            for line in result.failed:
                print(f"  {arm}: failed: {line}")


def main() -> None:
    parser = options_parser(__doc__, rounds=3)
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS), help="comma-separated, in this order")
    parser.add_argument("--sizes", default="4,7", help="numbers of VMs, comma-separated (default: 4,7)")
    parser.add_argument("--image", default="bench-debian", help="a local image of a Debian root with python3")
    parser.add_argument("--rootfs", help="a file or directory with such a root, instead of an image")
    parser.add_argument(
        "--short", action="store_true", help="timelines of 45 s instead of 150, for a first look"
    )
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    arms = options.arms.split(",")
    root = Root(options.image if options.rootfs is None else None, options.rootfs)
    scale = SHORT if options.short else 1.0
    with private_directories("fleet"):
        for count in map(int, options.sizes.split(",")):
            asyncio.run(measure(count, arms, options.rounds, root, scale))


if __name__ == "__main__":
    main()
