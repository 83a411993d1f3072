"""Steps that create, start, stop and remove sandboxes. A step returns a text for the log."""

from __future__ import annotations

from ballonet.sdk.sandbox import Balloon, Sandbox
from tests.chaos.context import Context
from tests.chaos.model import (
    ABSENT,
    RUNNING,
    State,
    WrongError,
)


def _decide(ctx: Context) -> list[str]:
    """Settings for a new sandbox, as options."""
    box, rng = ctx.box, ctx.rng
    box.memory_mib = rng.choice((128, 144, 160))
    box.floor_mib = rng.choice((80, 96))
    box.volume = f"vol-{box.name}" if rng.random() < 0.5 and "volumes" not in ctx.testbed.without else None
    box.disk = rng.random() < 0.25
    box.relief = rng.random() < 0.5
    options = ["--name", box.name, "--memory", f"{box.memory_mib}M", "--balloon-min", f"{box.floor_mib}M"]
    if box.volume is not None:
        options += ["--volume", f"{box.volume}:/vol"]
    if box.disk:
        options += ["--disk", "64M"]
    if not box.relief:
        options.append("--no-pressure-relief")
    if rng.random() < 0.25 and "hard-cap" not in ctx.testbed.without:
        options.append("--hard-cap")
    return options


async def create(ctx: Context) -> str:
    await ctx.testbed.cli("create", *_decide(ctx))
    await ctx.expect({State.CREATED})
    return f"{ctx.box.memory_mib} MiB"


async def run(ctx: Context) -> str:
    options = _decide(ctx)
    if "--hard-cap" in options or ctx.rng.random() < 0.5:
        await ctx.testbed.cli("run", "-d", *options)
        how = "run -d"
    else:
        await _create_by_sdk(ctx, detached=True)
        how = "SDK"
    await ctx.expect(RUNNING)
    return f"{how}, {ctx.box.memory_mib} MiB{', a volume' if ctx.box.volume else ''}"


async def _create_by_sdk(ctx: Context, *, detached: bool) -> None:
    box = ctx.box
    sandbox = await Sandbox.create(
        box.name,
        memory=box.memory_mib,
        balloon=Balloon(min=box.floor_mib, pressure_relief=box.relief),
        volumes=[f"{box.volume}:/vol"] if box.volume else [],
        disk=64 if box.disk else None,
        detached=detached,
    )
    await sandbox.close()


async def one_shot(ctx: Context) -> str:
    """A sandbox for one command, which is removed afterwards."""
    token, status = ctx.rng.randbytes(8).hex(), ctx.rng.randrange(100)
    script = f"echo {token}; exit {status}"
    if ctx.rng.random() < 0.5:
        words = ("run", "--name", ctx.box.name, "--memory", "128M", "--", "sh", "-c", script)
        done = await ctx.testbed.cli(*words, statuses=(status,), guest_status=True)
        out = done.out
    else:
        async with await Sandbox.create(ctx.box.name, memory=128) as sandbox:
            result = await sandbox.shell(script)
        out, got = result.stdout, result.returncode
        if got != status:
            raise WrongError(f"status {got}, not {status}")
    if out != f"{token}\n".encode():
        raise WrongError(f"the output is {out!r}, not {token}")
    await ctx.expect(ABSENT)
    return f"status {status}"


async def start(ctx: Context) -> str:
    if ctx.rng.random() < 0.5:
        await ctx.testbed.cli("start", ctx.box.name)
        how = "start"
    else:
        await (await Sandbox.start(ctx.box.name)).close()
        how = "SDK"
    await ctx.expect(RUNNING)
    return how


async def stop(ctx: Context) -> str:
    seconds = ctx.rng.choice((0, 1, 10))
    if ctx.rng.random() < 0.5:
        await ctx.testbed.cli("stop", "--timeout", str(seconds), ctx.box.name)
    else:
        await (await Sandbox.get(ctx.box.name)).stop(seconds)
    await ctx.expect({State.STOPPED})
    return f"within {seconds} s"


async def restart(ctx: Context) -> None:
    await ctx.testbed.cli("restart", "--timeout", str(ctx.rng.choice((0, 5))), ctx.box.name)
    await ctx.expect(RUNNING)


async def remove(ctx: Context) -> None:
    if ctx.rng.random() < 0.5:
        await ctx.testbed.cli("rm", ctx.box.name)
    else:
        await Sandbox.remove(ctx.box.name)
    await _removed(ctx)


async def remove_force(ctx: Context) -> None:
    if ctx.rng.random() < 0.5:
        await ctx.testbed.cli("rm", "--force", ctx.box.name)
    else:
        await Sandbox.remove(ctx.box.name, force=True)
    await _removed(ctx)


async def _removed(ctx: Context) -> None:
    await ctx.expect(ABSENT)
    if ctx.box.volume is not None:
        await ctx.testbed.cli("volume", "rm", ctx.box.volume)
        ctx.box.volume = None
