"""Ten sandboxes with the same image, started one after another: start time, and host memory of each."""

from __future__ import annotations

import asyncio
import time

from ballonet.base.memory import MIB
from ballonet.host.proc import read_pss_bytes
from ballonet.sdk.sandbox import Sandbox
from bench.common import options_parser, report
from bench.root_cache import drop_from_cache


async def start(name: str, image: str | None) -> tuple[Sandbox, float]:
    """A sandbox, and the time until its first command had ended (seconds)."""
    started = time.perf_counter()
    sandbox = await Sandbox.create(name, image=image, memory=256)
    result = await sandbox.exec(["sh", "-c", "true"])
    assert result.returncode == 0
    return sandbox, time.perf_counter() - started


async def measure(image: str, count: int) -> None:
    sandboxes: list[Sandbox] = []
    plain: list[float] = []
    first: list[float] = []
    times: list[float] = []
    try:
        for number in range(count):
            # Alternate with the built-in root, which shows whether the machine is busy.
            sandbox, seconds = await start(f"tenth-plain-{number}", None)
            await sandbox.kill()
            plain.append(seconds)
            if number == 0:
                warm, _ = await start("tenth-warm", image)  # so that everything else is cached
                root = warm.config.root
                await warm.kill()
                assert root is not None
                drop_from_cache(root)
            sandbox, seconds = await start(f"tenth-{number}", image)
            sandboxes.append(sandbox)
            (times if number else first).append(seconds)
        await asyncio.sleep(5)
        held = [
            sum(read_pss_bytes(pid) or 0 for pid in (sandbox.pid, sandbox.engine_pid)) / MIB
            for sandbox in sandboxes
        ]
        guest = [
            host.guest_ram_mib
            for sandbox in sandboxes
            if (host := (await sandbox.metrics()).host) is not None
        ]
    finally:
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))
    note = f"{count} sandboxes of {image}, 256 MiB each, all running; until the end of the first command"
    arms = {"built-in root": plain, "first, root not cached": first, "second to last": times}
    arms["last"] = times[-1:]
    report("tenth-start", arms, unit="s", base="first, root not cached", note=note)
    residents = {"whole sandbox (PSS)": held, "guest RAM": [float(mib or 0) for mib in guest]}
    report("tenth-resident", residents, unit="MiB", base="whole sandbox (PSS)", note="idle after one command")


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("image", help="a local image, for example from 'ballonet image build-debian'")
    parser.add_argument("--count", type=int, default=10, help="number of sandboxes (default: 10)")
    options = parser.parse_args()
    asyncio.run(measure(options.image, options.count))


if __name__ == "__main__":
    main()
