"""What concerns all sandboxes at once: crowds of lookers, the autopilot, the registry, the disk, the run directory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.context import Context
from tests.chaos.faults import works_again
from tests.chaos.model import RUNNING, Box, SkippedError, State, WrongError
from tests.chaos.world import World

#: The size of the state directory's own file system (MiB), where one can be mounted.
STATE_MIB = 64
_LOCK = (
    "import sqlite3, sys, time\n"
    "c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None); c.execute('BEGIN EXCLUSIVE')\n"
    "print('locked', flush=True); time.sleep(float(sys.argv[2])); c.execute('ROLLBACK')\n"
)
_REGISTRY_DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "garbage": lambda path, content: path.write_bytes(os.urandom(20_000)),
    "half": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "a directory": lambda path, content: path.mkdir(),
    "another header": lambda path, content: path.write_bytes(b"x" * 16 + content[16:]),
}


@dataclass
class Sky:
    """What the steps of the sky share."""

    world: World
    boxes: list[Box]
    rng: random.Random = field(default_factory=random.Random)
    pilot: asyncio.subprocess.Process | None = None
    pilot_output: Path | None = None

    def living(self) -> list[Context]:
        """The sandboxes that run, as far as their workers know: exact when nothing else goes on."""
        return [
            Context(self.world, box, random.Random(self.rng.getrandbits(32)))
            for box in self.boxes
            if box.state is State.RUNNING
        ]


# --- looking ---


async def look_crowd(sky: Sky) -> str:
    """Many lookers at once."""
    looks = (
        ("ls", "--json"),
        ("ls",),
        ("ps", "--json"),
        ("top", "--once"),
        ("top", "--json"),
        ("metrics",),
        ("volume", "ls"),
        ("pilot", "status"),
    )
    chosen = [sky.rng.choice(looks) for _ in range(sky.rng.randint(4, 12))]
    for done in await asyncio.gather(*(sky.world.cli(*words) for words in chosen)):
        if "--json" in done.words:
            json.loads(done.out)
    return f"{len(chosen)} at once"


async def prune(sky: Sky) -> str:
    """Beside all else: it never takes what somebody has."""
    return (await sky.world.cli("prune")).text.strip().replace("\n", ", ")


# --- the autopilot ---


async def pilot_start(sky: Sky) -> str:
    """It looks after the first worker's sandboxes; the others' targets stay exact."""
    if sky.pilot is not None:
        done = await sky.world.cli("pilot", "--ticks", "1", statuses=(125,))
        return done.err.partition("\n")[0]
    sky.pilot_output = sky.world.root / "pilot.log"
    with sky.pilot_output.open("ab") as output:
        sky.pilot = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ballonet", "pilot", "--json"),
            *("--only", f"c{sky.world.mark}-0*", "--budget", "2G"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    for box in sky.boxes:
        if box.name.startswith(f"c{sky.world.mark}-0"):
            box.piloted = True  # from now on: one that was killed may have moved it last
    started = time.time()
    for _ in range(300):
        status = await sky.world.json("pilot", "status", "--json")
        if status["running"] and status["last"] is not None and status["last"]["at"] > started:
            return f"pid {sky.pilot.pid}"
        await check_pilot(sky)
        await asyncio.sleep(0.2)
    raise WrongError(f"the autopilot has said nothing since it was started: {status}")


async def check_pilot(sky: Sky) -> None:
    """It goes on, whatever happens around it, and has nothing to be ashamed of."""
    from tests.chaos.model import defect_in

    if sky.pilot_output is not None:
        said = sky.pilot_output.read_text(errors="replace")
        if defect_in(said) is not None:
            sky.pilot_output.write_bytes(b"")  # told once
        if (line := defect_in(said)) is not None:
            raise WrongError(f"the autopilot shows a defect: {line}\n{said[-3000:]}")
        if sky.pilot is not None and sky.pilot.returncode is not None:
            status, sky.pilot = sky.pilot.returncode, None
            raise WrongError(f"the autopilot ended with status {status}: {said[-3000:]}")


async def pilot_end(sky: Sky) -> str:
    if sky.pilot is None:
        raise SkippedError("there is none")
    await check_pilot(sky)
    child, sky.pilot = sky.pilot, None
    child.send_signal(sky.rng.choice((signal.SIGTERM, signal.SIGINT)))
    try:
        async with asyncio.timeout(120):
            status = await child.wait()
    except TimeoutError:
        child.kill()
        raise WrongError("the autopilot does not end within 120 s of a signal") from None
    if status != 0:
        raise WrongError(f"the autopilot ended with status {status}")
    return "ended"


async def pilot_kill(sky: Sky) -> str:
    if sky.pilot is None:
        raise SkippedError("there is none")
    await check_pilot(sky)
    child, sky.pilot = sky.pilot, None
    child.kill()
    await child.wait()
    done = await sky.world.cli("pilot", "status")
    if "no autopilot is running" not in done.text:
        raise WrongError(f"the autopilot was killed: {done}")
    return "killed"


async def pilot_freeze(sky: Sky) -> str:
    if sky.pilot is None:
        raise SkippedError("there is none")
    seconds = min(sky.rng.choice((1, 5, 20)), sky.world.longest_freeze_s)
    sky.pilot.send_signal(signal.SIGSTOP)
    try:
        await sky.world.cli("pilot", "status")
        await asyncio.sleep(seconds)
    finally:
        sky.pilot.send_signal(signal.SIGCONT)
    return f"for {seconds:g} s"


# --- the registry ---


async def lock_registry(sky: Sky) -> str:
    """A program that keeps the registry for a while: the others wait for it."""
    seconds = sky.rng.choice((1, 3, 6))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LOCK, str(sky.world.state_dir / "registry.db"), str(seconds)),
        stdout=subprocess.PIPE,
    )
    await child.communicate()
    return f"for {seconds} s"


async def damage_registry(sky: Sky) -> str:
    """A damaged registry is told with what to do about it; sandboxes that run go on, and are found once it is back."""
    path = sky.world.state_dir / "registry.db"
    if not path.exists():
        raise SkippedError("there is none yet")
    how = sky.rng.choice((*_REGISTRY_DAMAGES, "moved away"))
    aside = sky.world.scratch / "registry"
    aside.mkdir()
    sockets = [(await _control_socket(ctx), ctx) for ctx in sky.living()]
    content = path.read_bytes()
    for file in path.parent.glob("registry.db*"):
        shutil.move(file, aside / file.name)
    if how in _REGISTRY_DAMAGES:
        _REGISTRY_DAMAGES[how](path, content)
    # What is cut in half may still be of use; what was moved away, as the error's hint says, is made anew.
    statuses = (0, 2, 125) if how in ("half", "moved away") else (125,)
    stranger = f"c{sky.world.mark}-no"
    try:
        for words in (("ls",), ("run", "-d", "--name", stranger), ("prune",), ("top", "--once")):
            await sky.world.cli(*words, statuses=statuses)
        for socket, ctx in sockets:
            await sky.world.cli("balloon", "get", str(socket))
            await sky.world.cli("exec", ctx.box.name, "true", statuses=(0, 2, 125))
            await sky.world.cli("create", "--name", ctx.box.name, statuses=(2, 125))
            if not (sky.world.state_dir / "sandboxes" / ctx.box.name).is_dir():
                raise WrongError(f"{ctx.box.name} lives, and its files were removed (registry: {how})")
        await sky.world.cli("rm", "--force", stranger, statuses=(0, 2, 125))
    finally:
        for file in path.parent.glob("registry.db*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in sorted(aside.iterdir()):
            shutil.move(file, path.parent / file.name)
        aside.rmdir()
    await _all_go_on(sky)
    return how


async def _control_socket(ctx: Context) -> str:
    found = await ctx.look()
    return str(found["control_socket"]) if found else ""


async def _all_go_on(sky: Sky) -> None:
    for ctx in sky.living():
        await ctx.expect(RUNNING)
        await ctx.echo()


# --- directories ---


def mount_state(world: World) -> bool:
    """Give the state directory a small file system of its own; whether that is permitted here."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}M,mode=0700", "chaos", world.root / "state"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def unmount_state(world: World) -> None:
    subprocess.run(["umount", "-l", world.root / "state"], check=False, capture_output=True)


async def fill_state_dir(sky: Sky) -> str:
    """A full disk is told as that; sandboxes that run go on."""
    if not sky.world.small_disk:
        raise SkippedError("no file system can be mounted here")
    sockets = [await _control_socket(ctx) for ctx in sky.living()]
    filler = sky.world.root / "state/filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    try:
        name = f"c{sky.world.mark}-full"
        await sky.world.cli("ls", statuses=(0, 125))
        done = await sky.world.cli("run", "-d", "--name", name, "--memory", "128M", statuses=(0, 125))
        for ctx in sky.living():
            await sky.world.cli("exec", ctx.box.name, "true", statuses=(0, 125))
        for socket in sockets:
            await sky.world.cli("balloon", "get", socket)
    finally:
        filler.unlink()
    await sky.world.cli("rm", "--force", name, statuses=(0, 2))
    gone = Context(sky.world, Box(name), random.Random(0))
    await gone.expect({State.ABSENT})
    await _all_go_on(sky)
    return done.err.partition("\n")[0] or "it ran all the same"


async def lose_run_dir(sky: Sky) -> str:
    """The run directory goes away, as with a logout, and comes back: sandboxes live, and can be used again."""
    if sky.rng.random() < 0.5:
        shutil.rmtree(sky.world.root / "run")
        (sky.world.root / "run").mkdir(mode=0o700)
    else:
        shutil.rmtree(sky.world.run_dir, ignore_errors=True)
    listed = {row["name"]: row for row in await sky.world.json("ls", "--json")}
    living = sky.living()
    for ctx in living:
        row = listed.get(ctx.box.name)
        if row is None or row["state"] != State.RUNNING:
            raise WrongError(
                f"the run directory was removed, and {ctx.box.name}, which lives, shows as {row}"
            )
    if sky.rng.random() < 0.5:
        await sky.world.cli("prune")
    for ctx in living:
        await works_again(ctx)
    return f"{len(living)} go on"


SKY_STEPS: dict[str, Callable[[Sky], Awaitable[str]]] = {
    "look-crowd": look_crowd,
    "prune": prune,
    "pilot-start": pilot_start,
    "pilot-end": pilot_end,
    "pilot-kill": pilot_kill,
    "pilot-freeze": pilot_freeze,
    "lock-registry": lock_registry,
    "damage-registry": damage_registry,
    "fill-state-dir": fill_state_dir,
    "lose-run-dir": lose_run_dir,
}
#: While these go on, no worker does anything.
ALONE = frozenset({"damage-registry", "fill-state-dir", "lose-run-dir"})
