"""Steps that run commands in guests."""

from __future__ import annotations

import asyncio
import signal

from tests.chaos.context import Context, digest_of
from tests.chaos.model import (
    WrongError,
)


async def exec_echo(ctx: Context) -> None:
    await ctx.echo()


async def exec_large(ctx: Context) -> str:
    """Output larger than all buffers, compared with its digest in the guest."""
    size = ctx.rng.choice((100_000, 1_000_000, 4_000_000))
    script = (
        f"head -c {size} /dev/urandom > /tmp/large; sha256sum /tmp/large >&2; cat /tmp/large; rm /tmp/large"
    )
    status, out, err = await ctx.execute("sh", "-c", script)
    if status != 0 or len(out) != size or err.split()[:1] != [digest_of(out)]:
        raise WrongError(f"status {status}, {len(out)} of {size} bytes, {err[:200]!r} for {digest_of(out)!r}")
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
    await ctx.testbed.cli("exec", ctx.box.name, "no-such-program", statuses=(127,))
    return str(status)


async def exec_signal(ctx: Context) -> str:
    """A command that kills itself, and one to which the client forwards a signal."""
    number = ctx.rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1))
    status, _, _ = await ctx.execute("sh", "-c", f"kill -{number.value} $$")
    if status != 128 + number:
        raise WrongError(f"killed by {number.name}: status {status}, not {128 + number}")
    words = ("exec", ctx.box.name, "sh", "-c", "echo begun; exec sleep 1000")
    child = await ctx.testbed.spawn(*words)
    assert child.stdout is not None
    if await child.stdout.readline() != b"begun\n":
        await ctx.testbed.finish(child, words, statuses=())
    child.send_signal(signal.SIGTERM)
    await ctx.testbed.finish(child, words, statuses=(143,), guest_status=True)
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
    """Commands that need a running sandbox fail with an error if it is not running."""
    name = ctx.box.name
    await ctx.testbed.cli("exec", name, "true", statuses=(2,))
    await ctx.testbed.cli("cp", f"{name}:/etc", "-", statuses=(2,))
    await ctx.testbed.cli("balloon", "set", name, "128M", statuses=(2,))
    await ctx.expect({ctx.box.state})
