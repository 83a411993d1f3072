"""A command in a running sandbox: with the bare agent, the SDK and the command line; and ``ballonet ls``.

The bare arm uses the agent's protocol directly on the virtio port of a VM without supervision. ``ls`` is measured with
200 registered sandboxes, of which one runs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

from ballonet.guest.agent_client import AgentClient
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import Arms, options_parser, report, run_ballonet, timed

ROWS = 200


async def main(rounds: int) -> None:
    arms: Arms = {"bare agent": [], "Sandbox.exec": [], "ballonet exec": []}
    vm = build_vm(SandboxConfig(name="bare", balloon_min_mib=128))
    await vm.start()
    agent = AgentClient(vm.take_agent_channel())
    await agent.wait_ready(120)
    sandbox = await Sandbox.create("bench-exec", balloon=True)
    try:
        for _ in range(rounds):
            with timed(arms["bare agent"], scale=1000):
                async with await agent.exec(["true"]) as process:
                    await process.communicate()
                    await process.wait()
            with timed(arms["Sandbox.exec"], scale=1000):
                await sandbox.exec(["true"])
            with timed(arms["ballonet exec"], scale=1000):
                run_ballonet("exec", "bench-exec", "true")
        report(
            "exec", arms, unit="ms", base="bare agent", note="a command that does nothing in a running guest"
        )
        listing(rounds)
    finally:
        await sandbox.close()
        await agent.close()
        await vm.kill()


def listing(rounds: int) -> None:
    arms: Arms = {"python -c pass": [], f"ballonet ls, {ROWS} rows": []}
    names = [f"bench-row-{number}" for number in range(ROWS)]
    with Registry.open() as registry:
        for name in names:
            lifecycle.create(registry, SandboxConfig(name=name, balloon_min_mib=128))
        try:
            for _ in range(rounds):
                with timed(arms["python -c pass"], scale=1000):
                    subprocess.run([sys.executable, "-c", "pass"], check=True)
                with timed(arms[f"ballonet ls, {ROWS} rows"], scale=1000):
                    run_ballonet("ls")
        finally:
            for name in names:
                registry.remove(registry.get(name))
    report("ls", arms, unit="ms", base="python -c pass")


if __name__ == "__main__":
    asyncio.run(main(options_parser(__doc__, rounds=25).parse_args().rounds))
