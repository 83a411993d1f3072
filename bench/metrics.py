"""The cost of metrics: a scrape of 10 real and of 1,000 simulated sandboxes, and of sampling an idle guest.

A scrape queries all sandboxes and renders the text, as for Prometheus. The simulated sandboxes are real control servers
with scripted backends, in a few processes. The cost of sampling is the CPU time of engines whose guests are idle at the
same time: one without sampling, one with its own sampler (which each sandbox has), one that is also scraped every five
seconds, and one whose guest is queried twice a second, as by a sampler without an adaptive interval.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from ballonet.control.client import Client
from ballonet.control.peers import AccessPolicy
from ballonet.lifecycle.samples import collect
from ballonet.machine.build import build_vm
from ballonet.machine.run_directory import claim_run_directory
from ballonet.machine.services import Services
from ballonet.metrics.exposition import Exporter
from ballonet.metrics.model import Snapshot
from ballonet.sdk.sandbox import Sandbox, random_name
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.engine import Vm
from bench.common import CLOCKSOURCE, Arms, options_parser, private_directories, report, timed_with_cpu
from bench.simulated_sandboxes import simulated

SIMULATED = 1000
#: Wait until a guest has finished everything that follows its boot (seconds).
_REST_S = 90.0

T = TypeVar("T")
#: Reads a guest's clock source.
Clock = Callable[[], Awaitable[bytes]]


def scrapes(rounds: int, expected: int) -> tuple[list[float], list[float]]:
    """Wall time and CPU time of each scrape (milliseconds)."""
    exporter = Exporter()
    wall: list[float] = []
    cpu: list[float] = []

    def take() -> Snapshot:
        snapshot = collect()
        answered = sum(not sample.unknown for sample in snapshot.sandboxes)
        assert answered == expected, f"{answered} of {expected} answered"
        return snapshot

    exporter.render(take)
    for _ in range(rounds):
        with timed_with_cpu(wall, cpu):
            exporter.render(take)
    return wall, cpu


async def real(count: int, rounds: int) -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stack:
        for number in range(count):
            config = SandboxConfig(name=f"metrics-{number}", memory_mib=256, balloon_min_mib=128)
            stack.push_async_callback((await Sandbox.create(config)).kill)
        return await asyncio.to_thread(scrapes, rounds, count)


async def idle(seconds: float, windows: int) -> None:
    """CPU time of engines with idle guests, in the same time windows."""
    async with AsyncExitStack() as stack:
        bare = await _until_steady(stack, _unsampled)
        names = ("own sampler", "and scraped every 5 s", "queried twice a second")
        sandboxes = [await _until_steady(stack, _sampled) for _ in names]
        own, scraped, asked = sandboxes
        await asyncio.sleep(_REST_S)
        stack.callback(asyncio.create_task(_ask(scraped, every_s=5, max_age_s=60)).cancel)
        stack.callback(asyncio.create_task(_ask(asked, every_s=0.5, max_age_s=0)).cancel)
        pids = {"not sampled": bare.pid} | {
            name: sandbox.engine_pid for name, sandbox in zip(names, sandboxes, strict=True)
        }
        readers: dict[str, Callable[[], float]] = {
            f"engine, {name}": lambda pid=pid: _cpu_s(pid)  # type: ignore[misc]
            for name, pid in pids.items()
        }
        readers["sandbox's own process, own sampler"] = lambda: _cpu_s(own.pid)
        arms: Arms = {name: [] for name in readers}
        for _ in range(windows):
            before = {name: read() for name, read in readers.items()}
            began = time.perf_counter()
            await asyncio.sleep(seconds)
            took = time.perf_counter() - began
            for name, read in readers.items():
                arms[name].append((read() - before[name]) / took * 100)
    report(
        "metrics-idle",
        arms,
        unit="%",
        base="engine, not sampled",
        note=f"of one CPU, idle guests, windows of {seconds:g} s",
    )


async def _until_steady(
    stack: AsyncExitStack, make: Callable[[AsyncExitStack], Awaitable[tuple[T, Clock]]]
) -> T:
    """Start sandboxes until one has a guest that uses the TSC. Under emulation on a busy host a guest's kernel may
    reject the TSC while it boots. It then has 250 timer ticks per second even when idle, which cost more than anything
    measured here."""
    while True:
        async with AsyncExitStack() as own:
            made, clock = await make(own)
            while (source := (await clock()).strip()) == b"tsc-early":
                await asyncio.sleep(1)
            if source == b"tsc":
                stack.push_async_exit(own.pop_all())
                return made
            print(f"a guest uses the clock source {source.decode()}: starting another", flush=True)


async def _unsampled(stack: AsyncExitStack) -> tuple[Vm, Clock]:
    """A VM with everything that a sandbox's process serves, except for the sampler."""
    run_directory = claim_run_directory("unsampled", None, with_control=True)
    stack.callback(run_directory.release)
    vm = build_vm(SandboxConfig(name="unsampled", memory_mib=256, balloon_min_mib=128))
    await vm.start()
    stack.push_async_callback(vm.kill)
    services = Services(vm, vm.take_agent_channel(), run_directory, None, AccessPolicy())
    stack.push_async_callback(services.close)
    await services.open_control()
    await services.boot(120, (), relief=True)

    async def clock() -> bytes:
        async with await services.agent.exec(["cat", CLOCKSOURCE]) as process:
            return (await process.communicate())[0]

    return vm, clock


async def _sampled(stack: AsyncExitStack) -> tuple[Sandbox, Clock]:
    config = SandboxConfig(name=random_name("idle"), memory_mib=256, balloon_min_mib=128)
    sandbox = await Sandbox.create(config)
    stack.push_async_callback(sandbox.kill)

    async def clock() -> bytes:
        return (await sandbox.exec(["cat", CLOCKSOURCE])).stdout

    return sandbox, clock


async def _ask(sandbox: Sandbox, *, every_s: float, max_age_s: float) -> None:
    assert sandbox.control_socket is not None
    while True:
        async with await Client.connect(sandbox.control_socket) as client:
            await client.get()
            await client.stats(max_age_s)
        await asyncio.sleep(every_s)


def _cpu_s(pid: int) -> float:
    """CPU time of all threads, in nanosecond resolution (schedstat, Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    parser = options_parser(__doc__, rounds=20)
    parser.add_argument("--seconds", type=float, default=30, help="length of an idle window (default: 30)")
    parser.add_argument("--windows", type=int, default=5, help="number of idle windows (default: 5)")
    parser.add_argument("--only", choices=("scrape", "idle"))
    options = parser.parse_args()
    with private_directories("metrics"):
        if options.only != "idle":
            scrape(options.rounds)
        if options.only != "scrape":
            asyncio.run(idle(options.seconds, options.windows))


def scrape(rounds: int) -> None:
    wall, cpu = asyncio.run(real(10, rounds))
    with simulated(SIMULATED):
        many_wall, many_cpu = scrapes(rounds, SIMULATED)
    arms = {
        "10 real sandboxes, wall": wall,
        "10 real sandboxes, CPU": cpu,
        f"{SIMULATED} simulated, wall": many_wall,
        f"{SIMULATED} simulated, CPU": many_cpu,
    }
    report("metrics-scrape", arms, unit="ms", base="10 real sandboxes, wall")
    print(f"  per sandbox: {statistics.median(many_cpu) / SIMULATED:.3f} ms of CPU time")


if __name__ == "__main__":
    main()
