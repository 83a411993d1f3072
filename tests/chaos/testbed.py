"""The directories and environment of one run, and functions to run ballonet's command line in it."""

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

#: An environment variable of all processes that a run starts, directly or not.
MARK = "BALLONET_CHAOS"
#: A command that takes longer counts as hanging (seconds). The machine may be busy, and some timeouts of ballonet are
#: half a minute each.
COMMAND_S = 240.0


@dataclass(frozen=True)
class Done:
    """The result of a command."""

    words: tuple[str, ...]
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    def __str__(self) -> str:
        head = f"ballonet {' '.join(self.words)}: status {self.status}"
        out = self.text if len(self.out) < 2000 else f"{len(self.out)} bytes"
        return f"{head}\n    stdout: {out.strip()}\n    stderr: {self.err.strip()[-2000:]}"


class StepLock:
    """Lets workers' steps run concurrently, and steps that invalidate the workers' expectations exclusively."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting = 0
        self._alone = False

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
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
    async def exclusive(self) -> AsyncIterator[None]:
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
class Testbed:
    """The environment of one run on the host."""

    root: Path
    mark: str
    without: frozenset[str] = frozenset()
    #: Maximum duration of a freeze (seconds).
    longest_freeze_s: float = 30.0
    step_lock: StepLock = field(default_factory=StepLock)
    #: Whether the state directory is a separate small file system, which can be filled.
    small_disk: bool = False

    @classmethod
    def make(cls, **settings: Any) -> Testbed:
        """Create the directories and set the environment, which the SDK in this process uses as well."""
        root = Path(tempfile.mkdtemp(prefix="bchaos-"))
        testbed = cls(root, secrets.token_hex(3), **settings)
        for variable, directory in testbed._directories().items():
            directory.mkdir(mode=0o700)
            os.environ[variable] = str(directory)
        os.environ.pop("BALLONET_RUN_DIR", None)
        os.environ[MARK] = testbed.mark
        return testbed

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
        """A directory for files that are copied to and from guests."""
        directory = self.root / "scratch"
        directory.mkdir(exist_ok=True)
        return directory

    def remove(self) -> None:
        shutil.rmtree(self.root)

    async def spawn(
        self, *words: str, env: Mapping[str, str] | None = None, stderr: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        """Start a command without waiting; see :meth:`finish`."""
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
        """Wait until a command ends, and check its result.

        :param statuses: allowed exit statuses; ``None``: all of ballonet's own.
        :param guest_status: a status other than 0 is that of a command in the guest.
        """
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await child.communicate(stdin)
        except TimeoutError:
            child.kill()
            await child.communicate()
            raise WrongError(f"ballonet {' '.join(words)}: no result within {COMMAND_S:g} s") from None
        assert child.returncode is not None
        done = Done(words, child.returncode, out, (err or b"").decode(errors="replace"))
        problem = unclean(done.status, done.err, own_status=not guest_status)
        if problem is not None:
            raise WrongError(f"{problem}: {done}")
        if done.status not in ((0, 2, 3, 125) if statuses is None else statuses):
            raise WrongError(f"status {done.status} is not one of {statuses}: {done}")
        return done

    async def cli(
        self,
        *words: str,
        stdin: bytes = b"",
        statuses: Collection[int] | None = (0,),
        env: Mapping[str, str] | None = None,
        guest_status: bool = False,
    ) -> Done:
        """Run a ballonet command; see :meth:`finish`."""
        child = await self.spawn(*words, env=env)
        return await self.finish(child, words, stdin, statuses, guest_status=guest_status)

    async def json(self, *words: str, env: Mapping[str, str] | None = None) -> Any:
        """Run a command and parse its output as JSON."""
        done = await self.cli(*words, env=env)
        try:
            return json.loads(done.out)
        except ValueError as error:
            raise WrongError(f"not JSON ({error}): {done}") from None

    def check_logs(self, name: str) -> None:
        """Check that the log of the sandbox's process shows no defect."""
        try:
            text = (self.state_dir / "sandboxes" / name / "machine.log").read_text(errors="replace")
        except OSError:
            return
        if (line := defect_in(text)) is not None:
            raise WrongError(f"the process log of {name} shows a defect: {line}\n{text[-3000:]}")
