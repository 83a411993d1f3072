"""The HTTP server against the SDK, in one run: a command that does nothing, a list of 200 sandboxes, the time from a
balloon's move to a reader of events, the server's memory with 100 sandboxes and 20 readers, and a large file.

The server is a process of its own on a Unix socket. One sandbox runs; the others are only registered.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from tests.serve_client import ServerProcess

from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Balloon, Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import Arms, options_parser, private_directories, report, timed

ROWS = 200
READERS = 20
_PIECE = 1 << 20


def memory_mib(pid: int, line: str = "Pss") -> float:
    """A figure of a process's memory, from smaps_rollup or status."""
    file = "status" if line.startswith("Vm") else "smaps_rollup"
    text = Path(f"/proc/{pid}/{file}").read_text()
    return int(text.partition(f"{line}:")[2].split()[0]) / 1024


def processor_ms(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


async def costs(http: httpx.AsyncClient, server: ServerProcess, box: Sandbox, rounds: int) -> None:
    """The server's processor time for a request: what the machine does besides matters less there."""
    for name, method, path, body in (
        ("GET /v1/health", "GET", "/v1/health", None),
        ("POST …/exec", "POST", f"/v1/sandboxes/{box.name}/exec", {"argv": ["true"]}),
        (f"GET /v1/sandboxes, {ROWS} rows", "GET", "/v1/sandboxes", None),
    ):
        before = processor_ms(server.pid)
        for _ in range(rounds * 4):
            await http.request(method, path, json=body)
        print(
            f"{name}: {(processor_ms(server.pid) - before) / rounds / 4:.1f} ms of the server's processor time"
        )
    before = time.process_time()
    for _ in range(rounds * 4):
        await box.exec(["true"])
    print(f"Sandbox.exec: {(time.process_time() - before) * 1000 / rounds / 4:.1f} ms of processor time")


async def commands(http: httpx.AsyncClient, box: Sandbox, rounds: int) -> None:
    arms: Arms = {"Sandbox.exec": [], "POST …/exec": [], "GET /v1/health": []}
    for _ in range(rounds):
        with timed(arms["Sandbox.exec"], scale=1000):
            await box.exec(["true"])
        with timed(arms["POST …/exec"], scale=1000):
            await http.post(f"/v1/sandboxes/{box.name}/exec", json={"argv": ["true"]})
        with timed(arms["GET /v1/health"], scale=1000):
            await http.get("/v1/health")
    report("serve-exec", arms, unit="ms", base="Sandbox.exec", note="a command that does nothing")


async def listing(http: httpx.AsyncClient, rounds: int) -> None:
    arms: Arms = {"Sandbox.list": [], f"GET /v1/sandboxes, {ROWS} rows": []}
    for _ in range(rounds):
        with timed(arms["Sandbox.list"], scale=1000):
            await Sandbox.list()
        with timed(arms[f"GET /v1/sandboxes, {ROWS} rows"], scale=1000):
            await http.get("/v1/sandboxes")
    report("serve-list", arms, unit="ms", base="Sandbox.list")


async def moves(http: httpx.AsyncClient, server: ServerProcess, box: Sandbox, rounds: int) -> None:
    arms: Arms = {"balloon.watch": [], "GET /v1/events": []}
    seen: dict[str, dict[int, float]] = {"watch": {}, "events": {}}

    async def watch() -> None:
        async for snapshot in box.balloon.watch():
            seen["watch"].setdefault(snapshot.requested_mib, time.perf_counter())

    async def events(response: httpx.Response) -> None:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if "requested_mib" in data:
                    seen["events"].setdefault(data["requested_mib"], time.perf_counter())

    async with http.stream("GET", "/v1/events") as response:
        tasks = [asyncio.create_task(watch()), asyncio.create_task(events(response))]
        await asyncio.sleep(3)
        for number in range(rounds):
            target = 256 + number % 200
            for values in seen.values():
                values.pop(target, None)
            began = time.perf_counter()
            await box.balloon.set(target)
            while any(target not in values for values in seen.values()):
                await asyncio.sleep(0.001)
            arms["balloon.watch"].append((seen["watch"][target] - began) * 1000)
            arms["GET /v1/events"].append((seen["events"][target] - began) * 1000)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    report("serve-events", arms, unit="ms", base="balloon.watch", note="from set() to its event")


async def memory(server: ServerProcess) -> None:
    writers = []
    for _ in range(READERS):
        _, writer = await asyncio.open_unix_connection(str(server.socket))
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        writers.append(writer)
    await asyncio.sleep(3)
    print(
        f"\nserver with {ROWS} registered sandboxes and {READERS} readers of events: "
        f"PSS {memory_mib(server.pid):.1f} MiB, peak RSS {memory_mib(server.pid, 'VmHWM'):.1f} MiB"
    )
    for writer in writers:
        writer.close()


async def files(http: httpx.AsyncClient, server: ServerProcess, box: Sandbox, size_mib: int) -> None:
    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(size_mib):
            yield bytes(_PIECE)

    path = f"/v1/sandboxes/{box.name}/files"
    before = memory_mib(server.pid, "VmHWM")
    began = time.perf_counter()
    (await http.put(path, params={"path": "/disk/big"}, content=zeros())).raise_for_status()
    up = time.perf_counter() - began
    began, received = time.perf_counter(), 0
    async with http.stream("GET", path, params={"path": "/disk/big"}) as response:
        async for piece in response.aiter_bytes():
            received += len(piece)
    down = time.perf_counter() - began
    assert received == size_mib << 20
    print(
        f"\na file of {size_mib} MiB: up {size_mib / up:.0f} MiB/s, down {size_mib / down:.0f} MiB/s, "
        f"peak RSS of the server +{memory_mib(server.pid, 'VmHWM') - before:.1f} MiB"
    )


async def main(rounds: int, size_mib: int) -> None:
    with tempfile.TemporaryDirectory() as directory, private_directories("serve"):
        os.environ["XDG_DATA_HOME"] = f"{directory}/data"
        disk = size_mib + 256
        box = await Sandbox.create("bench-serve", memory=512, disk=disk, balloon=Balloon(min=128))
        async with box:
            with ServerProcess(Path(directory)) as server:
                async with server.local() as http:
                    await commands(http, box, rounds)
                    await moves(http, server, box, rounds)
                    with Registry.open() as registry:
                        for number in range(ROWS - 1):
                            lifecycle.create(registry, SandboxConfig(name=f"bench-row-{number}"))
                    await listing(http, rounds)
                    await costs(http, server, box, rounds)
                    await memory(server)
                    if size_mib:
                        await files(http, server, box, size_mib)


if __name__ == "__main__":
    parser = options_parser(__doc__, rounds=25)
    parser.add_argument("--file-mib", type=int, default=64, help="size of the file, 0: none (default: 64)")
    options = parser.parse_args()
    asyncio.run(main(options.rounds, options.file_mib))
