"""Code sessions by the real agent and the real kernels, with the interpreters of this host."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ballonet.guest.agent_client import AgentClient, GuestProcess
from ballonet.guest.code.languages import LANGUAGES
from ballonet.sdk.code_session import CodeSession
from tests.unit.agent_program import agent_client

#: As in a guest; short, because the path of a socket must be.
PREFIX = f"/dev/shm/ballonet-test-{os.getpid()}"
#: The interpreter that runs the tests: others may have other packages.
PROGRAMS = {"python": sys.executable}


class Sessions:
    """Starts sessions of one agent."""

    def __init__(self, client: AgentClient) -> None:
        self.client = client
        self.env: dict[str, str] = {}
        self.made: list[CodeSession] = []

    async def start(self, *words: str) -> GuestProcess:
        env = {"PATH": os.environ["PATH"], "HOME": "/", **self.env}
        cwd = str(Path.cwd())
        words = ("session", *(PREFIX if word == "/dev/shm/ballonet-code" else word for word in words))
        return await self.client.exec(
            words, env=env, cwd=cwd, user=str(os.geteuid()), stdin=True, builtin=True
        )

    async def launch(self, language: str, name: str, *command: str) -> tuple[int, str]:
        """Start a session's process, and return the status and the errors of the agent's program."""
        async with await self.start("start", PREFIX, name, language, *command) as process:
            _, said = await process.communicate(LANGUAGES[language].program)
            return (await process.wait()).returncode, said.decode()

    async def open(self, language: str, name: str = "test") -> CodeSession:
        spoken = LANGUAGES[language]
        program = PROGRAMS.get(language, spoken.commands[0][0])
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
        assert await self.launch(language, name, program, "{kernel}") == (0, "")
        session = CodeSession(self.start, name, spoken)
        self.made.append(session)
        await session._begin()
        return session


@asynccontextmanager
async def code_sessions() -> AsyncIterator[Sessions]:
    """Sessions, which are closed at the end."""
    async with agent_client() as (client, _):
        sessions = Sessions(client)
        try:
            yield sessions
        finally:
            for session in sessions.made:
                await session.close()
    assert not Path(f"{PREFIX}-{os.geteuid()}").exists(), "a closed session leaves nothing behind"
