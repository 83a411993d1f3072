"""Steps that damage a sandbox's notes, or remove entries of its run directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.chaos import leftovers
from tests.chaos.context import Context
from tests.chaos.model import (
    ABSENT,
    RUNNING,
    SkippedError,
    State,
    WrongError,
)
from tests.chaos.testbed import Done


def _become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(os.urandom(300)),
    "another type": lambda path: path.write_text("[1, 2]"),
    "odd values": lambda path: path.write_text('{"run_id": 5, "process": [1, 2, "x"], "reason": []}'),
    "a directory": lambda path: _become_directory(path),
    "gone": lambda path: path.unlink(),
}


def _notes(ctx: Context, name: str) -> list[Path]:
    """All notes of the sandbox with this file name."""
    found = ctx.testbed.root.glob(f"*/ballonet/**/{ctx.box.name}/{name}")
    return sorted(path for path in found if path.is_file())


async def damage_machine_note(ctx: Context) -> str:
    """A running sandbox is not considered ended because its note is damaged. ``rm --force`` removes it, and with the
    note restored it continues."""
    paths = _notes(ctx, "machine.json")
    if not paths:
        raise SkippedError("it has no note")
    how, path = ctx.rng.choice(sorted(_DAMAGES)), ctx.rng.choice(paths)
    content = path.read_bytes()
    _DAMAGES[how](path)
    restores = ctx.rng.random() < 0.5
    ctx.check_listed_as_running(await ctx.testbed.json("ls", "--json"))
    await ctx.testbed.cli("exec", ctx.box.name, "true", statuses=None)
    await ctx.testbed.cli("rm", ctx.box.name, statuses=(2, 125))
    if not restores:
        await ctx.testbed.cli("rm", "--force", ctx.box.name)
        await ctx.expect(ABSENT)
        return f"{how}; removed"
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(content)
    await ctx.expect(RUNNING)
    await ctx.echo()
    return f"{how}; restored"


async def damage_end_note(ctx: Context) -> str:
    """The end of a sandbox is known without its end note, although not the reason."""
    how = ctx.rng.choice(sorted(_DAMAGES))
    before = ctx.rng.random() < 0.3
    if before and how == "a directory":
        for path in _notes(ctx, "machine.json"):
            with contextlib.suppress(OSError):
                path.with_name("end.json").mkdir()
    ctx.kill("engine", signal.SIGKILL)
    name = ctx.box.name
    await leftovers.wait_until(lambda: not leftovers.of_sandbox(ctx.testbed, name), f"{name} has ended")
    paths = _notes(ctx, "end.json")
    for path in paths:
        _DAMAGES[how](path)
    await ctx.expect({State.STOPPED, State.FAILED})
    return f"{how}, {len(paths)} notes"


async def lose_run_entry(ctx: Context) -> str:
    """Entries of its run directory are removed: sockets are restored, and the sandbox continues."""
    directory = ctx.testbed.run_dir / ctx.box.name
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    if not entries:
        raise SkippedError("its run directory is empty")
    chosen = entries if ctx.rng.random() < 0.3 else [ctx.rng.choice(entries)]
    for entry in chosen:
        entry.unlink(missing_ok=True)
    if len(chosen) == len(entries) and ctx.rng.random() < 0.5:
        with contextlib.suppress(OSError):
            directory.rmdir()
    ctx.check_listed_as_running(await ctx.testbed.json("ls", "--json"))
    await works_again(ctx)
    return ", ".join(entry.name for entry in chosen)


async def works_again(ctx: Context) -> None:
    """Wait until a sandbox that lost its sockets works as before; until then commands must fail cleanly."""
    done: Done | None = None
    for _ in range(150):
        done = await ctx.testbed.cli("exec", ctx.box.name, "true", statuses=(0, 2, 125))
        if done.status == 0:
            done = await ctx.testbed.cli("balloon", "get", ctx.box.name, statuses=(0, 2, 125))
            if done.status == 0:
                break
        await asyncio.sleep(0.2)
    else:
        raise WrongError(f"it does not work again: {done}")
    await ctx.expect(RUNNING)
    await ctx.echo()


async def other_run_dir(ctx: Context) -> str:
    """Commands from a session with another run directory do no harm."""
    other = ctx.testbed.scratch / f"other-{ctx.box.name}"
    other.mkdir(mode=0o700)
    env = {"XDG_RUNTIME_DIR": str(other)}
    name = ctx.box.name
    words = ctx.rng.choice((("prune",), ("top", "--once"), ("ps",), ("rm", name), ("start", name), ("wait",)))
    try:
        ctx.check_listed_as_running(await ctx.testbed.json("ls", "--json", env=env))
        if words == ("rm", name):
            await ctx.testbed.cli(*words, env=env, statuses=(2,))
        elif words == ("wait",):
            child = await ctx.testbed.spawn("wait", name, env=env)
            await asyncio.sleep(1)
            if child.returncode is not None:
                raise WrongError(f"'wait' reports that it has ended: {(await child.communicate())!r}")
            child.kill()
            await child.communicate()
        else:
            await ctx.testbed.cli(*words, env=env)
        await ctx.expect(RUNNING)
        await ctx.echo()
    finally:
        shutil.rmtree(other)
    return " ".join(words)
