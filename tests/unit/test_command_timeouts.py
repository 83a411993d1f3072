"""A command's ``--timeout`` with the real agent, and a reader of standard output that has stopped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from ballonet.base.errors import CommandTimeoutError
from ballonet.cli import attach
from ballonet.cli.attach import Joined, SignalPasser, run_joined
from ballonet.lifecycle.image_settings import Settings
from ballonet.sdk.timeouts import Timeout
from tests.unit.agent_program import DEADLINE_S, agent_client

SETTINGS = cast(Settings, SimpleNamespace(env={}, cwd=None, user=None, make_cwd=False))


async def run_unread(script: str, timeout: str) -> int:
    async with agent_client() as (client, _), asyncio.timeout(DEADLINE_S):
        joined = Joined(SETTINGS, stdin=False, terminal=False, timeout=Timeout.parse(timeout))
        return await run_joined(client, ["sh", "-c", script], joined, SignalPasser())


@pytest.fixture
def stopped_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(data: bytes, fd: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(attach, "write_stdout", write)


@pytest.mark.usefixtures("stopped_reader")
async def test_a_command_that_ended_in_time_does_not_wait_for_its_reader_beyond_the_timeout() -> None:
    with pytest.raises(CommandTimeoutError) as failure:
        await run_unread("echo out", "0.5")
    assert failure.value.message == "the output of the command was not read within its timeout of 0.5 s"


@pytest.mark.usefixtures("stopped_reader")
async def test_a_command_that_waits_for_its_reader_is_killed_at_the_timeout() -> None:
    with pytest.raises(CommandTimeoutError) as failure:
        await run_unread("exec yes", "0.5")
    assert failure.value.message == "the command did not end within its timeout of 0.5 s and was killed"


async def test_a_command_that_ended_in_time_has_its_own_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert await run_unread("echo out; exit 3", "30") == 3
    assert capfd.readouterr().out == "out\n"
