"""close() ends an owned sandbox, also where it is interrupted. With a process that is played."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from ballonet.lifecycle.record import Record
from ballonet.machine.launch import OwnedProcess, SandboxEnd
from ballonet.sdk import sync
from ballonet.sdk.sandbox import Sandbox
from ballonet.sdk.sync_loop import LOOP, Loop
from ballonet.settings.config import SandboxConfig
from ballonet.settings.flags import render_flags
from tests.unit.own_host import own_directories

RECORD = Record(name="box", created_at=1.0, flags=tuple(render_flags(SandboxConfig(name="box"))))
FACTS: dict[str, Any] = {
    "engine_pid": 2,
    "control_socket": None,
    "agent_socket": "/nowhere",
    "boot_s": 1.0,
    "ports": [],
}


class PlayedProcess:
    """It ends when it was killed and may end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid, self.facts = 1, FACTS
        self.end: SandboxEnd | None = None
        self.may_end = asyncio.Event()
        self.killing = asyncio.Event()
        self.kills = 0

    async def kill(self) -> SandboxEnd:
        self.kills += 1
        self.killing.set()
        await self.may_end.wait()
        self.end = SandboxEnd("killed", "it was killed")
        return self.end


@pytest.fixture(autouse=True)
def on_an_empty_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_directories(tmp_path, monkeypatch)


def owned() -> tuple[Sandbox, PlayedProcess]:
    process = PlayedProcess()
    return Sandbox(RECORD, cast(OwnedProcess, process)), process


async def test_an_interrupted_close_goes_on_and_a_second_one_waits_for_it() -> None:
    box, process = owned()
    closing = asyncio.create_task(box.close())
    await process.killing.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    process.may_end.set()
    for _ in range(5):  # nobody waits for it
        await asyncio.sleep(0)
    assert process.end is not None
    await box.close()
    assert repr(box) == "<Sandbox 'box', closed>"
    assert process.kills == 1


async def test_a_close_that_failed_can_be_repeated() -> None:
    box, process = owned()
    process.may_end.set()
    kill = process.kill

    async def failing() -> SandboxEnd:
        raise OSError("no more descriptors")

    process.kill = failing  # type: ignore[method-assign]
    with pytest.raises(OSError, match="descriptors"):
        await box.close()
    process.kill = kill  # type: ignore[method-assign]
    await box.close()
    assert process.end is not None


def test_ctrl_c_before_close_has_begun_ends_the_sandbox_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    async def make() -> tuple[Sandbox, PlayedProcess]:
        return owned()

    inner, process = LOOP.run(make())
    LOOP.call(process.may_end.set)
    box = sync.Sandbox(inner)

    def interrupted(self: Loop) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "_started", interrupted)
        with box:
            pass

    async def ended() -> None:
        async with asyncio.timeout(60):
            await process.killing.wait()

    LOOP.run(ended())
    box.close()
    assert (process.kills, process.end is not None) == (1, True)
