"""The directories and the environment of one run, and the ways to the product: its command line and its SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.model import WrongError, defect_in, unclean

#: Every process that comes of a run has this in its environment, however many parents it has lost.
MARK = "BALLONET_CHAOS"
#: How long one command may take before it counts as hanging (seconds): the machine may be busy, and some waits of
#: the product's own take half a minute each.
COMMAND_S = 240.0


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    words: tuple[str, ...]
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    def __str__(self) -> str:
        said = f"ballonet {' '.join(self.words)}: status {self.status}"
        out = self.text if len(self.out) < 2000 else f"{len(self.out)} bytes"
        return f"{said}\n    stdout: {out.strip()}\n    stderr: {self.err.strip()[-2000:]}"


class Gate:
    """Steps of workers go on together; what would make everybody's expectations unclear is done alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone = False

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._waiting -= 1
            self._alone = True
        try:
            yield
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()


@dataclass
class World:
    """One run's place on the host."""

    root: Path
    mark: str
    without: frozenset[str] = frozenset()
    #: The longest that a process is frozen (seconds).
    longest_freeze_s: float = 30.0
    gate: Gate = field(default_factory=Gate)
    #: Whether the state directory is a small file system of its own, which can be filled.
    small_disk: bool = False

    @classmethod
    def make(cls, **settings: Any) -> World:
        """Make the directories, and make them the program's own: the SDK in it uses them like the command line."""
        root = Path(tempfile.mkdtemp(prefix="bchaos-"))
        world = cls(root, secrets.token_hex(3), **settings)
        for variable, directory in world._directories().items():
            directory.mkdir(mode=0o700)
            os.environ[variable] = str(directory)
        os.environ.pop("BALLONET_RUN_DIR", None)
        os.environ[MARK] = world.mark
        return world

    def _directories(self) -> dict[str, Path]:
        return {
            "XDG_STATE_HOME": self.root / "state",
            "XDG_DATA_HOME": self.root / "data",
            "XDG_RUNTIME_DIR": self.root / "run",
        }

    @property
    def run_dir(self) -> Path:
        return self.root / "run/ballonet"

    @property
    def state_dir(self) -> Path:
        return self.root / "state/ballonet"

    @property
    def data_dir(self) -> Path:
        return self.root / "data/ballonet"

    @property
    def scratch(self) -> Path:
        """For files that go in and out of guests."""
        directory = self.root / "scratch"
        directory.mkdir(exist_ok=True)
        return directory

    def remove(self) -> None:
        shutil.rmtree(self.root)

    async def spawn(
        self, *words: str, env: Mapping[str, str] | None = None, stderr: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        """Start a command and go on; see :meth:`finish`."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ballonet", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            limit=1 << 20,
        )

    async def finish(
        self,
        child: asyncio.subprocess.Process,
        words: tuple[str, ...],
        stdin: bytes = b"",
        statuses: Collection[int] | None = (0,),
        *,
        guest_status: bool = False,
    ) -> Done:
        """Wait for the end of a command; it must be clean.

        :param statuses: those that are right; ``None``: any that ballonet itself may have.
        :param guest_status: a status other than 0 is that of a command in the guest.
        """
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await child.communicate(stdin)
        except TimeoutError:
            child.kill()
            await child.communicate()
            raise WrongError(f"ballonet {' '.join(words)}: it did not end within {COMMAND_S:g} s") from None
        assert child.returncode is not None
        done = Done(words, child.returncode, out, (err or b"").decode(errors="replace"))
        problem = unclean(done.status, done.err, own_status=not guest_status)
        if problem is not None:
            raise WrongError(f"{problem}: {done}")
        if done.status not in ((0, 2, 3, 125) if statuses is None else statuses):
            raise WrongError(f"status {done.status} is none of {statuses}: {done}")
        return done

    async def cli(
        self,
        *words: str,
        stdin: bytes = b"",
        statuses: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        guest_status: bool = False,
    ) -> Done:
        """Run a command of ballonet's to its end; see :meth:`finish`."""
        child = await self.spawn(*words, env=env)
        return await self.finish(child, words, stdin, statuses, guest_status=guest_status)

    async def json(self, *words: str, env: Mapping[str, str] | None = None) -> Any:
        """What a command prints as JSON."""
        done = await self.cli(*words, env=env)
        try:
            return json.loads(done.out)
        except ValueError as error:
            raise WrongError(f"not JSON ({error}): {done}") from None

    def check_logs(self, name: str) -> None:
        """The sandbox's process logs no defect either."""
        try:
            text = (self.state_dir / "sandboxes" / name / "machine.log").read_text(errors="replace")
        except OSError:
            return
        if (line := defect_in(text)) is not None:
            raise WrongError(f"the log of {name}'s process shows a defect: {line}\n{text[-3000:]}")
