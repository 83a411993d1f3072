"""Registered sandboxes without virtual machines: real control servers with scripted backends, in a few processes.

As a program this is one of the processes: ``python -m bench.simulated_sandboxes COUNT PART``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from ballonet.base.paths import private_dir, state_dir_of
from ballonet.base.process import spawn
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MachineNote
from ballonet.settings.config import SandboxConfig

PROCESSES = 4


@contextmanager
def simulated(count: int) -> Iterator[None]:
    """Run ``count`` simulated sandboxes, named ``simulated-NUMBER``, in the registry of the environment."""
    with Registry.open() as registry:
        servers = []
        try:
            for part in range(PROCESSES):
                mine = _names(count, part)
                for name in mine:
                    lifecycle.create(registry, SandboxConfig(name=name, balloon_min_mib=128))
                    private_dir(state_dir_of(name))
                server = spawn(
                    [sys.executable, "-m", "bench.simulated_sandboxes", str(count), str(part)], stderr=None
                )
                servers.append(server)
                process = ProcessId.of(server.pid)
                assert process is not None
                for name in mine:
                    path = state_dir_of(name) / "control.sock"
                    while not path.exists():
                        time.sleep(0.01)
                    registry.begin_run(name, "run", process)
                    registry.update(name, state=State.RUNNING, started_at=time.time())
                    MachineNote(
                        run_id="run",
                        process=process,
                        ready=True,
                        flags=registry.get(name).flags,
                        control_socket=str(path),
                        engine=ProcessId.of(server.pid),
                        started_at=time.time(),
                    ).write(state_dir_of(name))
            yield
        finally:
            for server in servers:
                server.kill()
                server.wait()
            for record in registry.list():
                registry.remove(record)


def _names(count: int, part: int) -> list[str]:
    """The sandboxes of one of the processes."""
    return [f"simulated-{number}" for number in range(part, count, PROCESSES)]


async def _serve(count: int, part: int) -> None:
    from tests.unit.fake_backend import serving

    async with AsyncExitStack() as stack:
        for name in _names(count, part):
            await stack.enter_async_context(serving(state_dir_of(name) / "control.sock"))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
