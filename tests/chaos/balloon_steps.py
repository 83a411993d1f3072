"""Steps that move the balloon or modify settings of a sandbox."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from ballonet.base.memory import mib_to_bytes
from ballonet.control.client import Client
from ballonet.control.client_blocking import send_plain
from ballonet.sdk.sandbox import Sandbox
from tests.chaos.context import Context
from tests.chaos.model import (
    IDLE,
    RUNNING,
    WrongError,
    clamp,
    wrong_balloon,
    wrong_reply,
)

_PAGES_PER_MIB = mib_to_bytes(1) // 4096
#: Exit statuses: the balloon may stop elsewhere because the guest needs its memory or is slow.
_SETTLED = (0, 3)


async def balloon_set(ctx: Context) -> str:
    """With the command line or the SDK."""
    target = ctx.rng.randrange(64, 200)
    if ctx.rng.random() < 0.7:
        words = ("balloon", "set", ctx.box.name, f"{target}M", "--wait", "--json")
        done = await ctx.testbed.cli(*words, statuses=_SETTLED)
        reply = json.loads(done.out)
        reached = reply["state"] == "applied" and reply["actual_mib"] == reply["target_mib"]
        if (done.status == 0) != reached:
            raise WrongError(f"exit status and reply do not match: {done}")
    else:
        async with await Sandbox.get(ctx.box.name) as sandbox:
            reply = vars(await sandbox.balloon.set(target, wait=True))
    return await _moved(ctx, target, reply)


async def _moved(ctx: Context, target: int, reply: dict[str, Any]) -> str:
    if (problem := wrong_reply(reply, target, ctx.box)) is not None:
        raise WrongError(f"{problem}: {reply}")
    if reply["state"] == "applied":
        shown = await ctx.testbed.json("balloon", "get", ctx.box.name, "--json")
        if (problem := wrong_balloon(shown, reply["target_mib"], ctx.box)) is not None:
            raise WrongError(f"{problem}: {reply}, then {shown}")
    return f"{target}: {reply['state']} at {reply['actual_mib']}"


async def balloon_plain(ctx: Context) -> str:
    target = ctx.rng.choice((0, 100, 128, 150, 100_000))
    path = await _socket(ctx)
    pages = await asyncio.to_thread(send_plain, path, target, deadline_s=60)
    wanted = (ctx.box.memory_mib - clamp(target, ctx.box.floor_mib, ctx.box.memory_mib)) * _PAGES_PER_MIB
    if pages != wanted:
        raise WrongError(f"{target} MiB must be {wanted} pages, not {pages}")
    return f"{target}: OK {pages}"


async def balloon_client(ctx: Context) -> str:
    """Several concurrent clients of the structured protocol."""
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
    shown = await ctx.testbed.json("balloon", "limit", ctx.box.name, f"{limit}M", "--json")
    if shown["limit_mib"] != limit or shown["target_mib"] > limit:
        raise WrongError(f"a limit of {limit} MiB: {shown}")
    words = ("balloon", "set", ctx.box.name, "1G", "--wait", "--json")
    reply = json.loads((await ctx.testbed.cli(*words, statuses=_SETTLED)).out)
    if (problem := wrong_reply(reply, 1024, ctx.box, limit)) is not None or reply["target_mib"] > limit:
        raise WrongError(f"{problem or 'above the limit'}: {reply}")
    shown = await ctx.testbed.json("balloon", "limit", ctx.box.name, "none", "--json")
    if shown["limit_mib"] is not None:
        raise WrongError(f"the limit was not removed: {shown}")
    return f"{limit} MiB"


async def balloon_trim(ctx: Context) -> str:
    done = await ctx.testbed.cli("balloon", "trim", ctx.box.name, "--json")
    result = json.loads(done.out)
    await ctx.echo()
    return f"returned {result['returned_mib']} MiB"


async def balloon_watch(ctx: Context) -> str:
    """A watcher sees the target that another client sets."""
    target = ctx.rng.randrange(ctx.box.floor_mib, ctx.box.memory_mib)
    path = await _socket(ctx)
    words = ("balloon", "watch", ctx.box.name, "--json")
    child = await ctx.testbed.spawn(*words)
    assert child.stdout is not None
    try:
        async with asyncio.timeout(120):
            first = await child.stdout.readline()
            if not first:
                await ctx.testbed.finish(child, words, statuses=())
            async with await Client.connect(path, deadline_s=60) as client:
                await client.set(target)
            seen = json.loads(first)
            while seen["requested_mib"] != target and not ctx.box.piloted:
                seen = json.loads(await child.stdout.readline())
    except TimeoutError:
        raise WrongError(f"a watcher did not see {target} MiB within 120 s; last: {seen}") from None
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGINT)
        await ctx.testbed.finish(child, words)
    return f"saw {target}"


async def _socket(ctx: Context) -> Path:
    path = (await Sandbox.get(ctx.box.name)).control_socket
    if path is None:
        raise WrongError(f"{ctx.box.name} runs, but its control socket is unknown")
    return path


async def modify(ctx: Context) -> str:
    weight = ctx.rng.randint(1, 500)
    words = ("modify", ctx.box.name, "--weight", str(weight), "--cpus", str(ctx.rng.randint(1, 2)), "--json")
    changes = {change["setting"]: change for change in json.loads((await ctx.testbed.cli(*words)).out)}
    if (changes["weight"]["new"], changes["weight"]["state"]) != (weight, "done"):
        raise WrongError(f"weight {weight}: {changes}")
    found = await ctx.look()
    if found is None or found["weight"] != weight:
        raise WrongError(f"weight {weight} was set, but is not shown: {found}")
    await ctx.expect({ctx.box.state} if ctx.box.state in RUNNING else IDLE)
    return f"weight {weight}"


async def modify_target(ctx: Context) -> str:
    target = ctx.rng.randrange(ctx.box.floor_mib, ctx.box.memory_mib)
    words = ("modify", ctx.box.name, "--memory-target", f"{target}M", "--json")
    done = await ctx.testbed.cli(*words, statuses=_SETTLED)
    (change,) = json.loads(done.out)
    if (done.status == 0) != (change["state"] == "applied"):
        raise WrongError(f"exit status and change do not match: {done}")
    if change["state"] == "applied":
        shown = await ctx.testbed.json("balloon", "get", ctx.box.name, "--json")
        if (problem := wrong_balloon(shown, target, ctx.box)) is not None:
            raise WrongError(f"{problem}: {change}, then {shown}")
    return f"{target}: {change['state']}"
