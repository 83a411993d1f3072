"""The sandbox's own command. The sandbox's process runs it and writes its output to a log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import GuestError, HostError
from ballonet.machine.notes import COMMAND_FILE
from ballonet.machine.output_log import OutputLog

if TYPE_CHECKING:
    from ballonet.guest.agent_client import AgentClient, GuestProcess
    from ballonet.guest.channel_stream import StreamAccount
    from ballonet.guest.process_output import OutputReader

log = logging.getLogger(__name__)


class MainCommand:
    """Starts the command, waits for its exit status, and stops it when the sandbox is stopped."""

    def __init__(self, agent: AgentClient, state: Path) -> None:
        self._agent = agent
        self._state = state
        self._process: GuestProcess | None = None
        self._stop_signal: int = signal.SIGTERM
        self._copying: asyncio.Future[list[None]] | None = None
        self._log: OutputLog | None = None

    async def start(self) -> None:
        """:raises GuestCommandError: the guest could not start it.
        :raises GuestError: the guest does not answer.
        """
        settings = read_command(self._state)
        self._stop_signal = settings["stop_signal"]
        process = await self._agent.exec(
            settings["argv"],
            env=settings["env"],
            cwd=settings["cwd"],
            user=settings["user"],
            make_cwd=True,
        )
        self._follow(process)

    def adopt(self, account: StreamAccount) -> None:
        """Continue the command of a restored guest, before its agent continues."""
        self._stop_signal = read_command(self._state)["stop_signal"]
        self._follow(self._agent.adopt(account))

    def _follow(self, process: GuestProcess) -> None:
        self._process = process
        self._log = OutputLog(self._state)
        outputs = (("stdout", process.stdout), ("stderr", process.stderr))
        self._copying = asyncio.gather(*(self._copy(name, output) for name, output in outputs))

    async def wait(self) -> int:
        """Wait for its exit status; 128+n if signal n killed it.

        :raises GuestError: the connection to the guest was lost first.
        """
        assert self._process is not None
        assert self._copying is not None
        await self._copying
        return (await self._process.wait()).returncode

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process is not None and self._process.running

    async def account(self) -> StreamAccount | None:
        """For a restored copy of the suspended guest, once all output that has arrived is in the log; ``None`` if it
        has ended."""
        process = self._process
        while process is not None and process.held_bytes:  # noqa: ASYNC110  (the log takes it in the next turns)
            await asyncio.sleep(0)
        return None if process is None or not process.running else process.account()

    async def signal(self, number: int) -> None:
        """Send a signal to its process group."""
        if self._process is not None:
            await self._process.send_signal(number)

    async def terminate(self, timeout_s: float) -> None:
        """Send its stop signal, or SIGTERM, and wait at most ``timeout_s`` for it to end."""
        if self._process is not None:
            with contextlib.suppress(GuestError, TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._process.send_signal(self._stop_signal)
                    await self._process.wait()

    def close(self) -> None:
        if self._log is not None:
            if self._log.lost_bytes:
                log.warning("%d bytes of the command's output could not be logged", self._log.lost_bytes)
            self._log.close()

    async def _copy(self, name: str, output: OutputReader) -> None:
        assert self._log is not None
        async for data in output:
            self._log.write(name, data)


def read_command(state: Path) -> dict[str, Any]:
    """The sandbox's own command with its settings, from its state directory.

    :raises HostError: it cannot be read.
    """
    path = state / COMMAND_FILE
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise HostError(f"the sandbox's command cannot be read from {path}: {error}") from error
    assert isinstance(settings, dict)
    return settings
