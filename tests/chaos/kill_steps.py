"""Steps that kill or freeze processes of a sandbox or its clients in the middle of operations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from tests.chaos import leftovers
from tests.chaos.context import Context, wait_for_begin
from tests.chaos.model import (
    ABSENT,
    IDLE,
    RUNNING,
    State,
    WrongError,
)

#: Exit statuses of a command whose guest is lost: a failure of ballonet itself.
_LOST = (125,)


async def kill_engine(ctx: Context) -> str:
    return await _kill(ctx, "engine", "the engine", "engine-killed")


async def kill_supervisor(ctx: Context) -> str:
    return await _kill(ctx, "supervisor", "the sandbox's process", "killed")


async def kill_volume_server(ctx: Context) -> str:
    return await _kill(ctx, "virtiofsd", "the volume server", "volume-failed")


async def _kill(ctx: Context, role: str, what: str, reason: str) -> str:
    """Kill a process of a sandbox, which must end for this reason."""
    ctx.kill(role, signal.SIGKILL)
    done = await ctx.ended()
    if reason not in done.text:
        raise WrongError(f"{what} was killed, but 'wait' shows: {done}")
    await ctx.expect({State.STOPPED})
    return done.text.strip()


async def kill_engine_in_exec(ctx: Context) -> str:
    return await _kill_in_exec(ctx, "engine")


async def kill_supervisor_in_exec(ctx: Context) -> str:
    return await _kill_in_exec(ctx, "supervisor")


async def _kill_in_exec(ctx: Context, role: str) -> str:
    words = ("exec", ctx.box.name, "sh", "-c", "echo begun; exec sleep 1000")
    child = await ctx.testbed.spawn(*words)
    await wait_for_begin(ctx, child, words)
    watch = ("balloon", "watch", ctx.box.name)
    watcher = await ctx.testbed.spawn(*watch)
    assert watcher.stdout is not None
    if not await watcher.stdout.readline():
        await ctx.testbed.finish(watcher, watch, statuses=())
    ctx.kill(role, signal.SIGKILL)
    done = await ctx.testbed.finish(child, words, statuses=_LOST)
    await ctx.testbed.finish(watcher, watch, statuses=_LOST)
    await ctx.ended()
    await ctx.expect({State.STOPPED})
    return done.err.strip().partition("\n")[0]


async def kill_client(ctx: Context) -> str:
    """A client is killed during an operation: the sandbox continues, and the guest's command ends with its client."""
    what = ctx.rng.choice(("exec", "exec -i", "cp in", "cp out", "watch", "set", "trim"))
    name, seconds = ctx.box.name, 100_000 + ctx.rng.randrange(100_000)
    words = {
        "exec": ("exec", name, "sh", "-c", f"echo begun; exec sleep {seconds}"),
        "exec -i": ("exec", "-i", name, "sh", "-c", f"echo begun; cat > /dev/null; exec sleep {seconds}"),
        "cp in": ("cp", "-", f"{name}:/tmp"),
        "cp out": ("cp", f"{name}:/bin", "-"),
        "watch": ("balloon", "watch", name),
        "set": ("balloon", "set", name, f"{ctx.box.floor_mib}M", "--wait"),
        "trim": ("balloon", "trim", name),
    }[what]
    child = await ctx.testbed.spawn(*words)
    assert child.stdin is not None
    assert child.stdout is not None
    if what.startswith("exec"):
        await wait_for_begin(ctx, child, words)
    elif what == "watch":
        await child.stdout.readline()
    elif what == "cp out":
        await child.stdout.read(512)
    else:
        await asyncio.sleep(ctx.rng.random())
    if what in ("exec -i", "cp in"):
        with contextlib.suppress(ConnectionError):
            child.stdin.write(bytes(100_000))
            await child.stdin.drain()
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    await ctx.expect(RUNNING)
    if what.startswith("exec"):
        await _gone_in_guest(ctx, f"sleep {seconds}")
    await ctx.echo()
    return what


async def _gone_in_guest(ctx: Context, command: str) -> None:
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f; echo; done 2>/dev/null; true"
    for _ in range(100):
        _, out, _ = await ctx.execute("sh", "-c", script)
        if command.encode() not in out:
            return
        await asyncio.sleep(0.1)
    raise WrongError(f"{command!r} still runs in the guest after its client was killed: {out[-2000:]!r}")


async def kill_starter(ctx: Context) -> str:
    """The process that starts a sandbox is killed at a random time: afterwards the sandbox runs or does not."""
    name = ctx.box.name
    if ctx.box.state is State.ABSENT:
        ctx.box.volume, ctx.box.disk, ctx.box.memory_mib, ctx.box.floor_mib = None, False, 128, 80
        words = ["run", "-d", "--name", name, "--memory", "128M", "--balloon-min", "80M"]
        # If it loses its starter before the guest is up, it ends and is kept.
        allowed = frozenset({State.ABSENT, State.CREATED, State.STOPPED, State.FAILED, State.RUNNING})
    else:
        words, allowed = ["start", name], IDLE | RUNNING
    child = await ctx.testbed.spawn(*words)
    await asyncio.sleep(ctx.rng.random() * 4)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    # A process that was detached, or has just lost its starter, needs time to settle.
    await _settled(ctx)
    return str(await ctx.expect(allowed))


async def _settled(ctx: Context) -> None:
    for _ in range(600):
        if await ctx.state() is not State.STARTING:
            return
        await asyncio.sleep(0.2)
    raise WrongError(f"{ctx.box.name} is still starting after its starter was killed")


async def kill_owner(ctx: Context) -> str:
    """A sandbox that is not detached ends with the program that created it."""
    code = (
        "import time; from ballonet.sdk.sync import Sandbox\n"
        f"box = Sandbox.create({ctx.box.name!r}, memory=128); print('up', flush=True); time.sleep(1000)"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", code), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    if await child.stdout.readline() != b"up\n":
        raise WrongError(f"the sandbox of a program did not start: {(await child.stderr.read())!r}")
    child.kill()
    await child.communicate()
    await leftovers.wait_until(
        lambda: not leftovers.of_sandbox(ctx.testbed, ctx.box.name),
        "the sandbox ends with the program that created it",
    )
    await ctx.expect(ABSENT)
    return "gone"


async def kill_stopper(ctx: Context) -> str:
    """``stop`` is killed: a second ``stop`` completes it."""
    child = await ctx.testbed.spawn("stop", ctx.box.name)
    await asyncio.sleep(ctx.rng.random() * 2)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    await ctx.testbed.cli("stop", ctx.box.name)
    return str(await ctx.expect({State.STOPPED}))


async def kill_remover(ctx: Context) -> str:
    """``rm --force`` is killed: a second one completes it."""
    child = await ctx.testbed.spawn("rm", "--force", ctx.box.name)
    await asyncio.sleep(ctx.rng.random() * 2)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    done = await ctx.testbed.cli("rm", "--force", ctx.box.name, statuses=(0, 2))
    await ctx.expect(ABSENT)
    return "already removed" if done.status else "removed again"


async def freeze(ctx: Context) -> str:
    """A process is frozen for a while: other requests are answered, and afterwards everything works as before."""
    role = ctx.rng.choice(("engine", "supervisor", "virtiofsd", "client"))
    seconds = min(ctx.rng.choice((1, 2, 5, 12, 30)), ctx.testbed.longest_freeze_s)
    if role == "client":
        return await _freeze_client(ctx, seconds)
    pid = ctx.kill(role, signal.SIGSTOP)
    try:
        thaw = asyncio.create_task(asyncio.sleep(seconds))
        token = ctx.rng.randbytes(8).hex()
        words = ("exec", ctx.box.name, "echo", token)
        running = await ctx.testbed.spawn(*words)
        listed = await ctx.testbed.json("ls", "--json")
        ctx.check_listed_as_running(listed)
        await ctx.testbed.json("top", "--json")
        done = await ctx.testbed.cli("balloon", "get", ctx.box.name, "--json", statuses=(0, 125))
        await thaw
    finally:
        os.kill(pid, signal.SIGCONT)
    late = await ctx.testbed.finish(running, words, statuses=(0, 125))
    if late.status == 0 and late.text.strip() != token:
        raise WrongError(f"echo {token}: {late}")
    await ctx.expect(RUNNING)
    await ctx.echo()
    outcome = "in time" if late.status == 0 else "refused"
    return f"{role} for {seconds:g} s; exec {outcome}, balloon get {done.status}"


async def _freeze_client(ctx: Context, seconds: float) -> str:
    """A client that does not read delays nobody else, and gets all output when it reads again."""
    size = 8_000_000
    script = f"echo begun; head -c {size} /dev/zero | tr '\\0' x"
    words = ("exec", ctx.box.name, "sh", "-c", script)
    child = await ctx.testbed.spawn(*words)
    await wait_for_begin(ctx, child, words)
    child.send_signal(signal.SIGSTOP)
    try:
        thaw = asyncio.create_task(asyncio.sleep(seconds))
        await ctx.echo()
        await ctx.testbed.cli("balloon", "get", ctx.box.name)
        await thaw
    finally:
        child.send_signal(signal.SIGCONT)
    done = await ctx.testbed.finish(child, words)
    if done.out != b"x" * size:
        raise WrongError(f"a frozen client got {len(done.out)} of {size} bytes")
    return f"client for {seconds:g} s"


async def freeze_and_remove(ctx: Context) -> str:
    """``rm --force`` also ends processes that do not answer."""
    role = ctx.rng.choice(("engine", "supervisor"))
    ctx.kill(role, signal.SIGSTOP)
    await ctx.testbed.cli("rm", "--force", ctx.box.name)
    await ctx.expect(ABSENT)
    return role
