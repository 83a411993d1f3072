"""Sandbox: what a program holds. Starts the sandbox's own process and talks to its guest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from ballonet.config import SandboxConfig
from ballonet.errors import BallonetError, SandboxError
from ballonet.machine.args import render_flags
from ballonet.machine.owner import STOP, Report
from ballonet.process import spawn, wait_exit

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess

log = logging.getLogger(__name__)

#: How long the sandbox's process may take to clean up after it was told to end (seconds).
_END_TIMEOUT_S = 30.0
#: The most that each output of a command may have when it is collected in memory.
MAX_OUTPUT_BYTES = 256 << 20


def random_name(prefix: str = "box") -> str:
    """A name that no running sandbox is likely to have."""
    return f"{prefix}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class SandboxEnd:
    """How a sandbox ended: a word (see :class:`ballonet.vmm.vm.ExitReason`), and a sentence."""

    reason: str
    detail: str


@dataclass(frozen=True)
class ExecResult:
    """A finished command: its output, and its exit status (128+n where signal n killed it)."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Sandbox:
    """A running sandbox that belongs to this program: it ends when the program does, however that ends.

    Use :meth:`start`, or ``async with await Sandbox.start(config) as sandbox``.
    """

    def __init__(
        self,
        config: SandboxConfig,
        child: subprocess.Popen[bytes],
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        log_file: IO[bytes],
    ) -> None:
        self.config = config
        self.engine_pid = 0
        self.agent_socket = Path()
        self.control_socket: Path | None = None
        #: From the start of the sandbox's process to the guest agent's first word.
        self.boot_s = 0.0
        self._child = child
        self._reader, self._writer = line
        self._log_file = log_file
        self._agent: AgentClient | None = None
        self._ready: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._last_report: Report | None = None
        self._ended = asyncio.create_task(self._follow(), name="sandbox end")

    @classmethod
    async def start(cls, config: SandboxConfig) -> Self:
        """Boot a sandbox and return when its guest answers.

        :raises ConfigError: the name is taken, or something else that was asked is impossible.
        :raises BindError: the control socket cannot be bound.
        :raises BallonetError: it did not come up; nothing is left behind.
        """
        ours, theirs = socket.socketpair()
        log_file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the sandbox)
        # -P: the working directory may be anyone's; no module is to be imported from there.
        argv = [sys.executable, "-P", "-m", "ballonet", "sandbox", "--owner-fd", str(theirs.fileno())]
        try:
            with theirs:
                child = spawn(
                    [*argv, *render_flags(config)],
                    pass_fds=[theirs.fileno()],
                    stderr=log_file.fileno(),
                    new_session=True,
                )
        except BaseException:
            ours.close()
            log_file.close()
            raise
        sandbox = cls(config, child, await asyncio.open_connection(sock=ours), log_file)
        try:
            await sandbox._come_up()
        except BaseException:
            await sandbox.kill()
            raise
        return sandbox

    @property
    def pid(self) -> int:
        """Process id of the sandbox's own process; the engine's is :attr:`engine_pid`."""
        return self._child.pid

    async def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> ExecResult:
        """Run a command to its end and collect its output.

        :raises GuestCommandError: it could not be started.
        :raises GuestError: the guest ended, broke the protocol, or the command wrote more than 256 MiB.
        """
        async with await self.exec_stream(argv, env=env, cwd=cwd) as process:
            stdout, stderr = await process.communicate(limit=MAX_OUTPUT_BYTES)
            status = await process.wait()
        return ExecResult(status.returncode, stdout, stderr)

    async def exec_stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> GuestProcess:
        """Start a command; its output is read, and its input written, as it runs."""
        agent = await self._connect_agent()
        return await agent.exec(argv, env=env, cwd=cwd, stdin=stdin)

    async def wait(self) -> SandboxEnd:
        """Wait for the sandbox's end, for whatever reason; everything is then cleaned up."""
        return await asyncio.shield(self._ended)

    async def stop(self) -> SandboxEnd:
        """Let the guest power off, within a few seconds, and wait for the end."""
        with contextlib.suppress(OSError):
            self._writer.write(STOP)
        return await self._end()

    async def kill(self) -> SandboxEnd:
        """End the sandbox now, as pulling the plug would, and wait until nothing of it is left."""
        self._writer.close()
        return await self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def _come_up(self) -> None:
        either: set[asyncio.Future[Any]] = {self._ready, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            raise self._failure(await self._ended)
        facts = self._ready.result().facts
        self.engine_pid = int(facts["engine_pid"])
        self.agent_socket = Path(facts["agent_socket"])
        self.control_socket = None if facts["control_socket"] is None else Path(facts["control_socket"])
        self.boot_s = float(facts["boot_s"])

    async def _follow(self) -> SandboxEnd:
        """Read what the sandbox's process reports, to its end and the process's own."""
        while (report := await self._next_report()) is not None:
            if report.event == "ready":
                self._ready.set_result(report)
            else:
                self._last_report = report
        status = await wait_exit(self._child)
        if self._agent is not None:
            await self._agent.close()
        self._writer.close()
        last = self._last_report
        if last is None:
            return SandboxEnd(
                "killed", f"the sandbox's process ended with status {status} and without a word"
            )
        if last.event == "failed":
            return SandboxEnd("failed", str(last.facts.get("message")))
        return SandboxEnd(str(last.facts["reason"]), str(last.facts["detail"]))

    async def _next_report(self) -> Report | None:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        return Report.decode(line) if line.endswith(b"\n") else None

    def _failure(self, end: SandboxEnd) -> BallonetError:
        """Why the sandbox did not come up."""
        if self._last_report is not None and self._last_report.event == "failed":
            return self._last_report.to_error()
        message = f"sandbox {self.config.name!r} ended while it was booting: {end.detail}"
        self._log_file.seek(0)
        words = self._log_file.read()[-2000:].decode(errors="replace").strip()
        return SandboxError(f"{message}; its last words were:\n{words}" if words else message)

    async def _end(self) -> SandboxEnd:
        """Wait for the end of a sandbox that was told to end, and make sure of it."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            log.warning("the process of sandbox %s does not end; killing it", self.config.name)
            self._child.kill()
            return await self.wait()
        finally:
            self._log_file.close()

    async def _connect_agent(self) -> AgentClient:
        if self._agent is None:
            from ballonet.guest.agent_client import AgentClient

            self._agent = await AgentClient.connect(self.agent_socket)
        return self._agent
