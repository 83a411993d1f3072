"""Processor time of ballonet's own processes in each command, compared with another checkout.

User and system time are the kernel's figures (wait4), without the engine's: wall time depends on what else the machine
does. In every round, each command runs once from each checkout. The report has the median, and the least of all rounds,
which noise can only increase. Bytecode is cached for both. The last report is the private memory of the process of a
detached sandbox, after its command has returned.

Without another checkout, only this one is measured. For an earlier commit: ``git worktree add ../before COMMIT``, and
``python hatch_build.py`` in that directory.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sync import Sandbox
from ballonet.settings.config import SandboxConfig
from bench.common import Arms, options_parser, private_directories, report

HERE = Path(__file__).parents[1]
ROWS = 200
#: Each Python process writes its own and its parent's pid, and the processor time of the children that it waited for.
_HOOK = """
import atexit, os, resource
def note():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(os.environ["OWN_SHARE_NOTES"], "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {used.ru_utime + used.ru_stime}\\n")
atexit.register(note)
"""


class Checkout:
    """Runs commands of one checkout."""

    def __init__(self, name: str, root: Path, scratch: Path) -> None:
        self.name = name
        self._notes = scratch / f"notes-{name}"
        hook = scratch / f"hook-{name}"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(_HOOK)
        self._env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        self._env |= {
            "PYTHONPATH": f"{hook}:{root / 'src'}",
            "PYTHONPYCACHEPREFIX": str(scratch / f"bytecode-{name}"),
            "OWN_SHARE_NOTES": str(self._notes),
        }

    def run(self, *words: str) -> float:
        """Run a command; returns the processor time of its own processes (milliseconds)."""
        self._notes.write_text("")
        before = _children_s()
        argv = [sys.executable, "-P", "-m", "ballonet", *words]
        with subprocess.Popen(
            argv, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as child:
            status = child.wait()
        if status != 0:
            raise SystemExit(f"{self.name}: ballonet {' '.join(words)}: exit status {status}")
        used = _children_s() - before
        for line in self._notes.read_text().splitlines():
            _, parent, of_children = line.split()
            if (
                int(parent) == child.pid
            ):  # a sandbox's own process: its children are the engine and other programs
                used -= float(of_children)
        return used * 1000


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def private_mib(pid: int) -> float:
    """Memory of process ``pid`` that no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def measure(checkouts: list[Checkout], rounds: int, only: str) -> None:
    commands: dict[str, Callable[[Checkout], float]] = {
        "run -- true": lambda at: at.run("run", "--", "true"),
        "exec": lambda at: at.run("exec", "own-share", "true"),
        f"ls, {ROWS} rows": lambda at: at.run("ls"),
        "inspect": lambda at: at.run("inspect", "own-share"),
        "balloon set": lambda at: at.run("balloon", "set", "own-share", "480M"),
        "create": lambda at: at.run("create", "--name", f"created-{at.name}"),
        "start": lambda at: at.run("start", f"created-{at.name}"),
        "stop": lambda at: at.run("stop", "-t", "0", f"created-{at.name}"),
        "rm": lambda at: at.run("rm", f"created-{at.name}"),
    }
    commands = {name: run for name, run in commands.items() if name.startswith(only)}
    found: dict[str, Arms] = {command: {at.name: [] for at in checkouts} for command in commands}
    memory: Arms = {at.name: [] for at in checkouts}
    for number in range(rounds + 1):  # the first one writes bytecode
        for command, run in commands.items():
            # In turns: the second one finds more in the caches.
            for at in checkouts if number % 2 else reversed(checkouts):
                used = run(at)
                if number > 0:
                    found[command][at.name].append(used)
        for at in checkouts:
            at.run("run", "-d", "--idle", "--name", f"idle-{at.name}")
            time.sleep(1)
            if number > 0:
                memory[at.name].append(private_mib(Sandbox.get(f"idle-{at.name}").pid))
            at.run("rm", "-f", f"idle-{at.name}")
    base = checkouts[-1].name
    for command, arms in found.items():
        name = command.partition(" ")[0].rstrip(",")
        least = ", ".join(f"{arm} {min(values):.0f}" for arm, values in arms.items())
        report(f"own-{name}", arms, unit="ms", base=base, note=f"{command}; least: {least}")
    report("own-memory", memory, unit="MiB", base=base, note="private memory of the sandbox's own process")


def main() -> None:
    parser = options_parser(__doc__, rounds=9)
    parser.add_argument("other", nargs="?", type=Path, help="root of another checkout")
    parser.add_argument(
        "--only", default="", metavar="COMMAND", help="measure only commands that begin like this"
    )
    options = parser.parse_args()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    with private_directories("own-share"), tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = cache
        checkouts = [Checkout("this", HERE, Path(directory))]
        if options.other is not None:
            checkouts.append(Checkout("other", options.other.resolve(), Path(directory)))
        checkouts[0].run("run", "-d", "--idle", "--name", "own-share")
        with Registry.open() as registry:
            for number in range(ROWS - 1):
                lifecycle.create(registry, SandboxConfig(name=f"row-{number}", balloon_min_mib=128))
        try:
            measure(checkouts, options.rounds, options.only)
        finally:
            for name in (
                "own-share",
                *(f"{what}-{at.name}" for what in ("created", "idle") for at in checkouts),
            ):
                subprocess.run(
                    [sys.executable, "-P", "-m", "ballonet", "rm", "-f", name],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )


if __name__ == "__main__":
    main()
