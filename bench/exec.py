"""A command in a running sandbox: the bare agent, the SDK, and the command line; and ``ballonet ls``.

The bare arm is the agent's protocol straight on the virtio port of a VM that nothing supervises. ``ls`` is measured
with 200 sandboxes registered, of which one runs.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time

from ballonet.guest.agent_client import AgentClient
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.result import state

ROWS = 200


async def main(rounds: int) -> None:
    arms: dict[str, list[float]] = {"bare agent": [], "Sandbox.exec": [], "ballonet exec": []}
    vm = build_vm(SandboxConfig(name="bare", balloon_min_mib=128))
    await vm.start()
    agent = AgentClient(vm.take_agent_channel())
    await agent.wait_ready(120)
    sandbox = await Sandbox.create("bench-exec", balloon=True)
    try:
        for _ in range(rounds):
            started = time.perf_counter()
            async with await agent.exec(["true"]) as process:
                await process.communicate()
                await process.wait()
            arms["bare agent"].append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            await sandbox.exec(["true"])
            arms["Sandbox.exec"].append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            command("exec", "bench-exec", "true")
            arms["ballonet exec"].append((time.perf_counter() - started) * 1000)
        state(
            "exec", arms, unit="ms", base="bare agent", note="a command that does nothing, in a running guest"
        )
        listing(rounds)
    finally:
        await sandbox.close()
        await agent.close()
        await vm.kill()


def listing(rounds: int) -> None:
    arms: dict[str, list[float]] = {"python -c pass": [], f"ballonet ls, {ROWS} rows": []}
    names = [f"bench-row-{number}" for number in range(ROWS)]
    with Registry.open() as registry:
        for name in names:
            lifecycle.create(registry, SandboxConfig(name=name, balloon_min_mib=128))
        try:
            for _ in range(rounds):
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", "pass"], check=True)
                arms["python -c pass"].append((time.perf_counter() - started) * 1000)
                started = time.perf_counter()
                command("ls")
                arms[f"ballonet ls, {ROWS} rows"].append((time.perf_counter() - started) * 1000)
        finally:
            for name in names:
                registry.remove(registry.get(name))
    state("ls", arms, unit="ms", base="python -c pass")


def command(*words: str) -> None:
    argv = [sys.executable, "-P", "-m", "ballonet", *words]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    asyncio.run(main(parser.parse_args().rounds))
