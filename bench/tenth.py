"""Ten sandboxes of one image, one after another: what each start takes, and what each holds on the host."""

from __future__ import annotations

import argparse
import asyncio
import time

from ballonet.base.memory import MIB
from ballonet.host.proc import read_pss_bytes
from ballonet.sdk.sandbox import Sandbox
from bench.result import state
from bench.root_cache import forget


async def start(name: str, image: str | None) -> tuple[Sandbox, float]:
    """A sandbox, and how long it took until its first command had ended (seconds)."""
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
            # The built-in root beside it, so that a busy machine is seen as one.
            sandbox, seconds = await start(f"tenth-plain-{number}", None)
            await sandbox.kill()
            plain.append(seconds)
            if number == 0:
                warm, _ = await start("tenth-warm", image)  # brings the image in, and builds what is cached
                root = warm.config.root
                await warm.kill()
                assert root is not None
                forget(root)
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
    note = f"{count} sandboxes of {image}, 256 MiB each, all running; until the first command's end"
    arms = {"built-in root": plain, "first, its file not cached": first, "the second to the last": times}
    arms["the last"] = times[-1:]
    state("tenth-start", arms, unit="s", base="first, its file not cached", note=note)
    residents = {"whole sandbox (PSS)": held, "guest RAM": [float(mib or 0) for mib in guest]}
    state("tenth-resident", residents, unit="MiB", base="whole sandbox (PSS)", note="idle after one command")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="an image that is here, such as one of 'ballonet image build-debian'")
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    asyncio.run(measure(options.image, options.count))


if __name__ == "__main__":
    main()
