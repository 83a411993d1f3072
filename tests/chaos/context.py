"""The context of a step: checks a sandbox's state, brings it about, and runs commands in the guest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ballonet.base.errors import UnknownSandboxError
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.sdk.sandbox import Sandbox
from tests.chaos import leftovers
from tests.chaos.model import ABSENT, DEAD, RUNNING, Box, SkippedError, State, WrongError, show_states
from tests.chaos.testbed import Done, Testbed


@dataclass
class Context:
    """One step of one worker."""

    testbed: Testbed
    box: Box
    rng: random.Random

    # --- checking ---

    async def look(self) -> dict[str, Any] | None:
        """The output of ``inspect``; ``None`` if the sandbox does not exist."""
        done = await self.testbed.cli("inspect", self.box.name, statuses=(0, 2))
        if done.status == 2:
            if "there is no sandbox" not in done.err:
                raise WrongError(f"unexpected error of 'inspect': {done}")
            return None
        import json

        (found,) = json.loads(done.out)
        assert isinstance(found, dict)
        return found

    async def state(self) -> State:
        """The sandbox's state, from the command line or the SDK."""
        if self.rng.random() < 0.5:
            found = await self.look()
            return State.ABSENT if found is None else State(found["state"])
        try:
            with Registry.open() as registry:
                return State(lifecycle.find(registry, self.box.name).state.value)
        except UnknownSandboxError:
            return State.ABSENT

    async def expect(self, states: Collection[State], why: str = "") -> State:
        """Check that the sandbox is in one of ``states``, with matching processes and files."""
        found = await self.state()
        if found not in states:
            raise WrongError(f"{self.box.name} is {found}, not {show_states(states)} {why}".rstrip())
        self.box.state = found
        if found in DEAD:
            await self._nothing_lives(found)
        else:
            self.box.processes = leftovers.of_sandbox(self.testbed, self.box.name)
            roles = sorted(self.box.processes.values())
            if not {"engine", "supervisor"}.issubset(roles):
                raise WrongError(f"{self.box.name} is {found}, but has the processes {roles}")
        self.testbed.check_logs(self.box.name)
        return found

    async def _nothing_lives(self, found: State) -> None:
        name = self.box.name
        await leftovers.wait_until(
            lambda: not leftovers.of_sandbox(self.testbed, name), f"no process of {name} ({found}) runs"
        )
        self.box.processes = {}
        if "early-leftovers" not in self.testbed.without:
            directory = self.testbed.run_dir / name
            await self.testbed.cli("ls", "-q")
            if directory.exists():
                left = sorted(path.name for path in directory.iterdir())
                raise WrongError(f"{name} is {found}, but after 'ls' {directory} still exists, with {left}")
        if found is State.ABSENT and (self.testbed.state_dir / "sandboxes" / name).exists():
            raise WrongError(f"there is no sandbox {name}, but its state directory still exists")

    async def ended(self) -> Done:
        """Wait with ``ballonet wait`` until the sandbox has ended."""
        return await self.testbed.cli("wait", self.box.name)

    def check_listed_as_running(self, rows: list[dict[str, object]]) -> None:
        """:param rows: the output of ``ls --json``."""
        row = {str(row["name"]): row for row in rows}.get(self.box.name)
        if row is None or row["state"] != State.RUNNING:
            raise WrongError(f"{self.box.name} runs, but 'ls' shows {row}")

    # --- changing the state ---

    async def bring(self, needs: frozenset[State]) -> None:
        """Bring the sandbox to one of the states that a step needs, if another step has changed it."""
        from tests.chaos import life_steps

        if self.box.state in needs:
            return
        if self.box.state is State.ABSENT:
            await (life_steps.run if needs == RUNNING else life_steps.create)(self)
        elif needs == RUNNING:
            await life_steps.start(self)
        elif needs == ABSENT:
            await life_steps.remove_force(self)
        else:
            await life_steps.stop(self)

    async def forget(self) -> None:
        """After a failure: remove the sandbox completely, so that other steps can continue."""
        await self.testbed.cli("rm", "--force", self.box.name, statuses=None)
        found = leftovers.processes(self.testbed)
        leftovers.end_processes(process for process in found if process.is_of(self.box.name))
        await self.testbed.cli("prune")
        self.box.state = State.ABSENT

    # --- commands in the guest ---

    async def execute(
        self, *argv: str, stdin: bytes | None = None, sdk: bool | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a command in the guest, with the command line or the SDK; returns status, stdout and stderr."""
        name = self.box.name
        if self.rng.random() < 0.5 if sdk is None else sdk:
            async with await Sandbox.get(name) as sandbox:
                result = await sandbox.exec(argv, stdin=stdin)
            return result.returncode, result.stdout, result.stderr
        words = ["exec", *(["-i"] if stdin is not None else []), name, *argv]
        done = await self.testbed.cli(*words, stdin=stdin or b"", statuses=range(256), guest_status=True)
        if "ballonet: error:" in done.err:
            raise WrongError(f"the command failed: {done}")
        return done.status, done.out, done.err.encode()

    async def echo(self) -> None:
        """Check that the sandbox runs commands."""
        token = self.rng.randbytes(8).hex()
        status, out, err = await self.execute("echo", token)
        if (status, out, err) != (0, f"{token}\n".encode(), b""):
            raise WrongError(f"echo {token}: status {status}, {out!r}, {err!r}")

    def pid_of(self, role: str) -> int | None:
        """The pid of the sandbox's process with this role."""
        found = leftovers.of_sandbox(self.testbed, self.box.name)
        return next((pid for pid, what in found.items() if what == role), None)

    def kill(self, role: str, number: int) -> int:
        """Send a signal to the process with this role; returns its pid."""
        pid = self.pid_of(role)
        if pid is None:
            raise SkippedError(f"it has no {role}")
        os.kill(pid, number)
        return pid


async def wait_for_begin(ctx: Context, child: asyncio.subprocess.Process, words: tuple[str, ...]) -> None:
    """Wait until a command that prints ``begun`` first has done so."""
    assert child.stdout is not None
    if await child.stdout.readline() != b"begun\n":
        await ctx.testbed.finish(child, words, statuses=())


def digest_of(data: bytes) -> bytes:
    """The sha256 digest in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(data).hexdigest().encode()
