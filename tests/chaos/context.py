"""What a step has at hand, and how the state of a sandbox is looked at and brought about."""

from __future__ import annotations

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
from tests.chaos.model import ABSENT, DEAD, RUNNING, Box, State, WrongError, show_states
from tests.chaos.world import Done, World


@dataclass
class Context:
    """One step of one worker."""

    world: World
    box: Box
    rng: random.Random

    # --- looking ---

    async def look(self) -> dict[str, Any] | None:
        """What is known of the sandbox, by the command line; ``None``: there is none."""
        done = await self.world.cli("inspect", self.box.name, statuses=(0, 2))
        if done.status == 2:
            if "there is no sandbox" not in done.err:
                raise WrongError(f"not what 'inspect' may say: {done}")
            return None
        import json

        (found,) = json.loads(done.out)
        assert isinstance(found, dict)
        return found

    async def state(self) -> State:
        """The sandbox's state, by the command line or by the SDK."""
        if self.rng.random() < 0.5:
            found = await self.look()
            return State.ABSENT if found is None else State(found["state"])
        try:
            with Registry.open() as registry:
                return State(lifecycle.find(registry, self.box.name).state.value)
        except UnknownSandboxError:
            return State.ABSENT

    async def expect(self, states: Collection[State], why: str = "") -> State:
        """The sandbox must be in one of ``states`` now, and its processes and files accordingly."""
        found = await self.state()
        if found not in states:
            raise WrongError(f"{self.box.name} is {found}, not {show_states(states)} {why}".rstrip())
        self.box.state = found
        if found in DEAD:
            await self._nothing_lives(found)
        else:
            self.box.processes = leftovers.of_sandbox(self.world, self.box.name)
            roles = sorted(self.box.processes.values())
            if not {"engine", "supervisor"}.issubset(roles):
                raise WrongError(f"{self.box.name} is {found} and has the processes {roles}")
        self.world.check_logs(self.box.name)
        return found

    async def _nothing_lives(self, found: State) -> None:
        name = self.box.name
        await leftovers.wait_until(
            lambda: not leftovers.of_sandbox(self.world, name), f"no process of {name} ({found}) lives"
        )
        self.box.processes = {}
        if "early-leftovers" not in self.world.without:
            directory = self.world.run_dir / name
            await self.world.cli("ls", "-q")
            if directory.exists():
                left = sorted(path.name for path in directory.iterdir())
                raise WrongError(f"{name} is {found}, and after 'ls' {directory} is still there, with {left}")
        if found is State.ABSENT and (self.world.state_dir / "sandboxes" / name).exists():
            raise WrongError(f"there is no sandbox {name}, and its state directory is still there")

    async def ended(self) -> Done:
        """Wait until the sandbox has ended, by the command that does."""
        return await self.world.cli("wait", self.box.name)

    # --- bringing about ---

    async def bring(self, needs: frozenset[State]) -> None:
        """Bring the sandbox to where a step of this kind begins, if something else has come between."""
        from tests.chaos import actions

        if self.box.state in needs:
            return
        if self.box.state is State.ABSENT:
            await (actions.run if needs == RUNNING else actions.create)(self)
        elif needs == RUNNING:
            await actions.start(self)
        elif needs == ABSENT:
            await actions.remove_force(self)
        else:
            await actions.stop(self)

    async def forget(self) -> None:
        """After something went wrong: whatever there is of the sandbox goes, so that others may go on."""
        await self.world.cli("rm", "--force", self.box.name, statuses=None)
        found = leftovers.processes(self.world)
        leftovers.end_processes(process for process in found if process.is_of(self.box.name))
        await self.world.cli("prune")
        self.box.state = State.ABSENT

    # --- commands in the guest ---

    async def execute(
        self, *argv: str, stdin: bytes | None = None, sdk: bool | None = None
    ) -> tuple[int, bytes, bytes]:
        """Run a command in the guest, by the command line or the SDK: its status, output and errors."""
        name = self.box.name
        if self.rng.random() < 0.5 if sdk is None else sdk:
            async with await Sandbox.get(name) as sandbox:
                result = await sandbox.exec(argv, stdin=stdin)
            return result.returncode, result.stdout, result.stderr
        words = ["exec", *(["-i"] if stdin is not None else []), name, *argv]
        done = await self.world.cli(*words, stdin=stdin or b"", statuses=range(256), guest_status=True)
        if "ballonet: error:" in done.err:
            raise WrongError(f"it failed: {done}")
        return done.status, done.out, done.err.encode()

    async def echo(self) -> None:
        """The sandbox must be of use."""
        token = self.rng.randbytes(8).hex()
        status, out, err = await self.execute("echo", token)
        if (status, out, err) != (0, f"{token}\n".encode(), b""):
            raise WrongError(f"echo {token}: status {status}, {out!r}, {err!r}")

    def pid_of(self, role: str) -> int | None:
        """The process of the sandbox that is its ``role``."""
        found = leftovers.of_sandbox(self.world, self.box.name)
        return next((pid for pid, what in found.items() if what == role), None)

    def kill(self, role: str, number: int) -> int:
        """Send a signal to the process of that role; its pid."""
        from tests.chaos.model import SkippedError

        pid = self.pid_of(role)
        if pid is None:
            raise SkippedError(f"it has no {role}")
        os.kill(pid, number)
        return pid
