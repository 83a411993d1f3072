"""Ten sandboxes in parallel, each with its own work."""

import asyncio

from ballonet.sandbox import Sandbox


async def work(number: int) -> int:
    async with await Sandbox.create(f"example-ten-{number}", memory="128M") as sandbox:
        done = await sandbox.shell(f"echo $(({number} * {number}))")
        return int(done.stdout)


async def main() -> None:
    squares = await asyncio.gather(*(work(number) for number in range(10)))
    print(f"squares: {squares}")


if __name__ == "__main__":
    asyncio.run(main())
