"""What a program does in a running sandbox: commands and files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ballonet.base.arguments import check_flag, check_number, check_words, to_bytes, wrong_type
from ballonet.base.dataclass import dataclass
from ballonet.base.errors import GuestChannelError
from ballonet.lifecycle.image_settings import image_of, inherited_settings
from ballonet.sdk.command_settings import command_settings
from ballonet.sdk.sandbox_state import SandboxState
from ballonet.sdk.timeouts import Timeout, start_within

if TYPE_CHECKING:
    from ballonet.guest.agent_client import GuestProcess
    from ballonet.guest.files import GuestFiles
    from ballonet.lifecycle.image_settings import Settings


#: How often a sandbox that is being paused is tried again (seconds).
_PAUSING_LOOK_S = 0.1


@dataclass(frozen=True)
class ExecResult:
    """A finished command: its output, and its exit status (128+n if signal n killed it)."""

    returncode: int
    stdout: bytes
    stderr: bytes


class SandboxCommands(SandboxState):
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that works inside the guest."""

    @property
    def fs(self) -> GuestFiles:
        """The guest's files: read, write, list, copy in and out. As with ``docker cp``, always accessed as root."""
        from ballonet.guest.files import GuestFiles

        return GuestFiles(self._connect_agent)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command, wait for its end, and collect its output.

        :param env: environment variables in addition to those that the sandbox was created with, which they override.
        :param cwd: working directory; by default the sandbox's, else the image's.
        :param user: user to run as; by default the sandbox's, else the image's, else root.
        :param stdin: standard input, text as UTF-8; by default ``/dev/null``.
        :param timeout: seconds after which the command is killed, together with everything that it started.
        :raises CommandTimeoutError: the timeout expired; the error has the output so far.
        :raises GuestCommandError: the command could not be started.
        :raises GuestError: the guest ended or broke the protocol, or an output was longer than 256 MiB.
        """
        from ballonet.guest.process_output import MAX_OUTPUT_BYTES

        data = None if stdin is None else to_bytes("stdin", stdin)
        process = await self.exec_stream(
            argv, env=env, cwd=cwd, user=user, stdin=data is not None, timeout=timeout
        )
        async with process:
            stdout, stderr = await process.communicate(data or b"", limit=MAX_OUTPUT_BYTES)
            status = await process.wait()
        return ExecResult(status.returncode, stdout, stderr)

    async def shell(
        self,
        script: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a shell script and wait for its end: ``exec(["/bin/sh", "-c", script])``; see :meth:`exec`."""
        if not isinstance(script, str):
            raise wrong_type("script", "text", script, hint="a list of words goes to exec()")
        argv = ["/bin/sh", "-c", script]
        return await self.exec(argv, env=env, cwd=cwd, user=user, stdin=stdin, timeout=timeout)

    async def exec_stream(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command and return while it runs: read its output, and write its input, through the returned process.

        ``env``, ``cwd`` and ``user`` are as in :meth:`exec`. After ``timeout`` seconds the command is killed; reading
        and waiting then raise :class:`~ballonet.errors.CommandTimeoutError`.

        :param stdin: open standard input for writing; by default the command reads ``/dev/null``.
        :param tty: allocate a terminal of ``rows`` by ``cols``.
        """
        words = check_words("argv", argv)
        command_settings(env, cwd, user)
        check_flag("stdin", stdin)
        check_flag("tty", tty)
        check_number("rows", rows, 0, 0xFFFF)
        check_number("cols", cols, 0, 0xFFFF)
        limit = Timeout.of(timeout)
        settings = self._command_settings(env, cwd, user)
        starting = self._start_process(words, settings, stdin=stdin, tty=tty, rows=rows, cols=cols)
        return await start_within(limit, starting)

    def _command_settings(self, env: Mapping[str, str] | None, cwd: str | None, user: str | None) -> Settings:
        """What a command gets of the sandbox and of its image, where it has no settings of its own.

        :raises ConfigError: a setting is invalid.
        """
        env, cwd, user = command_settings(env, cwd, user)
        self._check_usable()
        if self._record.image_id is not None and self._image is None:
            self._image = image_of(self._record)
        return inherited_settings(self._record, self._image, env, cwd, user)

    async def _start_process(
        self,
        words: Sequence[str],
        settings: Settings,
        *,
        stdin: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        builtin: bool = False,
    ) -> GuestProcess:
        """Start a process in the guest; one that is being paused is resumed first."""
        while True:
            agent = await self._connect_agent()
            pid = self.pid
            try:
                return await agent.exec(
                    words,
                    env=settings.env,
                    cwd=settings.cwd,
                    user=settings.user,
                    make_cwd=settings.make_cwd,
                    stdin=stdin,
                    tty=tty,
                    rows=rows,
                    cols=cols,
                    builtin=builtin,
                )
            except GuestChannelError as error:
                if not await self._was_paused(pid, error):
                    raise
                await asyncio.sleep(_PAUSING_LOOK_S)  # it is resumed as soon as it is paused
