"""Figures of real sandboxes against independent readings."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from pathlib import Path

from ballonet.control.client import Client
from ballonet.host.proc import read_resident
from ballonet.memory import MIB
from ballonet.metrics.collect import collect
from ballonet.sandbox import Sandbox


async def test_each_figure_agrees_with_an_independent_reading(sandbox: Sandbox, client: Client) -> None:
    for target in (300, 900):
        reply = await client.set(target, wait=True, timeout_s=120, force=True)
        assert reply.state == "applied"
        (told,) = [
            sample
            for sample in (await asyncio.to_thread(collect, guest_age_s=0)).sandboxes
            if sample.name == sandbox.name
        ]
        assert (told.ceiling, told.target, told.actual) == (1024 * MIB, target * MIB, target * MIB)
        assert (told.floor, told.limit, told.balloon_state) == (256 * MIB, 1024 * MIB, "applied")
        meminfo = (await sandbox.exec(["cat", "/proc/meminfo"])).stdout.decode()
        guest = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines()}
        assert told.guest_total is not None
        assert told.guest_available is not None
        assert abs(told.guest_total - guest["MemTotal"]) <= MIB
        assert abs(told.guest_available - guest["MemAvailable"]) <= 16 * MIB
        resident = read_resident(sandbox.engine_pid)
        assert resident is not None
        assert told.resident is not None
        assert told.guest_ram is not None
        assert abs(told.resident - resident.total_bytes) <= 16 * MIB
        assert abs(told.guest_ram - resident.guest_ram_bytes) <= 16 * MIB
        assert told.unknown == {}


def test_they_are_served_and_written(sandbox: Sandbox, tmp_path: Path) -> None:
    ballonet = [sys.executable, "-P", "-m", "ballonet", "metrics"]
    subprocess.run([*ballonet, "--textfile", str(tmp_path / "x.prom")], check=True)
    line = f'ballonet_sandbox_memory_ceiling_bytes{{sandbox="{sandbox.name}"}} 1.073741824e+09'
    assert line in (tmp_path / "x.prom").read_text()
    server = subprocess.Popen([*ballonet, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[1]
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert line in answer.read().decode()
    finally:
        server.terminate()
        server.wait()
        server.stdout.close() if server.stdout else None
