"""Code sessions of a sandbox: an interpreter in the guest that keeps its state."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError, GuestCommandError
from ballonet.base.text import printable
from ballonet.sdk.sandbox_commands import SandboxCommands

if TYPE_CHECKING:
    from ballonet.guest.agent_client import GuestProcess
    from ballonet.sdk.code_session import CodeSession

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_MAX_WORDS_BYTES = 64 << 10


class SandboxCode(SandboxCommands):
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that runs code in sessions."""

    async def code(
        self,
        language: str = "python",
        *,
        session: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> CodeSession:
        """Start a session that runs code and keeps its variables between two runs, or find one.

        ``async with await box.code("python") as session: await session.run("x = 1")``. A session that is not closed
        runs on as long as the sandbox, also while it is paused.

        :param language: ``python``, ``node``, ``sh`` or ``bash``; the image must have it.
        :param session: a name. If a session of the user has it, that session is returned as it is; otherwise it is
            started. By default a random one.
        :param env: environment variables, working directory and user of a session that is started, as in :meth:`exec`.
        :raises GuestCommandError: the image does not have the language; the hint says which images have.
        :raises CodeSessionEndedError: the interpreter ended while it started.
        """
        from ballonet.guest.code.languages import language_of
        from ballonet.guest.code.link import EXISTS, NO_COMMAND, PREFIX, refused
        from ballonet.sdk.code_session import CodeSession

        spoken = language_of(language)
        if session is None:
            name = f"{spoken.name}-{secrets.token_hex(4)}"
        elif isinstance(session, str) and _NAME.fullmatch(session):
            name = session
        else:
            raise ConfigError(
                f"session {session!r} is not a valid name",
                hint="use 1 to 40 letters, digits, '.', '_' and '-', beginning with a letter or a digit",
            )
        settings = self._command_settings(env, cwd, user)

        async def start(*words: str) -> GuestProcess:
            return await self._start_process(("session", *words), settings, stdin=True, builtin=True)

        found = CodeSession(start, name, spoken)
        for command in spoken.commands:
            async with await start("start", PREFIX, name, spoken.name, *command) as process:
                _, said = await process.communicate(spoken.program, limit=_MAX_WORDS_BYTES)
                status = (await process.wait()).returncode
            if status == EXISTS and session is not None:
                await found._join()
                return found
            if status == 0:
                try:
                    await found._begin()
                except BaseException:
                    await found.close()
                    raise
                return found
            if status != NO_COMMAND:
                raise refused(status, printable(said.decode(errors="replace").strip()))
        raise GuestCommandError(
            f"sandbox {self.name!r} has no {spoken.needs}", errno=2, hint=spoken.hint, missing=True
        )
