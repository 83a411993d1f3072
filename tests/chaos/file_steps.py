"""Steps that copy files, and use volumes and disks."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from ballonet.sdk.sandbox import Sandbox
from tests.chaos.context import Context, digest_of
from tests.chaos.model import (
    SkippedError,
    WrongError,
)


async def copy_file(ctx: Context) -> str:
    data = ctx.rng.randbytes(ctx.rng.choice((0, 5, 300_000, 2_000_000)))
    there, back = ctx.testbed.scratch / f"{ctx.box.name}-in", ctx.testbed.scratch / f"{ctx.box.name}-out"
    there.write_bytes(data)
    try:
        await _copy(ctx, there, "/tmp/copied")
        status, out, _ = await ctx.execute("sha256sum", "/tmp/copied")
        if status != 0 or out.split()[0] != digest_of(data):
            raise WrongError(f"{len(data)} bytes copied in: {out!r}, not {digest_of(data)!r}")
        await _copy(ctx, "/tmp/copied", back)
        if back.read_bytes() != data:
            raise WrongError(
                f"{len(data)} bytes copied in and out: {back.stat().st_size} different bytes came back"
            )
        await ctx.execute("rm", "/tmp/copied")
    finally:
        there.unlink()
        back.unlink(missing_ok=True)
    return f"{len(data)} bytes"


async def copy_tree(ctx: Context) -> str:

    there, back = ctx.testbed.scratch / f"{ctx.box.name}-tree", ctx.testbed.scratch / f"{ctx.box.name}-back"
    number = ctx.rng.randint(1, 30)
    for at in range(number):
        path = there / f"d{at % 3}" / f"file {at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ctx.rng.randbytes(ctx.rng.randrange(50_000)))
    try:
        await _copy(ctx, there, "/tmp/tree")
        await _copy(ctx, "/tmp/tree", back)
        if _tree(back) != _tree(there):
            raise WrongError(f"a tree of {number} files came back different: {sorted(_tree(back))}")
        await ctx.execute("rm", "-r", "/tmp/tree")
    finally:
        shutil.rmtree(there)
        shutil.rmtree(back, ignore_errors=True)
    return f"{number} files"


async def _copy(ctx: Context, source: Path | str, target: Path | str) -> None:
    """Copy in or out; a string is a path in the guest."""
    name = ctx.box.name
    if ctx.rng.random() < 0.5:
        await ctx.testbed.cli(
            "cp", *(str(side) if isinstance(side, Path) else f"{name}:{side}" for side in (source, target))
        )
        return
    async with await Sandbox.get(name) as sandbox:
        if isinstance(source, Path):
            await sandbox.fs.copy_in(source, str(target))
        else:
            await sandbox.fs.copy_out(source, Path(target))


def _tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


async def volume(ctx: Context) -> str:
    """Host and guest read what the other wrote in a volume; a volume in use cannot be removed."""
    name = ctx.box.volume
    if name is None:
        raise SkippedError("it has no volume")
    directory = ctx.testbed.data_dir / "volumes" / name
    data = ctx.rng.randbytes(200_000)
    (directory / "host").write_bytes(data)
    # The guest caches attributes for about a second.
    await _until_right(ctx, ["sha256sum", "/vol/host"], digest_of(data))
    status, out, err = await ctx.execute(
        "sh", "-c", "head -c 100000 /dev/urandom > /vol/guest && sha256sum /vol/guest"
    )
    if status != 0 or out.split()[0] != digest_of((directory / "guest").read_bytes()):
        raise WrongError(f"written by the guest: status {status}, {out!r} {err!r}")
    (directory / "host").unlink()
    await ctx.testbed.cli("volume", "rm", name, statuses=(2,))
    return name


async def _until_right(ctx: Context, argv: list[str], word: bytes) -> None:
    for _ in range(40):
        status, out, err = await ctx.execute(*argv)
        if status == 0 and out.split()[:1] == [word]:
            return
        await asyncio.sleep(0.25)
    raise WrongError(f"{argv}: status {status}, {out!r} {err!r}, not {word!r}")


async def fill_disk(ctx: Context) -> str:
    """A guest that fills its disk gets an error and continues."""
    if not ctx.box.disk:
        raise SkippedError("it has no disk")
    if ctx.testbed.small_disk:
        raise SkippedError("its disk would fill the file system of all sandboxes")
    status, _, err = await ctx.execute("dd", "if=/dev/zero", "of=/disk/filler", "bs=1M")
    if status == 0 or b"No space left" not in err:
        raise WrongError(f"the disk is not full: status {status}, {err!r}")
    await ctx.execute("rm", "/disk/filler")
    await ctx.echo()
    return "full, and emptied"
