"""What a run has left on the host: processes, files, rows, cgroups, descriptors. Looks only; removes nothing but what
:func:`end_processes` is told to."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.errors import HostError
from ballonet.host.cgroup import find_hierarchy
from ballonet.machine.hardcap import GROUP_PREFIX
from tests.chaos.model import WrongError
from tests.chaos.world import MARK, World

#: How long the end of processes that were killed may take to show (seconds).
GONE_S = 90.0


@dataclass(frozen=True)
class Process:
    """A process that lives."""

    pid: int
    command: str

    @property
    def role(self) -> str:
        """What it is of a sandbox."""
        for role, sign in (
            ("engine", "qemu-system"),
            ("virtiofsd", "virtiofsd"),
            ("supervisor", " sandbox "),
            ("pilot", " pilot"),
        ):
            if sign in self.command:
                return role
        return "other"

    def is_of(self, name: str) -> bool:
        """Whether it is the engine, the supervisor or a volume's server of the sandbox ``name``."""
        words = self.command.split(" ")
        return (
            f"guest={name}," in self.command
            or any(pair == ("--name", name) for pair in itertools.pairwise(words))
            or any(word.endswith(f"/vol-{name}") for word in words)
        )

    def __str__(self) -> str:
        return f"{self.role} {self.pid}: {self.command[:160]}"


def processes(world: World) -> list[Process]:
    """Every process that comes of this run, other than the program itself and what has become a zombie."""
    sign = f"{MARK}={world.mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
            if command and (sign in environment or bytes(world.root) in command):
                text = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(entry.name), text))
    return sorted(found, key=lambda process: process.pid)


def of_sandbox(world: World, name: str) -> dict[int, str]:
    """The processes of one sandbox, and what each is."""
    return {process.pid: process.role for process in processes(world) if process.is_of(name)}


def alive(pid: int) -> bool:
    """Whether ``pid`` runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def run_entries(world: World) -> list[str]:
    """What is in the run directory."""
    return sorted(str(path.relative_to(world.run_dir)) for path in world.run_dir.rglob("*"))


def state_entries(world: World) -> list[str]:
    """What is kept of sandboxes in the state directory."""
    directory = world.state_dir / "sandboxes"
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def cgroups(world: World) -> list[str]:
    """The cgroups of this run's sandboxes."""
    try:
        parent = find_hierarchy().parent
    except HostError:
        return []
    return sorted(path.name for path in parent.glob(f"{GROUP_PREFIX}c{world.mark}*/"))


def descriptors() -> dict[str, str]:
    """What this process has open."""
    gc.collect()
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists this very directory
            found[entry.name] = str(entry.readlink())
    return found


async def wait_until(condition: Callable[[], object], what: str, timeout_s: float = GONE_S) -> None:
    """Wait for a state of other processes, which send us no event.

    :raises WrongError: it does not come.
    """
    import asyncio

    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise WrongError(f"waited {timeout_s:g} s for: {what}")
        await asyncio.sleep(0.05)


def end_processes(found: Iterable[Process]) -> None:
    """Kill what a failed run has left; all of it was started by this run."""
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGKILL)


def end_all_processes(world: World) -> None:
    """Kill what a failed run has left, wait until it is gone, and remove its cgroups."""
    deadline = time.monotonic() + GONE_S
    while (found := processes(world)) and time.monotonic() < deadline:
        end_processes(found)
        time.sleep(0.05)
    with contextlib.suppress(HostError, OSError):  # there is none, or something cannot be killed
        parent = find_hierarchy().parent
        for name in cgroups(world):
            (parent / name).rmdir()


def summary(world: World) -> list[str]:
    """A line for each kind of thing that is left; none when nothing is."""
    left = {
        "processes": [str(process) for process in processes(world)],
        "in the run directory": run_entries(world),
        "in the state directory": state_entries(world),
        "cgroups": cgroups(world),
    }
    return [f"{what}: {'; '.join(found)}" for what, found in left.items() if found]
