"""A host full of sandboxes under several policies: the memory that they use, and the slowdown of their work.

Seven real VMs with ceilings of 768 MiB run staggered work (builds, programs that allocate and free, file reading, idle
phases; see :mod:`bench.fleet_work`). All arms use the same host, image and work:

- ``static``: no balloon, no free-page reporting;
- ``reporting``: free-page reporting only;
- others: ``ballonet pilot --policy NAME`` with a budget below the sum of the ceilings.

The footprint is guest RAM held by the host (RssShmem of the engines), integrated over time; the engines' own memory,
which is the same in all arms, is listed separately. The slowdown is the sum of the durations of all jobs relative to
static in the same run. The image is a Debian root with python3 (``ballonet image build-debian``).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ballonet.base.memory import mib_to_bytes
from ballonet.host.proc import read_resident
from ballonet.sdk.sandbox import Balloon, Sandbox
from bench.common import BALLONET, RESULTS, options_parser, private_directories
from bench.fleet_work import LENGTH_S, TIMELINES

CEILING_MIB = 768
#: Budget for all engines together: 0.6 of the ceilings, as in the simulator, and what the engines need under emulation
#: (about 145 MiB each with a disk).
BUDGET_MIB = 4240
SAMPLE_S = 0.25
DEFAULT_ARMS = ("static", "reporting", "proxmox", "vm0", "ballonet")
_GIB_MIN = mib_to_bytes(1024) * 60


@dataclass
class Result:
    """One arm of one round."""

    arm: str
    #: Guest RAM held by the host at each sample, and all memory of the engines (bytes).
    guest_ram: list[int] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    #: Durations by ``ROLE/number job`` (seconds).
    jobs: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    oom_kills: int = 0

    def gib_minutes(self, values: Sequence[int]) -> float:
        steps = zip(values, self.at, self.at[1:], strict=False)
        return sum(value * (end - start) for value, start, end in steps) / _GIB_MIN

    def summary(self) -> dict[str, float]:
        return {
            "footprint GiB·min": self.gib_minutes(self.guest_ram),
            "with engines GiB·min": self.gib_minutes(self.resident),
            "peak MiB": max(self.guest_ram) / mib_to_bytes(1),
            "work s": sum(self.jobs.values()),
            "oom kills": self.oom_kills,
            "failed jobs": len(self.failed),
        }


async def run_arm(arm: str, image: str) -> Result:
    result = Result(arm)
    sandboxes = await start_all(arm, image)
    pilot = None
    try:
        if arm not in ("static", "reporting"):
            pilot = start_pilot(arm)
        sampling = asyncio.create_task(sample(sandboxes, result))
        await asyncio.gather(*(work(role, box, result) for role, box in sandboxes.items()))
        sampling.cancel()
        if arm != "static":
            stats = await asyncio.gather(*(box.metrics() for box in sandboxes.values()))
            result.oom_kills = sum(each.oom_kills or 0 for each in stats)
    finally:
        if pilot is not None:
            pilot.terminate()
            pilot.wait()
        await asyncio.gather(*(box.kill() for box in sandboxes.values()))
    return result


async def start_all(arm: str, image: str) -> dict[str, Sandbox]:
    balloon: Balloon | bool = arm != "static"
    if balloon:
        balloon = Balloon(min="128M")
    made = {}
    for role in TIMELINES:  # one after the other: boots are not measured
        made[role] = await Sandbox.create(
            f"fleet-{role}", image=image, memory=CEILING_MIB, balloon=balloon, admission=False
        )
        await made[role].fs.write(
            "/root/fleet_work.py", Path(__file__).with_name("fleet_work.py").read_bytes()
        )
    return made


def start_pilot(policy: str) -> subprocess.Popen[bytes]:
    argv = [*BALLONET, "pilot", "--policy", policy, "--budget", f"{BUDGET_MIB}M"]
    with (RESULTS / f"fleet-pilot-{policy}.log").open("wb") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log)


async def sample(sandboxes: dict[str, Sandbox], result: Result) -> None:
    began = time.monotonic()
    while True:
        held = [read_resident(box.engine_pid) for box in sandboxes.values()]
        result.at.append(time.monotonic() - began)
        result.guest_ram.append(sum(each.guest_ram_bytes for each in held if each))
        result.resident.append(sum(each.total_bytes for each in held if each))
        await asyncio.sleep(SAMPLE_S)


async def work(role: str, box: Sandbox, result: Result) -> None:
    done = await box.exec(["python3", "/root/fleet_work.py", role])
    if done.returncode != 0:
        result.failed.append(f"{role}: status {done.returncode}: {done.stderr[-500:]!r}")
    for number, line in enumerate(done.stdout.splitlines()):
        job = json.loads(line)
        result.jobs[f"{role}/{number} {job['job']}"] = job["took"]
        if job["failed"]:
            result.failed.append(f"{role}/{number} {job['job']}: {job['failed']}")


def report(rounds: list[dict[str, Result]], arms: Sequence[str]) -> None:
    """Print the results of each arm, relative to static and to reporting."""
    print(
        f"\nfleet ({len(TIMELINES)} VMs of {CEILING_MIB} MiB, budget {BUDGET_MIB} MiB, {LENGTH_S} s, "
        f"{len(rounds)} rounds; means of all rounds)"
    )
    print(
        f"  {'arm':<10} {'GiB·min':>8} {'× static':>9} {'× report.':>9} {'peak MiB':>9} {'× static':>9} {'work s':>8}"
        f" {'slowdown':>9} {'oom':>4} {'failed':>6}"
    )
    table = {}
    for arm in arms:
        mean = average([round_[arm].summary() for round_ in rounds])
        table[arm] = mean
    for arm, mean in table.items():
        base, report = table.get("static", mean), table.get("reporting", mean)
        print(
            f"  {arm:<10} {mean['footprint GiB·min']:8.2f} {mean['footprint GiB·min'] / base['footprint GiB·min']:9.3f}"
            f" {mean['footprint GiB·min'] / report['footprint GiB·min']:9.3f} {mean['peak MiB']:9.0f}"
            f" {mean['peak MiB'] / base['peak MiB']:9.3f} {mean['work s']:8.1f}"
            f" {100 * (mean['work s'] / base['work s'] - 1):8.1f}% {mean['oom kills']:4.0f} {mean['failed jobs']:6.0f}"
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        "rounds": [{arm: vars(result) for arm, result in round_.items()} for round_ in rounds],
        "means": table,
    }
    (RESULTS / "fleet.json").write_text(json.dumps(document) + "\n")
    for round_ in rounds:
        for arm, result in round_.items():
            for line in result.failed:
                print(f"  {arm}: failed: {line}")


def average(summaries: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in summaries) / len(summaries) for name in summaries[0]}


async def measure(arms: Sequence[str], rounds: int, image: str) -> None:
    done: list[dict[str, Result]] = []
    for number in range(rounds):
        results = {}
        # Reverse the order in every other round, so that a machine that becomes slower affects all arms.
        for arm in arms if number % 2 == 0 else list(reversed(arms)):
            results[arm] = await run_arm(arm, image)
            print(
                f"round {number + 1} {arm}: "
                + ", ".join(f"{k} {v:.2f}" for k, v in results[arm].summary().items()),
                flush=True,
            )
        done.append(results)
    report(done, arms)


def main() -> None:
    parser = options_parser(__doc__, rounds=1)
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS), help="comma-separated, in this order")
    parser.add_argument("--image", default="bench-debian", help="a local image of a Debian root with python3")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with private_directories("fleet"):
        asyncio.run(measure(options.arms.split(","), options.rounds, options.image))


if __name__ == "__main__":
    main()
