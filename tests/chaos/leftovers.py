"""Finds what a run has left on the host: processes, files, registry rows, cgroups, file descriptors."""

from __future__ import annotations

import contextlib
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
from tests.chaos.testbed import MARK, Testbed
from tests.vm.processes import parent_of

#: Time limit until killed processes are gone (seconds).
GONE_S = 90.0


@dataclass(frozen=True)
class Process:
    """A running process."""

    pid: int
    command: str

    @property
    def role(self) -> str:
        """Its role in a sandbox."""
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
        """Whether it is the engine, the supervisor or a volume server of the sandbox ``name``."""
        words = self.command.split(" ")
        return (
            f"guest={name}," in self.command
            or any(pair == ("--name", name) for pair in itertools.pairwise(words))
            or any(word.endswith(f"/vol-{name}") for word in words)
        )

    def __str__(self) -> str:
        return f"{self.role} {self.pid}: {self.command[:160]}"


def processes(testbed: Testbed) -> list[Process]:
    """All processes of this run, without the program itself, its fork server, and zombies."""
    sign = f"{MARK}={testbed.mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes()
            if b"ballonet.machine.fork_server" in command and parent_of(int(entry.name)) == os.getpid():
                continue  # it ends with the program; that of a killed program counts
            if command and (sign in environment or bytes(testbed.root) in command):
                text = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(entry.name), text))
    return sorted(found, key=lambda process: process.pid)


def of_sandbox(testbed: Testbed, name: str) -> dict[int, str]:
    """The processes of one sandbox, with their roles."""
    return {process.pid: process.role for process in processes(testbed) if process.is_of(name)}


def alive(pid: int) -> bool:
    """Whether ``pid`` runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def run_entries(testbed: Testbed) -> list[str]:
    """All entries of the run directory."""
    return sorted(str(path.relative_to(testbed.run_dir)) for path in testbed.run_dir.rglob("*"))


def state_entries(testbed: Testbed) -> list[str]:
    """All entries of sandboxes in the state directory."""
    directory = testbed.state_dir / "sandboxes"
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def cgroups(testbed: Testbed) -> list[str]:
    """The cgroups of this run's sandboxes."""
    try:
        parent = find_hierarchy().parent
    except HostError:
        return []
    return sorted(path.name for path in parent.glob(f"{GROUP_PREFIX}c{testbed.mark}*/"))


async def wait_until(condition: Callable[[], object], what: str, timeout_s: float = GONE_S) -> None:
    """Wait for a condition by polling.

    :raises WrongError: it does not become true in time.
    """
    import asyncio

    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise WrongError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.05)


def end_processes(found: Iterable[Process]) -> None:
    """Kill processes that a failed run left behind; this run started all of them."""
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
            os.kill(process.pid, signal.SIGKILL)


def end_all_processes(testbed: Testbed) -> None:
    """Kill all processes that a failed run left behind, wait for their end, and remove its cgroups."""
    deadline = time.monotonic() + GONE_S
    while (found := processes(testbed)) and time.monotonic() < deadline:
        end_processes(found)
        time.sleep(0.05)
    with contextlib.suppress(HostError, OSError):  # no cgroups, or a process that cannot be killed
        parent = find_hierarchy().parent
        for name in cgroups(testbed):
            (parent / name).rmdir()


def summary(testbed: Testbed) -> list[str]:
    """One line for each kind of leftover; empty if nothing is left."""
    left = {
        "processes": [str(process) for process in processes(testbed)],
        "in the run directory": run_entries(testbed),
        "in the state directory": state_entries(testbed),
        "cgroups": cgroups(testbed),
    }
    return [f"{what}: {'; '.join(found)}" for what, found in left.items() if found]
