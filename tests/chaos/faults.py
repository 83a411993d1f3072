"""What befalls one sandbox: processes killed and frozen in the middle of things, notes damaged, entries lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.chaos import leftovers
from tests.chaos.actions import Action
from tests.chaos.context import Context
from tests.chaos.model import ABSENT, IDLE, RUNNING, SkippedError, State, WrongError
from tests.chaos.world import Done

#: What a command in a guest that is lost may end with: ballonet's own failure.
_LOST = (125,)


# --- kills ---


async def kill_engine(ctx: Context) -> str:
    ctx.kill("engine", signal.SIGKILL)
    done = await ctx.ended()
    if "engine-killed" not in done.text:
        raise WrongError(f"its engine was killed: {done}")
    await ctx.expect({State.STOPPED})
    return done.text.strip()


async def kill_supervisor(ctx: Context) -> str:
    ctx.kill("supervisor", signal.SIGKILL)
    done = await ctx.ended()
    if "killed" not in done.text:
        raise WrongError(f"its process was killed: {done}")
    await ctx.expect({State.STOPPED})
    return done.text.strip()


async def kill_volume_server(ctx: Context) -> str:
    ctx.kill("virtiofsd", signal.SIGKILL)
    done = await ctx.ended()
    if "volume-failed" not in done.text:
        raise WrongError(f"the server of its volume was killed: {done}")
    await ctx.expect({State.STOPPED})
    return done.text.strip()


async def kill_engine_in_exec(ctx: Context) -> str:
    return await _kill_in_exec(ctx, "engine")


async def kill_supervisor_in_exec(ctx: Context) -> str:
    return await _kill_in_exec(ctx, "supervisor")


async def _kill_in_exec(ctx: Context, role: str) -> str:
    words = ("exec", ctx.box.name, "sh", "-c", "echo begun; exec sleep 1000")
    child = await ctx.world.spawn(*words)
    await _begun(ctx, child, words)
    watch = ("balloon", "watch", ctx.box.name)
    watcher = await ctx.world.spawn(*watch)
    assert watcher.stdout is not None
    if not await watcher.stdout.readline():
        await ctx.world.finish(watcher, watch, statuses=())
    ctx.kill(role, signal.SIGKILL)
    done = await ctx.world.finish(child, words, statuses=_LOST)
    await ctx.world.finish(watcher, watch, statuses=_LOST)
    await ctx.ended()
    await ctx.expect({State.STOPPED})
    return done.err.strip().partition("\n")[0]


async def _begun(ctx: Context, child: asyncio.subprocess.Process, words: tuple[str, ...]) -> None:
    assert child.stdout is not None
    if await child.stdout.readline() != b"begun\n":
        await ctx.world.finish(child, words, statuses=())


async def kill_client(ctx: Context) -> str:
    """A client killed in the middle: the sandbox goes on, and the guest's command ends with its client."""
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
    child = await ctx.world.spawn(*words)
    assert child.stdin is not None
    assert child.stdout is not None
    if what.startswith("exec"):
        await _begun(ctx, child, words)
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
    raise WrongError(f"{command!r} goes on in the guest after its client was killed: {out[-2000:]!r}")


async def kill_starter(ctx: Context) -> str:
    """Whoever starts a sandbox killed at any moment of it: it runs or it does not, and nothing is in between."""
    name = ctx.box.name
    if ctx.box.state is State.ABSENT:
        ctx.box.volume, ctx.box.disk, ctx.box.memory_mib, ctx.box.floor_mib = None, False, 128, 80
        words = ["run", "-d", "--name", name, "--memory", "128M", "--balloon-min", "80M"]
        # Let go before the guest is up, it ends and is kept; nothing can have been promised but its name.
        allowed = frozenset({State.ABSENT, State.CREATED, State.STOPPED, State.FAILED, State.RUNNING})
    else:
        words, allowed = ["start", name], IDLE | RUNNING
    child = await ctx.world.spawn(*words)
    await asyncio.sleep(ctx.rng.random() * 4)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    # A process that the starter had let go, or that has just lost it, is about to come to rest.
    await _settled(ctx)
    return str(await ctx.expect(allowed))


async def _settled(ctx: Context) -> None:
    for _ in range(600):
        if await ctx.state() is not State.STARTING:
            return
        await asyncio.sleep(0.2)
    raise WrongError(f"{ctx.box.name} is starting for ever after the one who started it was killed")


async def kill_owner(ctx: Context) -> str:
    """A program's own sandbox goes away with the program."""
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
        raise WrongError(f"a program's sandbox did not come up: {(await child.stderr.read())!r}")
    child.kill()
    await child.communicate()
    await leftovers.wait_until(
        lambda: not leftovers.of_sandbox(ctx.world, ctx.box.name),
        "the sandbox ends with the program that it belongs to",
    )
    await ctx.expect(ABSENT)
    return "gone"


async def kill_stopper(ctx: Context) -> str:
    """``stop`` killed in the middle: done again, it is done."""
    child = await ctx.world.spawn("stop", ctx.box.name)
    await asyncio.sleep(ctx.rng.random() * 2)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    await ctx.world.cli("stop", ctx.box.name)
    return str(await ctx.expect({State.STOPPED}))


async def kill_remover(ctx: Context) -> str:
    """``rm --force`` killed in the middle: done again, it is done."""
    child = await ctx.world.spawn("rm", "--force", ctx.box.name)
    await asyncio.sleep(ctx.rng.random() * 2)
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.communicate()
    done = await ctx.world.cli("rm", "--force", ctx.box.name, statuses=(0, 2))
    await ctx.expect(ABSENT)
    return "it was gone" if done.status else "again"


# --- freezes ---


async def freeze(ctx: Context) -> str:
    """A process stands still for a while: others are answered, and afterwards all is as before."""
    role = ctx.rng.choice(("engine", "supervisor", "virtiofsd", "client"))
    seconds = min(ctx.rng.choice((1, 2, 5, 12, 30)), ctx.world.longest_freeze_s)
    if role == "client":
        return await _freeze_client(ctx, seconds)
    pid = ctx.kill(role, signal.SIGSTOP)
    try:
        thaw = asyncio.create_task(asyncio.sleep(seconds))
        token = ctx.rng.randbytes(8).hex()
        words = ("exec", ctx.box.name, "echo", token)
        running = await ctx.world.spawn(*words)
        listed = await ctx.world.json("ls", "--json")
        _shown_alive(ctx, listed)
        await ctx.world.json("top", "--json")
        done = await ctx.world.cli("balloon", "get", ctx.box.name, "--json", statuses=(0, 125))
        await thaw
    finally:
        os.kill(pid, signal.SIGCONT)
    late = await ctx.world.finish(running, words, statuses=(0, 125))
    if late.status == 0 and late.text.strip() != token:
        raise WrongError(f"echo {token}: {late}")
    await ctx.expect(RUNNING)
    await ctx.echo()
    said = "in time" if late.status == 0 else "refused"
    return f"{role} for {seconds:g} s; exec {said}, balloon get {done.status}"


async def _freeze_client(ctx: Context, seconds: float) -> str:
    """A client that does not read holds up nobody but itself, and gets all there was when it reads on."""
    size = 8_000_000
    script = f"echo begun; head -c {size} /dev/zero | tr '\\0' x"
    words = ("exec", ctx.box.name, "sh", "-c", script)
    child = await ctx.world.spawn(*words)
    await _begun(ctx, child, words)
    child.send_signal(signal.SIGSTOP)
    try:
        thaw = asyncio.create_task(asyncio.sleep(seconds))
        await ctx.echo()
        await ctx.world.cli("balloon", "get", ctx.box.name)
        await thaw
    finally:
        child.send_signal(signal.SIGCONT)
    done = await ctx.world.finish(child, words)
    if done.out != b"x" * size:
        raise WrongError(f"a client that stood still got {len(done.out)} of {size} bytes")
    return f"client for {seconds:g} s"


async def freeze_and_remove(ctx: Context) -> str:
    """``rm --force`` ends what does not answer, too."""
    role = ctx.rng.choice(("engine", "supervisor"))
    ctx.kill(role, signal.SIGSTOP)
    await ctx.world.cli("rm", "--force", ctx.box.name)
    await ctx.expect(ABSENT)
    return role


def _shown_alive(ctx: Context, listed: list[dict[str, object]]) -> None:
    rows = {str(row["name"]): row for row in listed}
    row = rows.get(ctx.box.name)
    if row is None or row["state"] != State.RUNNING:
        raise WrongError(f"{ctx.box.name} lives, and 'ls' shows {row}")


# --- notes and entries ---


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
    """The sandbox's notes of that name, wherever they lie."""
    found = ctx.world.root.glob(f"*/ballonet/**/{ctx.box.name}/{name}")
    return sorted(path for path in found if path.is_file())


async def damage_machine_note(ctx: Context) -> str:
    """What lives is never taken for dead for a note; ``rm --force`` ends it, or it goes on with the note restored."""
    paths = _notes(ctx, "machine.json")
    if not paths:
        raise SkippedError("it has no note")
    how, path = ctx.rng.choice(sorted(_DAMAGES)), ctx.rng.choice(paths)
    content = path.read_bytes()
    _DAMAGES[how](path)
    restores = ctx.rng.random() < 0.5
    _shown_alive(ctx, await ctx.world.json("ls", "--json"))
    await ctx.world.cli("exec", ctx.box.name, "true", statuses=None)
    await ctx.world.cli("rm", ctx.box.name, statuses=(2, 125))
    if not restores:
        await ctx.world.cli("rm", "--force", ctx.box.name)
        await ctx.expect(ABSENT)
        return f"{how}; removed"
    if path.is_dir():
        shutil.rmtree(path)
    path.write_bytes(content)
    await ctx.expect(RUNNING)
    await ctx.echo()
    return f"{how}; restored"


async def damage_end_note(ctx: Context) -> str:
    """The end of a sandbox is known without the note of it, if not why."""
    how = ctx.rng.choice(sorted(_DAMAGES))
    before = ctx.rng.random() < 0.3
    if before and how == "a directory":
        for path in _notes(ctx, "machine.json"):
            with contextlib.suppress(OSError):
                path.with_name("end.json").mkdir()
    ctx.kill("engine", signal.SIGKILL)
    name = ctx.box.name
    await leftovers.wait_until(lambda: not leftovers.of_sandbox(ctx.world, name), f"{name} has ended")
    paths = _notes(ctx, "end.json")
    for path in paths:
        _DAMAGES[how](path)
    await ctx.expect({State.STOPPED, State.FAILED})
    return f"{how}, {len(paths)} notes"


async def lose_run_entry(ctx: Context) -> str:
    """Entries of its run directory removed: what is a socket comes back, and the sandbox goes on."""
    directory = ctx.world.run_dir / ctx.box.name
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    if not entries:
        raise SkippedError("its run directory is empty")
    chosen = entries if ctx.rng.random() < 0.3 else [ctx.rng.choice(entries)]
    for entry in chosen:
        entry.unlink(missing_ok=True)
    if len(chosen) == len(entries) and ctx.rng.random() < 0.5:
        with contextlib.suppress(OSError):
            directory.rmdir()
    _shown_alive(ctx, await ctx.world.json("ls", "--json"))
    await works_again(ctx)
    return ", ".join(entry.name for entry in chosen)


async def works_again(ctx: Context) -> None:
    """Wait until a sandbox that lost its sockets can be used as before; until then commands fail cleanly."""
    done: Done | None = None
    for _ in range(150):
        done = await ctx.world.cli("exec", ctx.box.name, "true", statuses=(0, 2, 125))
        if done.status == 0:
            done = await ctx.world.cli("balloon", "get", ctx.box.name, statuses=(0, 2, 125))
            if done.status == 0:
                break
        await asyncio.sleep(0.2)
    else:
        raise WrongError(f"it never works again: {done}")
    await ctx.expect(RUNNING)
    await ctx.echo()


async def other_run_dir(ctx: Context) -> str:
    """A look from a session with another run directory harms nobody."""
    other = ctx.world.scratch / f"other-{ctx.box.name}"
    other.mkdir(mode=0o700)
    env = {"XDG_RUNTIME_DIR": str(other)}
    name = ctx.box.name
    words = ctx.rng.choice((("prune",), ("top", "--once"), ("ps",), ("rm", name), ("start", name), ("wait",)))
    try:
        _shown_alive(ctx, await ctx.world.json("ls", "--json", env=env))
        if words == ("rm", name):
            await ctx.world.cli(*words, env=env, statuses=(2,))
        elif words == ("wait",):
            child = await ctx.world.spawn("wait", name, env=env)
            await asyncio.sleep(1)
            if child.returncode is not None:
                raise WrongError(f"'wait' says that it has ended: {(await child.communicate())!r}")
            child.kill()
            await child.communicate()
        else:
            await ctx.world.cli(*words, env=env)
        await ctx.expect(RUNNING)
        await ctx.echo()
    finally:
        shutil.rmtree(other)
    return " ".join(words)


FAULTS: dict[str, Action] = {
    "kill-engine": kill_engine,
    "kill-engine-in-exec": kill_engine_in_exec,
    "kill-supervisor": kill_supervisor,
    "kill-supervisor-in-exec": kill_supervisor_in_exec,
    "kill-volume-server": kill_volume_server,
    "kill-client": kill_client,
    "kill-starter": kill_starter,
    "kill-owner": kill_owner,
    "kill-stopper": kill_stopper,
    "kill-remover": kill_remover,
    "freeze": freeze,
    "freeze-and-remove": freeze_and_remove,
    "damage-machine-note": damage_machine_note,
    "damage-end-note": damage_end_note,
    "lose-run-entry": lose_run_entry,
    "other-run-dir": other_run_dir,
}
