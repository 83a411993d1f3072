"""Many boots in a row: does any guest hang, or start without a working clock? Prints the times and the failures.

A guest whose kernel found no working timer answers, but nothing in it that sleeps ever continues. Each guest therefore
sleeps briefly. A guest whose kernel rejected the TSC has timer ticks even when idle, and counts as a failure as well.
"""

from __future__ import annotations

import asyncio
import time

from ballonet.base.errors import GuestError
from ballonet.guest.relay import AgentRelay
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Machine
from bench.common import CLOCKSOURCE, options_parser, report

#: Time limit for a guest's short sleep (seconds).
_SLEEP_DEADLINE_S = 30.0


async def boot(machine: Machine, deadline_s: float) -> float | None:
    """Seconds until the agent is ready; ``None`` if the boot failed."""
    vm = build_vm(SandboxConfig(name="boots", memory_mib=256, machine=machine))
    started = time.perf_counter()
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        await relay.wait_ready(deadline_s)
        took = time.perf_counter() - started
        async with asyncio.timeout(_SLEEP_DEADLINE_S):
            process = await relay.exec(["sh", "-c", f"sleep 0.05; cat {CLOCKSOURCE}"])
            clock = (await process.communicate())[0].decode().strip()
            await process.wait()
        if clock not in ("tsc", "tsc-early", "kvm-clock"):
            print(f"clock source {clock}: {vm.console.last_lines(10)}")
            return None
        return took
    except TimeoutError:
        print(f"timers do not work: {vm.console.last_lines(10)}")
        return None
    except GuestError as error:
        print(f"boot failed: {error}\n{vm.console.last_lines(10)}")
        return None
    finally:
        await relay.close()
        await vm.kill()


async def measure(count: int, machine: Machine, deadline_s: float) -> None:
    times: list[float] = []
    for number in range(1, count + 1):
        took = await boot(machine, deadline_s)
        if took is not None:
            times.append(took)
        if number % 10 == 0:
            print(f"{number} boots, {number - len(times)} failed", flush=True)
    note = f"{machine}: {count} boots in a row, {count - len(times)} failed within {deadline_s:g} s"
    report(f"boots-{machine}", {"boot to ready": times}, unit="s", base="boot to ready", note=note)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--count", type=int, default=100, help="number of boots (default: 100)")
    parser.add_argument("--machine", type=Machine, default=Machine.MICROVM)
    parser.add_argument(
        "--deadline", type=float, default=60, help="time limit of a boot in seconds (default: 60)"
    )
    options = parser.parse_args()
    asyncio.run(measure(options.count, options.machine, options.deadline))


if __name__ == "__main__":
    main()
