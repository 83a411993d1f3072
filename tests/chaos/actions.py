"""What people and programs do with sandboxes. Each step checks what it got; a return value is for the log."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ballonet.base.memory import mib_to_bytes
from ballonet.control.client import Client
from ballonet.control.client_blocking import send_plain
from ballonet.sdk.sandbox import Balloon, Sandbox
from tests.chaos.context import Context
from tests.chaos.model import (
    ABSENT,
    IDLE,
    RUNNING,
    SkippedError,
    State,
    WrongError,
    clamp,
    wrong_balloon,
    wrong_reply,
)

Action = Callable[[Context], Awaitable[str | None]]
_PAGES_PER_MIB = mib_to_bytes(1) // 4096
#: The balloon may come to rest elsewhere: the guest needs its memory, or is slow.
_SETTLED = (0, 3)


# --- life ---


def _decide(ctx: Context) -> list[str]:
    """Settings for a new sandbox, as options."""
    box, rng = ctx.box, ctx.rng
    box.memory_mib = rng.choice((128, 144, 160))
    box.floor_mib = rng.choice((80, 96))
    box.volume = f"vol-{box.name}" if rng.random() < 0.5 and "volumes" not in ctx.world.without else None
    box.disk = rng.random() < 0.25
    box.relief = rng.random() < 0.5
    options = ["--name", box.name, "--memory", f"{box.memory_mib}M", "--balloon-min", f"{box.floor_mib}M"]
    if box.volume is not None:
        options += ["--volume", f"{box.volume}:/vol"]
    if box.disk:
        options += ["--disk", "64M"]
    if not box.relief:
        options.append("--no-pressure-relief")
    if rng.random() < 0.25 and "hard-cap" not in ctx.world.without:
        options.append("--hard-cap")
    return options


async def create(ctx: Context) -> str:
    await ctx.world.cli("create", *_decide(ctx))
    await ctx.expect({State.CREATED})
    return f"{ctx.box.memory_mib} MiB"


async def run(ctx: Context) -> str:
    options = _decide(ctx)
    if "--hard-cap" in options or ctx.rng.random() < 0.5:
        await ctx.world.cli("run", "-d", *options)
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
    """A sandbox for one command; it is gone afterwards."""
    token, status = ctx.rng.randbytes(8).hex(), ctx.rng.randrange(100)
    script = f"echo {token}; exit {status}"
    if ctx.rng.random() < 0.5:
        words = ("run", "--name", ctx.box.name, "--memory", "128M", "--", "sh", "-c", script)
        done = await ctx.world.cli(*words, statuses=(status,), guest_status=True)
        out = done.out
    else:
        async with await Sandbox.create(ctx.box.name, memory=128) as sandbox:
            result = await sandbox.shell(script)
        out, got = result.stdout, result.returncode
        if got != status:
            raise WrongError(f"status {got}, not {status}")
    if out != f"{token}\n".encode():
        raise WrongError(f"it wrote {out!r}, not {token}")
    await ctx.expect(ABSENT)
    return f"status {status}"


async def start(ctx: Context) -> str:
    if ctx.rng.random() < 0.5:
        await ctx.world.cli("start", ctx.box.name)
        how = "start"
    else:
        await (await Sandbox.start(ctx.box.name)).close()
        how = "SDK"
    await ctx.expect(RUNNING)
    return how


async def stop(ctx: Context) -> str:
    seconds = ctx.rng.choice((0, 1, 10))
    if ctx.rng.random() < 0.5:
        await ctx.world.cli("stop", "--timeout", str(seconds), ctx.box.name)
    else:
        await (await Sandbox.get(ctx.box.name)).stop(seconds)
    await ctx.expect({State.STOPPED})
    return f"within {seconds} s"


async def restart(ctx: Context) -> None:
    await ctx.world.cli("restart", "--timeout", str(ctx.rng.choice((0, 5))), ctx.box.name)
    await ctx.expect(RUNNING)


async def remove(ctx: Context) -> None:
    if ctx.rng.random() < 0.5:
        await ctx.world.cli("rm", ctx.box.name)
    else:
        await Sandbox.remove(ctx.box.name)
    await _removed(ctx)


async def remove_force(ctx: Context) -> None:
    if ctx.rng.random() < 0.5:
        await ctx.world.cli("rm", "--force", ctx.box.name)
    else:
        await Sandbox.remove(ctx.box.name, force=True)
    await _removed(ctx)


async def _removed(ctx: Context) -> None:
    await ctx.expect(ABSENT)
    if ctx.box.volume is not None:
        await ctx.world.cli("volume", "rm", ctx.box.volume)
        ctx.box.volume = None


# --- commands in guests ---


async def exec_echo(ctx: Context) -> None:
    await ctx.echo()


async def exec_large(ctx: Context) -> str:
    """More than fits any buffer, with its digest from the other side."""
    size = ctx.rng.choice((100_000, 1_000_000, 4_000_000))
    script = (
        f"head -c {size} /dev/urandom > /tmp/large; sha256sum /tmp/large >&2; cat /tmp/large; rm /tmp/large"
    )
    status, out, err = await ctx.execute("sh", "-c", script)
    if status != 0 or len(out) != size or err.split()[:1] != [_digest(out)]:
        raise WrongError(f"status {status}, {len(out)} of {size} bytes, {err[:200]!r} for {_digest(out)!r}")
    return f"{size} bytes"


async def exec_stdin(ctx: Context) -> str:
    data = ctx.rng.randbytes(ctx.rng.choice((0, 1, 65_537, 1_000_000)))
    status, out, err = await ctx.execute("cat", stdin=data)
    if (status, err) != (0, b"") or out != data:
        raise WrongError(f"cat: status {status}, {len(out)} of {len(data)} bytes came back, {err!r}")
    return f"{len(data)} bytes"


async def exec_status(ctx: Context) -> str:
    status = ctx.rng.randrange(256)
    got, out, err = await ctx.execute("sh", "-c", f"exit {status}")
    if (got, out, err) != (status, b"", b""):
        raise WrongError(f"exit {status}: status {got}, {out!r}, {err!r}")
    await ctx.world.cli("exec", ctx.box.name, "no-such-program", statuses=(127,))
    return str(status)


async def exec_signal(ctx: Context) -> str:
    """A command that kills itself, and one to which the client passes a signal on."""
    number = ctx.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1))
    status, _, _ = await ctx.execute("sh", "-c", f"kill -{number.value} $$")
    if status != 128 + number:
        raise WrongError(f"killed by {number.name}: status {status}, not {128 + number}")
    words = ("exec", ctx.box.name, "sh", "-c", "echo begun; exec sleep 1000")
    child = await ctx.world.spawn(*words)
    assert child.stdout is not None
    if await child.stdout.readline() != b"begun\n":
        await ctx.world.finish(child, words, statuses=())
    child.send_signal(signal.SIGTERM)
    await ctx.world.finish(child, words, statuses=(143,), guest_status=True)
    return number.name


async def exec_crowd(ctx: Context) -> str:
    number = ctx.rng.randint(3, 8)
    tokens = [ctx.rng.randbytes(4).hex() for _ in range(number)]
    sides = [ctx.rng.random() < 0.5 for _ in range(number)]
    done = await asyncio.gather(
        *(ctx.execute("echo", token, sdk=sdk) for token, sdk in zip(tokens, sides, strict=True))
    )
    for token, (status, out, err) in zip(tokens, done, strict=True):
        if (status, out, err) != (0, f"{token}\n".encode(), b""):
            raise WrongError(f"echo {token}: status {status}, {out!r}, {err!r}")
    return f"{number} at once"


async def exec_dead(ctx: Context) -> None:
    """What needs a sandbox that runs says so of one that does not."""
    name = ctx.box.name
    await ctx.world.cli("exec", name, "true", statuses=(2,))
    await ctx.world.cli("cp", f"{name}:/etc", "-", statuses=(2,))
    await ctx.world.cli("balloon", "set", name, "128M", statuses=(2,))
    await ctx.expect({ctx.box.state})


# --- files ---


async def copy_file(ctx: Context) -> str:
    data = ctx.rng.randbytes(ctx.rng.choice((0, 5, 300_000, 2_000_000)))
    there, back = ctx.world.scratch / f"{ctx.box.name}-in", ctx.world.scratch / f"{ctx.box.name}-out"
    there.write_bytes(data)
    try:
        await _copy(ctx, there, "/tmp/copied")
        status, out, _ = await ctx.execute("sha256sum", "/tmp/copied")
        if status != 0 or out.split()[0] != _digest(data):
            raise WrongError(f"{len(data)} bytes copied in: {out!r}, not {_digest(data)!r}")
        await _copy(ctx, "/tmp/copied", back)
        if back.read_bytes() != data:
            raise WrongError(f"{len(data)} bytes copied in and out: {back.stat().st_size} others came back")
        await ctx.execute("rm", "/tmp/copied")
    finally:
        there.unlink()
        back.unlink(missing_ok=True)
    return f"{len(data)} bytes"


async def copy_tree(ctx: Context) -> str:
    import shutil

    there, back = ctx.world.scratch / f"{ctx.box.name}-tree", ctx.world.scratch / f"{ctx.box.name}-back"
    number = ctx.rng.randint(1, 30)
    for at in range(number):
        path = there / f"d{at % 3}" / f"file {at}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ctx.rng.randbytes(ctx.rng.randrange(50_000)))
    try:
        await _copy(ctx, there, "/tmp/tree")
        await _copy(ctx, "/tmp/tree", back)
        if _tree(back) != _tree(there):
            raise WrongError(f"a tree of {number} files came back as another: {sorted(_tree(back))}")
        await ctx.execute("rm", "-r", "/tmp/tree")
    finally:
        shutil.rmtree(there)
        shutil.rmtree(back, ignore_errors=True)
    return f"{number} files"


async def _copy(ctx: Context, source: Path | str, target: Path | str) -> None:
    """A string is a path in the guest."""
    name = ctx.box.name
    if ctx.rng.random() < 0.5:
        await ctx.world.cli(
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


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


async def volume(ctx: Context) -> str:
    """What one side writes the other reads; and a volume that a sandbox has cannot be removed."""
    name = ctx.box.volume
    if name is None:
        raise SkippedError("it has no volume")
    directory = ctx.world.data_dir / "volumes" / name
    data = ctx.rng.randbytes(200_000)
    (directory / "host").write_bytes(data)
    # The guest caches attributes for about a second.
    await _until_right(ctx, ["sha256sum", "/vol/host"], _digest(data))
    status, out, err = await ctx.execute(
        "sh", "-c", "head -c 100000 /dev/urandom > /vol/guest && sha256sum /vol/guest"
    )
    if status != 0 or out.split()[0] != _digest((directory / "guest").read_bytes()):
        raise WrongError(f"written by the guest: status {status}, {out!r} {err!r}")
    (directory / "host").unlink()
    await ctx.world.cli("volume", "rm", name, statuses=(2,))
    return name


async def _until_right(ctx: Context, argv: list[str], word: bytes) -> None:
    for _ in range(40):
        status, out, err = await ctx.execute(*argv)
        if status == 0 and out.split()[:1] == [word]:
            return
        await asyncio.sleep(0.25)
    raise WrongError(f"{argv}: status {status}, {out!r} {err!r}, not {word!r}")


async def fill_disk(ctx: Context) -> str:
    """A guest that fills its disk is told so, and goes on."""
    if not ctx.box.disk:
        raise SkippedError("it has no disk")
    if ctx.world.small_disk:
        raise SkippedError("its disk would fill the file system of all")
    status, _, err = await ctx.execute("dd", "if=/dev/zero", "of=/disk/filler", "bs=1M")
    if status == 0 or b"No space left" not in err:
        raise WrongError(f"the disk is never full: status {status}, {err!r}")
    await ctx.execute("rm", "/disk/filler")
    await ctx.echo()
    return "full, and emptied"


# --- the balloon ---


async def balloon_set(ctx: Context) -> str:
    """By the command line, or the SDK."""
    target = ctx.rng.randrange(64, 200)
    if ctx.rng.random() < 0.7:
        words = ("balloon", "set", ctx.box.name, f"{target}M", "--wait", "--json")
        done = await ctx.world.cli(*words, statuses=_SETTLED)
        reply = json.loads(done.out)
        reached = reply["state"] == "applied" and reply["actual_mib"] == reply["target_mib"]
        if (done.status == 0) != reached:
            raise WrongError(f"the status does not say what the reply does: {done}")
    else:
        async with await Sandbox.get(ctx.box.name) as sandbox:
            reply = vars(await sandbox.balloon.set(target, wait=True))
    return await _moved(ctx, target, reply)


async def _moved(ctx: Context, target: int, reply: dict[str, Any]) -> str:
    if (problem := wrong_reply(reply, target, ctx.box)) is not None:
        raise WrongError(f"{problem}: {reply}")
    if reply["state"] == "applied":
        shown = await ctx.world.json("balloon", "get", ctx.box.name, "--json")
        if (problem := wrong_balloon(shown, reply["target_mib"], ctx.box)) is not None:
            raise WrongError(f"{problem}: {reply}, then {shown}")
    return f"{target}: {reply['state']} at {reply['actual_mib']}"


async def balloon_plain(ctx: Context) -> str:
    target = ctx.rng.choice((0, 100, 128, 150, 100_000))
    path = await _socket(ctx)
    pages = await asyncio.to_thread(send_plain, path, target, deadline_s=60)
    wanted = (ctx.box.memory_mib - clamp(target, ctx.box.floor_mib, ctx.box.memory_mib)) * _PAGES_PER_MIB
    if pages != wanted:
        raise WrongError(f"{target} MiB comes to {wanted} pages, not to {pages}")
    return f"{target}: OK {pages}"


async def balloon_client(ctx: Context) -> str:
    """Several clients at once, the structured protocol."""
    targets = [ctx.rng.randrange(80, 170) for _ in range(4)]
    path = await _socket(ctx)

    async def one(target: int) -> str:
        async with await Client.connect(path, deadline_s=60) as client:
            reply = vars(await client.set(target, wait=True, timeout_s=60))
            if (problem := wrong_reply(reply, target, ctx.box)) is not None:
                raise WrongError(f"{problem}: {reply}")
            await client.get()
            await client.stats()
            return str(reply["outcome"])

    return " ".join(await asyncio.gather(*map(one, targets)))


async def balloon_limit(ctx: Context) -> str:
    limit = ctx.rng.randrange(ctx.box.floor_mib, ctx.box.memory_mib)
    shown = await ctx.world.json("balloon", "limit", ctx.box.name, f"{limit}M", "--json")
    if shown["limit_mib"] != limit or shown["target_mib"] > limit:
        raise WrongError(f"a limit of {limit} MiB: {shown}")
    words = ("balloon", "set", ctx.box.name, "1G", "--wait", "--json")
    reply = json.loads((await ctx.world.cli(*words, statuses=_SETTLED)).out)
    if (problem := wrong_reply(reply, 1024, ctx.box, limit)) is not None or reply["target_mib"] > limit:
        raise WrongError(f"{problem or 'above the limit'}: {reply}")
    shown = await ctx.world.json("balloon", "limit", ctx.box.name, "none", "--json")
    if shown["limit_mib"] is not None:
        raise WrongError(f"the limit stays: {shown}")
    return f"{limit} MiB"


async def balloon_trim(ctx: Context) -> str:
    done = await ctx.world.cli("balloon", "trim", ctx.box.name, "--json")
    result = json.loads(done.out)
    await ctx.echo()
    return f"returned {result['returned_mib']} MiB"


async def balloon_watch(ctx: Context) -> str:
    """A watcher sees the target that another sets."""
    target = ctx.rng.randrange(ctx.box.floor_mib, ctx.box.memory_mib)
    path = await _socket(ctx)
    words = ("balloon", "watch", ctx.box.name, "--json")
    child = await ctx.world.spawn(*words)
    assert child.stdout is not None
    try:
        async with asyncio.timeout(120):
            first = await child.stdout.readline()
            if not first:
                await ctx.world.finish(child, words, statuses=())
            async with await Client.connect(path, deadline_s=60) as client:
                await client.set(target)
            seen = json.loads(first)
            while seen["requested_mib"] != target and not ctx.box.piloted:
                seen = json.loads(await child.stdout.readline())
    except TimeoutError:
        raise WrongError(f"a watcher has not seen {target} MiB within 120 s; last: {seen}") from None
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGINT)
        await ctx.world.finish(child, words)
    return f"saw {target}"


async def _socket(ctx: Context) -> Path:
    path = (await Sandbox.get(ctx.box.name)).control_socket
    if path is None:
        raise WrongError(f"{ctx.box.name} runs, and its control socket is not known")
    return path


# --- modify ---


async def modify(ctx: Context) -> str:
    weight = ctx.rng.randint(1, 500)
    words = ("modify", ctx.box.name, "--weight", str(weight), "--cpus", str(ctx.rng.randint(1, 2)), "--json")
    changes = {change["setting"]: change for change in json.loads((await ctx.world.cli(*words)).out)}
    if (changes["weight"]["new"], changes["weight"]["state"]) != (weight, "done"):
        raise WrongError(f"weight {weight}: {changes}")
    found = await ctx.look()
    if found is None or found["weight"] != weight:
        raise WrongError(f"weight {weight} was done, and is not shown: {found}")
    await ctx.expect({ctx.box.state} if ctx.box.state in RUNNING else IDLE)
    return f"weight {weight}"


async def modify_target(ctx: Context) -> str:
    target = ctx.rng.randrange(ctx.box.floor_mib, ctx.box.memory_mib)
    words = ("modify", ctx.box.name, "--memory-target", f"{target}M", "--json")
    done = await ctx.world.cli(*words, statuses=_SETTLED)
    (change,) = json.loads(done.out)
    if (done.status == 0) != (change["state"] == "applied"):
        raise WrongError(f"the status does not say what the change does: {done}")
    if change["state"] == "applied":
        shown = await ctx.world.json("balloon", "get", ctx.box.name, "--json")
        if (problem := wrong_balloon(shown, target, ctx.box)) is not None:
            raise WrongError(f"{problem}: {change}, then {shown}")
    return f"{target}: {change['state']}"


ACTIONS: dict[str, Action] = {
    "create": create,
    "run": run,
    "one-shot": one_shot,
    "start": start,
    "stop": stop,
    "restart": restart,
    "remove": remove,
    "remove-force": remove_force,
    "exec-echo": exec_echo,
    "exec-large": exec_large,
    "exec-stdin": exec_stdin,
    "exec-status": exec_status,
    "exec-signal": exec_signal,
    "exec-crowd": exec_crowd,
    "exec-dead": exec_dead,
    "copy-file": copy_file,
    "copy-tree": copy_tree,
    "balloon-set": balloon_set,
    "balloon-plain": balloon_plain,
    "balloon-client": balloon_client,
    "balloon-limit": balloon_limit,
    "balloon-trim": balloon_trim,
    "balloon-watch": balloon_watch,
    "modify": modify,
    "modify-target": modify_target,
    "volume": volume,
    "fill-disk": fill_disk,
}
