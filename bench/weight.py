"""Host memory of a sandbox in addition to its guest's: PSS of its own process and of its engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ballonet.base.memory import MIB
from ballonet.host.proc import read_pss_bytes, read_resident
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import options_parser, report


async def measure(count: int, *, balloon: bool) -> None:
    floor = 128 if balloon else None
    configs = [SandboxConfig(name=f"weight-{n}", memory_mib=256, balloon_min_mib=floor) for n in range(count)]
    sandboxes: list[Sandbox] = []
    try:
        for config in configs:
            sandboxes.append(await Sandbox.create(config))
            await sandboxes[-1].exec(["true"])
        await asyncio.sleep(5)
        peaks = [_peak_mib(sandbox.engine_pid) for sandbox in sandboxes]
        own = [(read_pss_bytes(sandbox.pid) or 0) / MIB for sandbox in sandboxes]
        engine = [(read_pss_bytes(sandbox.engine_pid) or 0) / MIB for sandbox in sandboxes]
        residents = [read_resident(sandbox.engine_pid) for sandbox in sandboxes]
        guest = [resident.guest_ram_bytes / MIB for resident in residents if resident is not None]
    finally:
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
    arms = {
        "sandbox's process": own,
        "engine": engine,
        "guest RAM in the engine": guest,
        "engine at its peak (RSS)": peaks,
    }
    kind = "with" if balloon else "without"
    note = f"PSS, {count} sandboxes of 256 MiB running and idle, {kind} a balloon"
    report(f"weight-{kind}-balloon", arms, unit="MiB", base="sandbox's process", note=note)


def _peak_mib(pid: int) -> float:
    """Peak resident memory of the process (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--count", type=int, default=10, help="number of sandboxes (default: 10)")
    count = parser.parse_args().count
    for balloon in (True, False):
        asyncio.run(measure(count, balloon=balloon))


if __name__ == "__main__":
    main()
