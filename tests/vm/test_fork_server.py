"""A program that starts several sandboxes: their processes are forked by a server, and are as others."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ballonet.base.errors import UnknownSandboxError
from ballonet.guest.bundle import GuestBundle
from ballonet.host.proc import read_environment, read_words
from ballonet.lifecycle.liveness import machines
from ballonet.machine import served_process
from ballonet.machine.launch import expect_starts
from ballonet.machine.run_options import RUN_VARIABLE
from ballonet.sdk.sandbox import Sandbox
from tests.vm.processes import descriptors, parent_of

WAIT_S = 60.0


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="session")
async def server(guest: GuestBundle, run_directory: Path) -> AsyncIterator[served_process.ForkServer]:
    expect_starts(1)
    found = served_process._server
    assert found is not None
    await wait_until(lambda: found.ready)
    yield found


async def test_a_sandboxs_process_that_was_forked_is_as_others(
    server: served_process.ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PROGRAM", "yes")
    async with await Sandbox.create("forked", memory="192M") as box:
        assert box.pid is not None
        assert parent_of(box.pid) == server._process.pid
        words = read_words(box.pid)
        assert words[3:5] == ["ballonet", "sandbox"]
        env = read_environment(box.pid)
        assert env["OF_THE_PROGRAM"] == "yes"
        assert RUN_VARIABLE in env
        assert "forked" in [machine.name for machine in machines()]
        assert os.getsid(box.pid) == box.pid
        assert not any("fork_server" in path for path in descriptors(box.pid).values())
        assert (await box.exec(["hostname"])).stdout == b"forked\n"
        assert (await box.balloon.set(160, wait=True, timeout_s=WAIT_S)).state == "applied"
    await wait_until(lambda: not Path(f"/proc/{box.pid}").exists())


async def test_its_end_is_told_with_its_status(
    server: served_process.ForkServer, run_directory: Path
) -> None:
    box = await Sandbox.create("killed", memory="192M")
    assert box.pid is not None
    os.kill(box.pid, signal.SIGKILL)
    end = await box.wait()
    assert "exited with status -9" in str(end)
    # A look removes what a killed one leaves, once its engine has ended.
    with pytest.raises(UnknownSandboxError):
        async with asyncio.timeout(WAIT_S):
            while True:
                await Sandbox.get("killed")
                await asyncio.sleep(0.05)
    await wait_until(lambda: not (run_directory / "killed").exists())


async def test_it_outlives_the_server_and_the_next_one_starts(server: served_process.ForkServer) -> None:
    async with await Sandbox.create("orphan", memory="192M") as box:
        os.kill(server._process.pid, signal.SIGKILL)
        server._process.wait()
        assert (await box.exec(["hostname"])).stdout == b"orphan\n"
        async with await Sandbox.create("next", memory="192M") as other:
            assert (await other.exec(["hostname"])).stdout == b"next\n"
        engine = box.engine_pid
    await wait_until(lambda: not Path(f"/proc/{engine}").exists())
