"""What one agent has: sandboxes, commands that run in them, code sessions. All of it ends with the session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Self

from ballonet.base.errors import BallonetError, ConfigError, UnknownSandboxError
from ballonet.mcp.output import OutputReader
from ballonet.mcp.policy import LABEL, Policy
from ballonet.sdk.random_name import random_name
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve.running_commands import RunningCommand

if TYPE_CHECKING:
    from ballonet.sdk.code_session import CodeSession

#: How many commands a session may have started whose output was not read to the end.
MAX_COMMANDS = 32


class AgentCommand:
    """A command, and what of its output the agent has read.

    :param drained: its older output is dropped if the agent does not read it, so that the command never waits.
    """

    def __init__(self, command: RunningCommand, *, drained: bool) -> None:
        self.command = command
        self.reader = OutputReader(command)
        self._draining = asyncio.create_task(self._drain()) if drained else None

    async def _drain(self) -> None:
        async for _ in self.command.output():
            pass

    async def close(self) -> None:
        """Kill it if it runs."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)
        await self.command.close()


class AgentSession:
    """One session: ``async with``.

    :param proxied: the server is ``ballonet serve``, which passes requests on to published ports.
    """

    def __init__(self, policy: Policy, *, proxied: bool = False) -> None:
        self.policy = policy
        self.proxied = proxied
        self._boxes: dict[str, Sandbox] = {}
        #: The operator's own, which stay.
        self._existing: dict[str, Sandbox] = {}
        #: Names of sandboxes that are being made.
        self._making: set[str] = set()
        self._commands: dict[str, AgentCommand] = {}
        #: By sandbox, language and name.
        self._code: dict[tuple[str, str, str], CodeSession] = {}
        self._code_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def names(self) -> list[str]:
        """The names of the session's own sandboxes, and of the existing ones that it may use."""
        return [*self._boxes, *(name for name in self.policy.existing if name not in self._boxes)]

    def own(self, name: str) -> Sandbox | None:
        """The session's own sandbox with that name, or ``None``."""
        return self._boxes.get(name)

    async def find(self, name: str | None) -> Sandbox:
        """The sandbox with that name; by default the only one.

        :raises ConfigError: the session has no such sandbox, or several and no name was given.
        """
        await self.forget_ended()
        if name is None:
            if len(self.names) > 1:
                raise ConfigError(
                    f"there are {len(self.names)} sandboxes",
                    hint=f"give 'sandbox', one of {', '.join(self.names)}",
                )
            if not self.names:
                raise ConfigError("this session has no sandbox", hint="call create_sandbox first")
            name = self.names[0]
        if (box := self._boxes.get(name)) is not None:
            return box
        if name not in self.policy.existing:
            known = ", ".join(self.names)
            raise UnknownSandboxError(
                f"this session has no sandbox named {name[:80]!r}",
                hint=f"it has {known}; a sandbox also ends when its time is over"
                if known
                else "make one with create_sandbox; a sandbox also ends when its time is over",
            )
        if name not in self._existing:
            self._existing[name] = await Sandbox.get(name)
        return self._existing[name]

    async def create(
        self,
        name: str | None,
        *,
        image: str | None = None,
        memory_mib: int | None = None,
        internet: bool = False,
        ports: Sequence[int] = (),
    ) -> Sandbox:
        """:raises BallonetError: it is not permitted, or the sandbox did not start."""
        settings = self.policy.settings(image=image, memory_mib=memory_mib, internet=internet, ports=ports)
        name = random_name() if name is None else name
        await self.forget_ended()
        with self._place(name):
            box = await Sandbox.create(name, **settings)
            self._boxes[name] = box
        return box

    async def fork(self, box: Sandbox, name: str | None) -> Sandbox:
        """A copy of a running sandbox, which publishes the same ports of the guest."""
        name = random_name() if name is None else name
        ports = [f"127.0.0.1:0:{port.guest}" for port in box.ports if port.protocol == "tcp"]
        await self.forget_ended()
        with self._place(name):
            (copy,) = await box.fork(name, ports=ports, labels={LABEL: ""})
            self._boxes[name] = copy
        return copy

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[None]:
        """A place for one more sandbox.

        :raises ConfigError: the session has as many as it may, or makes one with that name.
        """
        if name in self._making:
            raise ConfigError(f"sandbox {name!r} is being made", hint="wait for that call to end")
        if len(self._boxes) + len(self._making) >= self.policy.max_sandboxes:
            raise ConfigError(
                f"this session has {self.policy.max_sandboxes} sandboxes, which is the most that it may have",
                hint=f"remove one with remove_sandbox: {', '.join(self._boxes)}",
            )
        self._making.add(name)
        try:
            yield
        finally:
            self._making.discard(name)

    async def remove(self, name: str) -> None:
        """:raises BallonetError: the session has not made that sandbox."""
        box = self._boxes.get(name)
        if box is None:
            if name in self.policy.existing:
                raise ConfigError(f"sandbox {name!r} was not made in this session", hint="it stays as it is")
            raise UnknownSandboxError(f"this session has no sandbox named {name[:80]!r}")
        self._forget(name)
        await self._close_commands(name)
        await box.close()

    async def forget_ended(self) -> None:
        """Forget the sandboxes that have ended, for example because their time was over."""
        for name, box in list(self._boxes.items()):
            try:
                box.record()
            except UnknownSandboxError:
                self._forget(name)
                await self._close_commands(name)
                await box.close()

    def _forget(self, name: str) -> None:
        del self._boxes[name]
        for key in [key for key in self._code if key[0] == name]:
            del self._code[key]

    async def start(
        self,
        box: Sandbox,
        command: str,
        *,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float | None = None,
        drained: bool = False,
    ) -> AgentCommand:
        """Start a shell command.

        :raises ConfigError: too many commands of the session still have output to read.
        """
        while len(self._commands) >= MAX_COMMANDS:
            id = next((id for id, each in self._commands.items() if each.command.ended), None)
            if id is None:
                raise ConfigError(
                    f"{len(self._commands)} commands of this session are running, the most that it may have",
                    hint="wait for some of them with read_output, or end them with stop_command",
                )
            await self.end(self._commands[id])
        argv = ("/bin/sh", "-c", command)
        process = await box.exec_stream(argv, env=env, cwd=cwd, timeout=timeout_s)
        found = AgentCommand(
            RunningCommand(box.name, argv, process, tty=False, unattended_s=float("inf")), drained=drained
        )
        self._commands[found.command.id] = found
        return found

    def command(self, id: str) -> AgentCommand:
        """:raises ConfigError: there is no such command."""
        try:
            return self._commands[id]
        except KeyError:
            raise ConfigError(
                f"this session has no command with the ID {id[:40]!r}",
                hint="a command is forgotten when its output was read to the end, or its sandbox was removed",
            ) from None

    async def end(self, command: AgentCommand) -> None:
        """Kill the command if it runs, and forget it."""
        self._commands.pop(command.command.id, None)
        await command.close()

    async def code(self, box: Sandbox, language: str, name: str) -> CodeSession:
        """The code session with that name, which is started if there is none."""
        key = (box.name, language, name)
        async with self._code_lock:
            if key not in self._code:
                self._code[key] = await box.code(language, session=f"{language}-{name}")
            return self._code[key]

    def forget_code(self, box: Sandbox, language: str, name: str) -> None:
        """Start a new code session with the next call."""
        self._code.pop((box.name, language, name), None)

    async def close(self) -> None:
        """End all sandboxes of the session, and its commands in others."""
        await self._close_commands(None)
        boxes, self._boxes = [*self._boxes.values()], {}
        self._code.clear()
        existing, self._existing = [*self._existing.values()], {}
        ended = await asyncio.gather(*(box.close() for box in (*boxes, *existing)), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, BallonetError):
                raise error

    async def _close_commands(self, sandbox: str | None) -> None:
        for each in list(self._commands.values()):
            if sandbox is None or each.command.sandbox == sandbox:
                await self.end(each)
