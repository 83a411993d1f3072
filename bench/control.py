"""The control socket's own cost: ``balloon.get`` and ``balloon.set`` against a bare ``query-balloon`` by qemu.qmp.

The sandbox runs as its own process, as always; the bare arm is a second VM with the same settings, driven by the
``qemu.qmp`` package alone. Rounds alternate. Then the same with hostile clients on the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import time

from qemu.qmp import QMPClient

from ballonet.base.memory import mib_to_bytes
from ballonet.base.process import spawn
from ballonet.control.client import Client
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.qemu.command_line import EngineFds, render_command
from ballonet.vmm.qemu.vm import QemuVm
from bench.result import state

CONFIG = SandboxConfig(name="bench-control", memory_mib=256, balloon_min_mib=128)
SILENT, SLOW = 200, 50


class BareVm:
    """QEMU and the official QMP client, nothing else."""

    async def __aenter__(self) -> QMPClient:
        vm = build_vm(CONFIG)
        assert isinstance(vm, QemuVm)
        pairs = [socket.socketpair() for _ in range(3)]
        fds = EngineFds(*(far.fileno() for _, far in pairs))
        argv = [word for word in render_command(vm.spec, vm.engine, fds) if word != "-S"]
        self._engine = spawn(argv, pass_fds=[fds.qmp, fds.agent, fds.console], die_with_parent=True)
        self._kept = pairs
        self._client = QMPClient("bare")
        await self._client.connect(pairs[0][0])
        return self._client

    async def __aexit__(self, *exc: object) -> None:
        self._engine.kill()
        self._engine.wait()


class Hostile:
    """Clients that say nothing, clients that send a byte a second, and one that never reads its replies."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        slow = [self._connect() for _ in range(SLOW)]
        deaf = self._connect()
        for _ in range(SILENT):
            self._connect()
        deaf.setblocking(False)
        self._task = asyncio.create_task(self._drip(slow, deaf))

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        for connection in self._sockets:
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        connection.setblocking(False)
        self._sockets.append(connection)
        return connection

    async def _drip(self, slow: list[socket.socket], deaf: socket.socket) -> None:
        get = b'{"jsonrpc":"2.0","id":1,"method":"balloon.get"}\n'
        while True:
            for connection in slow:
                with contextlib.suppress(OSError):  # dropped by the server, as it should
                    connection.send(b"{")
            with contextlib.suppress(OSError):
                deaf.send(get * 50)
            await asyncio.sleep(1)


async def timed(work: object, times: list[float], count: int) -> None:
    for _ in range(count):
        started = time.perf_counter()
        await work()  # type: ignore[operator]
        times.append((time.perf_counter() - started) * 1000)


async def measure(rounds: int, count: int) -> None:
    gets: dict[str, list[float]] = {"query-balloon, qemu.qmp": [], "balloon.get": []}
    sets: dict[str, list[float]] = {"balloon, qemu.qmp": [], "balloon.set": []}
    hostile: dict[str, list[float]] = {
        "balloon.get alone": [],
        f"balloon.get, {SILENT + SLOW + 1} hostile": [],
    }
    async with BareVm() as qmp, await Sandbox.create(CONFIG) as sandbox:
        path = sandbox.control_socket
        assert path is not None
        async with await Client.connect(path) as client:
            value = {"value": mib_to_bytes(256)}
            for _ in range(rounds):
                await timed(lambda: qmp.execute("query-balloon"), gets["query-balloon, qemu.qmp"], count)
                await timed(client.get, gets["balloon.get"], count)
                await timed(lambda: qmp.execute("balloon", value), sets["balloon, qemu.qmp"], count)
                await timed(lambda: client.set(256), sets["balloon.set"], count)
            for _ in range(rounds):
                await timed(client.get, hostile["balloon.get alone"], count)
                async with Hostile(str(path)):
                    await asyncio.sleep(0.5)
                    await timed(client.get, hostile[f"balloon.get, {SILENT + SLOW + 1} hostile"], count)
    state("control-get", gets, unit="ms", base="query-balloon, qemu.qmp")
    state("control-set", sets, unit="ms", base="balloon, qemu.qmp", note="until the engine has it")
    state("control-hostile", hostile, unit="ms", base="balloon.get alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200, help="calls a round")
    options = parser.parse_args()
    asyncio.run(measure(options.rounds, options.count))


if __name__ == "__main__":
    main()
