"""Steps that affect all sandboxes: concurrent queries, the autopilot, the registry, the disk, the run directory."""

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
from tests.chaos.damage_steps import works_again
from tests.chaos.model import RUNNING, Box, SkippedError, State, WrongError
from tests.chaos.testbed import Testbed

#: Size of the state directory's file system (MiB), if one can be mounted.
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
class HostState:
    """The common state of host steps."""

    testbed: Testbed
    boxes: list[Box]
    rng: random.Random = field(default_factory=random.Random)
    pilot: asyncio.subprocess.Process | None = None
    pilot_output: Path | None = None

    def living(self) -> list[Context]:
        """The running sandboxes, as far as their workers know; exact while no worker's step is in progress."""
        return [
            Context(self.testbed, box, random.Random(self.rng.getrandbits(32)))
            for box in self.boxes
            if box.state is State.RUNNING
        ]


# --- queries ---


async def look_crowd(host: HostState) -> str:
    """Many queries at the same time."""
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
    chosen = [host.rng.choice(looks) for _ in range(host.rng.randint(4, 12))]
    for done in await asyncio.gather(*(host.testbed.cli(*words) for words in chosen)):
        if "--json" in done.words:
            json.loads(done.out)
    return f"{len(chosen)} at once"


async def prune(host: HostState) -> str:
    """A prune at the same time as other steps: it must never remove what is in use."""
    return (await host.testbed.cli("prune")).text.strip().replace("\n", ", ")


# --- the autopilot ---


async def pilot_start(host: HostState) -> str:
    """Start an autopilot for the first worker's sandboxes; the targets of the others stay exact."""
    if host.pilot is not None:
        done = await host.testbed.cli("pilot", "--ticks", "1", statuses=(125,))
        return done.err.partition("\n")[0]
    host.pilot_output = host.testbed.root / "pilot.log"
    with host.pilot_output.open("ab") as output:
        host.pilot = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ballonet", "pilot", "--json"),
            *("--only", f"c{host.testbed.mark}-0*", "--budget", "2G"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    for box in host.boxes:
        if box.name.startswith(f"c{host.testbed.mark}-0"):
            box.piloted = True  # permanently: an autopilot may have moved it before it was killed
    started = time.time()
    for _ in range(300):
        status = await host.testbed.json("pilot", "status", "--json")
        if status["running"] and status["last"] is not None and status["last"]["at"] > started:
            return f"pid {host.pilot.pid}"
        await check_pilot(host)
        await asyncio.sleep(0.2)
    raise WrongError(f"the autopilot has not written its status since it was started: {status}")


async def check_pilot(host: HostState) -> None:
    """Check that the autopilot still runs and shows no defect."""
    from tests.chaos.model import defect_in

    if host.pilot_output is not None:
        output = host.pilot_output.read_text(errors="replace")
        if defect_in(output) is not None:
            host.pilot_output.write_bytes(b"")  # report it once
        if (line := defect_in(output)) is not None:
            raise WrongError(f"the autopilot shows a defect: {line}\n{output[-3000:]}")
        if host.pilot is not None and host.pilot.returncode is not None:
            status, host.pilot = host.pilot.returncode, None
            raise WrongError(f"the autopilot ended with status {status}: {output[-3000:]}")


async def pilot_end(host: HostState) -> str:
    if host.pilot is None:
        raise SkippedError("no autopilot runs")
    await check_pilot(host)
    child, host.pilot = host.pilot, None
    child.send_signal(host.rng.choice((signal.SIGTERM, signal.SIGINT)))
    try:
        async with asyncio.timeout(120):
            status = await child.wait()
    except TimeoutError:
        child.kill()
        raise WrongError("the autopilot did not end within 120 s after a signal") from None
    if status != 0:
        raise WrongError(f"the autopilot ended with status {status}")
    return "ended"


async def pilot_kill(host: HostState) -> str:
    if host.pilot is None:
        raise SkippedError("no autopilot runs")
    await check_pilot(host)
    child, host.pilot = host.pilot, None
    child.kill()
    await child.wait()
    done = await host.testbed.cli("pilot", "status")
    if "no autopilot is running" not in done.text:
        raise WrongError(f"the autopilot was killed, but 'status' shows: {done}")
    return "killed"


async def pilot_freeze(host: HostState) -> str:
    if host.pilot is None:
        raise SkippedError("no autopilot runs")
    seconds = min(host.rng.choice((1, 5, 20)), host.testbed.longest_freeze_s)
    host.pilot.send_signal(signal.SIGSTOP)
    try:
        await host.testbed.cli("pilot", "status")
        await asyncio.sleep(seconds)
    finally:
        host.pilot.send_signal(signal.SIGCONT)
    return f"for {seconds:g} s"


# --- the registry ---


async def lock_registry(host: HostState) -> str:
    """Another program locks the registry for a while: commands wait for it."""
    seconds = host.rng.choice((1, 3, 6))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _LOCK, str(host.testbed.state_dir / "registry.db"), str(seconds)),
        stdout=subprocess.PIPE,
    )
    await child.communicate()
    return f"for {seconds} s"


async def damage_registry(host: HostState) -> str:
    """A damaged registry gives errors with a hint. Running sandboxes continue and are found after it is restored."""
    path = host.testbed.state_dir / "registry.db"
    if not path.exists():
        raise SkippedError("there is no registry yet")
    how = host.rng.choice((*_REGISTRY_DAMAGES, "moved away"))
    aside = host.testbed.scratch / "registry"
    aside.mkdir()
    sockets = [(await _control_socket(ctx), ctx) for ctx in host.living()]
    content = path.read_bytes()
    for file in path.parent.glob("registry.db*"):
        shutil.move(file, aside / file.name)
    if how in _REGISTRY_DAMAGES:
        _REGISTRY_DAMAGES[how](path, content)
    # A truncated registry may still be usable; one that was moved away, as the error's hint says, is created again.
    statuses = (0, 2, 125) if how in ("half", "moved away") else (125,)
    stranger = f"c{host.testbed.mark}-no"
    try:
        for words in (("ls",), ("run", "-d", "--name", stranger), ("prune",), ("top", "--once")):
            await host.testbed.cli(*words, statuses=statuses)
        for socket, ctx in sockets:
            await host.testbed.cli("balloon", "get", str(socket))
            await host.testbed.cli("exec", ctx.box.name, "true", statuses=(0, 2, 125))
            await host.testbed.cli("create", "--name", ctx.box.name, statuses=(2, 125))
            if not (host.testbed.state_dir / "sandboxes" / ctx.box.name).is_dir():
                raise WrongError(f"{ctx.box.name} runs, but its files were removed (registry: {how})")
        await host.testbed.cli("rm", "--force", stranger, statuses=(0, 2, 125))
    finally:
        for file in path.parent.glob("registry.db*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for file in sorted(aside.iterdir()):
            shutil.move(file, path.parent / file.name)
        aside.rmdir()
    await _all_go_on(host)
    return how


async def _control_socket(ctx: Context) -> str:
    found = await ctx.look()
    return str(found["control_socket"]) if found else ""


async def _all_go_on(host: HostState) -> None:
    for ctx in host.living():
        await ctx.expect(RUNNING)
        await ctx.echo()


# --- directories ---


def mount_state(testbed: Testbed) -> bool:
    """Mount a small file system as the state directory; returns whether that is permitted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}M,mode=0700", "chaos", testbed.root / "state"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def unmount_state(testbed: Testbed) -> None:
    subprocess.run(["umount", "-l", testbed.root / "state"], check=False, capture_output=True)


async def fill_state_dir(host: HostState) -> str:
    """A full disk gives errors that say so; running sandboxes continue."""
    if not host.testbed.small_disk:
        raise SkippedError("mounting is not permitted")
    sockets = [await _control_socket(ctx) for ctx in host.living()]
    filler = host.testbed.root / "state/filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    try:
        name = f"c{host.testbed.mark}-full"
        await host.testbed.cli("ls", statuses=(0, 125))
        done = await host.testbed.cli("run", "-d", "--name", name, "--memory", "128M", statuses=(0, 125))
        for ctx in host.living():
            await host.testbed.cli("exec", ctx.box.name, "true", statuses=(0, 125))
        for socket in sockets:
            await host.testbed.cli("balloon", "get", socket)
    finally:
        filler.unlink()
    await host.testbed.cli("rm", "--force", name, statuses=(0, 2))
    gone = Context(host.testbed, Box(name), random.Random(0))
    await gone.expect({State.ABSENT})
    await _all_go_on(host)
    return done.err.partition("\n")[0] or "it ran nevertheless"


async def lose_run_dir(host: HostState) -> str:
    """The run directory is removed, as by a logout: sandboxes continue and become usable again."""
    if host.rng.random() < 0.5:
        shutil.rmtree(host.testbed.root / "run")
        (host.testbed.root / "run").mkdir(mode=0o700)
    else:
        shutil.rmtree(host.testbed.run_dir, ignore_errors=True)
    listed = {row["name"]: row for row in await host.testbed.json("ls", "--json")}
    living = host.living()
    for ctx in living:
        row = listed.get(ctx.box.name)
        if row is None or row["state"] != State.RUNNING:
            raise WrongError(f"the run directory was removed; {ctx.box.name} runs, but 'ls' shows {row}")
    if host.rng.random() < 0.5:
        await host.testbed.cli("prune")
    for ctx in living:
        await works_again(ctx)
    return f"{len(living)} continue"


HOST_STEPS: dict[str, Callable[[HostState], Awaitable[str]]] = {
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
#: Steps during which no worker does anything.
ALONE = frozenset({"damage-registry", "fill-state-dir", "lose-run-dir"})
