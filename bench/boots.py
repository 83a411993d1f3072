"""Many boots in a row: does any guest hang, or come up without a clock? Prints how long they took and how many did.

A guest whose kernel found no timer that works answers, and yet nothing in it that waits ever goes on: so each is to
sleep for a moment, too. One whose kernel has given up the time stamp counter ticks all the time, also when it idles.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from ballonet.base.errors import GuestError
from ballonet.guest.relay import AgentRelay
from ballonet.machine.build import build_vm
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.config import Machine
from bench.result import state

#: How long a guest may take to sleep for a moment (seconds).
_SLEEP_DEADLINE_S = 30.0
_CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"


async def boot(machine: Machine, deadline_s: float) -> float | None:
    """Seconds to the agent's first word; ``None`` if it never came."""
    vm = build_vm(SandboxConfig(name="boots", memory_mib=256, machine=machine))
    started = time.perf_counter()
    await vm.start()
    relay = AgentRelay(vm.take_agent_channel())
    try:
        await relay.wait_ready(deadline_s)
        took = time.perf_counter() - started
        async with asyncio.timeout(_SLEEP_DEADLINE_S):
            process = await relay.exec(["sh", "-c", f"sleep 0.05; cat {_CLOCKSOURCE}"])
            clock = (await process.communicate())[0].decode().strip()
            await process.wait()
        if clock not in ("tsc", "tsc-early", "kvm-clock"):
            print(f"its clock is {clock}: {vm.console.last_lines(10)}")
            return None
        return took
    except TimeoutError:
        print(f"its timers do not work: {vm.console.last_lines(10)}")
        return None
    except GuestError as error:
        print(f"did not come up: {error}\n{vm.console.last_lines(10)}")
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
            print(f"{number} boots, {number - len(times)} did not come up", flush=True)
    note = f"{machine}: {count} boots in a row, {count - len(times)} did not come up within {deadline_s:g} s"
    state(f"boots-{machine}", {"boot to ready": times}, unit="s", base="boot to ready", note=note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--machine", type=Machine, default=Machine.MICROVM)
    parser.add_argument("--deadline", type=float, default=60)
    options = parser.parse_args()
    asyncio.run(measure(options.count, options.machine, options.deadline))


if __name__ == "__main__":
    main()
