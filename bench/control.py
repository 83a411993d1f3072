"""The cost of the control socket: ``balloon.get`` and ``balloon.set`` compared with ``query-balloon`` by qemu.qmp.

The sandbox runs in its own process, as usual. The bare arm is a second VM with the same settings, controlled by the
``qemu.qmp`` package alone. Rounds alternate. Then the same with hostile clients connected to the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from qemu.qmp import QMPClient

from ballonet.base.memory import mib_to_bytes
from ballonet.control.client import Client
from ballonet.machine.build import build_vm
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import Arms, BareEngine, options_parser, report, timed

CONFIG = SandboxConfig(name="bench-control", memory_mib=256, balloon_min_mib=128)
SILENT, SLOW = 200, 50


class BareVm:
    """Only QEMU and the official QMP client."""

    async def __aenter__(self) -> QMPClient:
        self._engine = BareEngine(build_vm(CONFIG))
        self._client = QMPClient("bare")
        await self._client.connect(self._engine.qmp)
        return self._client

    async def __aexit__(self, *exc: object) -> None:
        self._engine.kill()


class Hostile:
    """Clients that send nothing, clients that send one byte per second, and one that never reads its replies."""

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
                with contextlib.suppress(OSError):  # disconnected by the server, as intended
                    connection.send(b"{")
            with contextlib.suppress(OSError):
                deaf.send(get * 50)
            await asyncio.sleep(1)


async def repeat(work: Callable[[], Awaitable[object]], times: list[float], count: int) -> None:
    for _ in range(count):
        with timed(times, scale=1000):
            await work()


async def measure(rounds: int, count: int) -> None:
    gets: Arms = {"query-balloon, qemu.qmp": [], "balloon.get": []}
    sets: Arms = {"balloon, qemu.qmp": [], "balloon.set": []}
    hostile: Arms = {
        "balloon.get alone": [],
        f"balloon.get, {SILENT + SLOW + 1} hostile": [],
    }
    async with BareVm() as qmp, await Sandbox.create(CONFIG) as sandbox:
        path = sandbox.control_socket
        assert path is not None
        async with await Client.connect(path) as client:
            value = {"value": mib_to_bytes(256)}
            for _ in range(rounds):
                await repeat(lambda: qmp.execute("query-balloon"), gets["query-balloon, qemu.qmp"], count)
                await repeat(client.get, gets["balloon.get"], count)
                await repeat(lambda: qmp.execute("balloon", value), sets["balloon, qemu.qmp"], count)
                await repeat(lambda: client.set(256), sets["balloon.set"], count)
            for _ in range(rounds):
                await repeat(client.get, hostile["balloon.get alone"], count)
                async with Hostile(str(path)):
                    await asyncio.sleep(0.5)
                    await repeat(client.get, hostile[f"balloon.get, {SILENT + SLOW + 1} hostile"], count)
    report("control-get", gets, unit="ms", base="query-balloon, qemu.qmp")
    report("control-set", sets, unit="ms", base="balloon, qemu.qmp", note="until the engine has the target")
    report("control-hostile", hostile, unit="ms", base="balloon.get alone")


def main() -> None:
    parser = options_parser(__doc__, rounds=5)
    parser.add_argument("--count", type=int, default=200, help="calls per round (default: 200)")
    options = parser.parse_args()
    asyncio.run(measure(options.rounds, options.count))


if __name__ == "__main__":
    main()
