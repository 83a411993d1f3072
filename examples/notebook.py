"""A notebook: one shell keeps its state between cells, in a detached sandbox that can outlive this program."""

import asyncio

from ballonet.sandbox import Sandbox

CELLS = ["x=20", "y=$((x + 1))", "echo $((x + y + 1))"]
END = "end-of-cell"


async def main() -> None:
    sandbox = await Sandbox.create("example-notebook", memory="256M", detached=True)
    try:
        async with await sandbox.exec_stream(["/bin/sh"], stdin=True) as shell:
            for cell in CELLS:
                await shell.write_stdin(f"{cell}\necho {END}\n".encode())
                output = b""
                while not output.endswith(f"{END}\n".encode()):
                    output += await shell.stdout.read()
                print(f"In:  {cell}\nOut: {output.decode().removesuffix(END + chr(10)).strip()}")
        # Other programs can use the sandbox as well: await Sandbox.get("example-notebook"), or 'ballonet exec'.
    finally:
        await sandbox.close()
        await Sandbox.remove("example-notebook", force=True)


if __name__ == "__main__":
    asyncio.run(main())
