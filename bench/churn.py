"""Create, use and remove ten sandboxes concurrently, twenty times, and check that nothing is left behind.

Run: python -m bench.churn [ROUNDS]
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from ballonet.base.paths import run_dir, state_dir_of
from ballonet.guest.bundle import prepare_guest
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox

AT_ONCE = 10


def counts() -> dict[str, int]:
    """Counts of everything that could leak."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    with Registry.open() as registry:
        rows = len(registry.list())
    return {
        "processes": len(children),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "run directory": len(list(run_dir().rglob("*"))),
        "state directory": len(list(state_dir_of("x").parent.glob("*/*"))),
        "rows": rows,
    }


async def one(name: str) -> None:
    async with await Sandbox.create(name, memory=128, detached=True) as sandbox:
        done = await sandbox.exec(["echo", name])
        assert done.stdout == f"{name}\n".encode()
    await Sandbox.remove(name, force=True)


async def main(rounds: int) -> int:
    prepare_guest()
    await asyncio.gather(
        *(one(f"churn-{number}") for number in range(AT_ONCE))
    )  # warm up: this creates what is needed once
    before, started = counts(), time.monotonic()
    for _ in range(rounds):
        await asyncio.gather(*(one(f"churn-{number}") for number in range(AT_ONCE)))
    took, after = time.monotonic() - started, counts()
    print(f"{rounds} rounds of {AT_ONCE} sandboxes in {took:.0f} s, {took / rounds / AT_ONCE:.2f} s each")
    for what, number in after.items():
        print(f"{what:<16} {before[what]:>5} before, {number:>5} after")
    return int(after != before)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)))
