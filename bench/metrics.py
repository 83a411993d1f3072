"""What the metrics cost: a scrape of 10 real and of 1,000 simulated sandboxes, and sampling's cost in an idle guest.

A scrape is what Prometheus causes: all sandboxes asked, and the text rendered. The simulated ones are real control
servers, in a few processes, with a scripted sandbox behind each. The guest's cost is the processor time of engines
whose guests idle at the same time: one that nobody samples, one with its own sampler (each sandbox has it), one that
is scraped every five seconds as well, and one whose guest is asked twice a second, as a sampler without an adaptive
interval would.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
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
from bench.result import state
from bench.simulated import simulated

SIMULATED = 1000
#: What a boot leaves a guest to do is done by then (seconds).
_REST_S = 90.0
_CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

T = TypeVar("T")
#: Asks a guest for its clock.
Clock = Callable[[], Awaitable[bytes]]


def scrapes(rounds: int, expected: int) -> tuple[list[float], list[float]]:
    """Wall and processor time of each scrape (milliseconds)."""
    exporter = Exporter()
    wall, cpu = [], []

    def take() -> Snapshot:
        snapshot = collect()
        answered = sum(not sample.unknown for sample in snapshot.sandboxes)
        assert answered == expected, f"{answered} of {expected} answered"
        return snapshot

    exporter.render(take)
    for _ in range(rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        exporter.render(take)
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - began_cpu) * 1000)
    return wall, cpu


async def real(count: int, rounds: int) -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stack:
        for number in range(count):
            config = SandboxConfig(name=f"metrics-{number}", memory_mib=256, balloon_min_mib=128)
            stack.push_async_callback((await Sandbox.create(config)).kill)
        return await asyncio.to_thread(scrapes, rounds, count)


async def idle(seconds: float, windows: int) -> None:
    """The processor time of engines whose guests idle, in the same windows."""
    async with AsyncExitStack() as stack:
        bare = await _until_steady(stack, _unsampled)
        names = ("own sampler", "and scraped every 5 s", "asked twice a second")
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
        arms: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(windows):
            before = {name: read() for name, read in readers.items()}
            began = time.perf_counter()
            await asyncio.sleep(seconds)
            took = time.perf_counter() - began
            for name, read in readers.items():
                arms[name].append((read() - before[name]) / took * 100)
    state(
        "metrics-idle",
        arms,
        unit="%",
        base="engine, not sampled",
        note=f"of one processor, guests that idle, windows of {seconds:g} s",
    )


async def _until_steady(
    stack: AsyncExitStack, make: Callable[[AsyncExitStack], Awaitable[tuple[T, Clock]]]
) -> T:
    """One whose guest trusts its clock. Under emulation a busy host can make a guest's kernel distrust the TSC while it
    boots; it then ticks 250 times a second for ever, which costs more than all that is measured here."""
    while True:
        async with AsyncExitStack() as own:
            made, clock = await make(own)
            while (source := (await clock()).strip()) == b"tsc-early":
                await asyncio.sleep(1)
            if source == b"tsc":
                stack.push_async_exit(own.pop_all())
                return made
            print(f"a guest uses {source.decode()} as its clock: another is booted", flush=True)


async def _unsampled(stack: AsyncExitStack) -> tuple[Vm, Clock]:
    """A VM with all that a sandbox's process serves around it, but its sampler."""
    run_directory = claim_run_directory("unsampled", None, with_control=True)
    stack.callback(run_directory.release)
    vm = build_vm(SandboxConfig(name="unsampled", memory_mib=256, balloon_min_mib=128))
    await vm.start()
    stack.push_async_callback(vm.kill)
    services = Services(vm, run_directory, None, AccessPolicy())
    stack.push_async_callback(services.close)
    await services.open_control()
    await services.boot(120, (), relief=True)

    async def clock() -> bytes:
        async with await services.agent.exec(["cat", _CLOCKSOURCE]) as process:
            return (await process.communicate())[0]

    return vm, clock


async def _sampled(stack: AsyncExitStack) -> tuple[Sandbox, Clock]:
    config = SandboxConfig(name=random_name("idle"), memory_mib=256, balloon_min_mib=128)
    sandbox = await Sandbox.create(config)
    stack.push_async_callback(sandbox.kill)

    async def clock() -> bytes:
        return (await sandbox.exec(["cat", _CLOCKSOURCE])).stdout

    return sandbox, clock


async def _ask(sandbox: Sandbox, *, every_s: float, max_age_s: float) -> None:
    assert sandbox.control_socket is not None
    while True:
        async with await Client.connect(sandbox.control_socket) as client:
            await client.get()
            await client.stats(max_age_s)
        await asyncio.sleep(every_s)


def _cpu_s(pid: int) -> float:
    """Processor time of all threads, to the nanosecond (schedstat, Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30, help="of a window of idling")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--only", choices=("scrape", "idle"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ballonet-bench-") as directory:
        os.environ["XDG_STATE_HOME"] = f"{directory}/state"
        os.environ["BALLONET_RUN_DIR"] = f"{directory}/run"
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
        "10 real sandboxes, processor": cpu,
        f"{SIMULATED} simulated, wall": many_wall,
        f"{SIMULATED} simulated, processor": many_cpu,
    }
    state("metrics-scrape", arms, unit="ms", base="10 real sandboxes, wall")
    print(f"  per sandbox: {statistics.median(many_cpu) / SIMULATED:.3f} ms of processor time")


if __name__ == "__main__":
    main()
