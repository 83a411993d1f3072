"""Restored from a template or booted: the decision, without an engine."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ballonet.base.errors import EngineError, ProcessError
from ballonet.guest.frames import HEADER, FrameType
from ballonet.machine import vm_start
from ballonet.machine.vm_start import StartedVm, VmStart
from ballonet.vmm.attach import Net
from ballonet.vmm.console import Tail
from ballonet.vmm.engine import ExitReason, Vm, VmExit
from ballonet.vmm.guest_ram import create_guest_ram
from ballonet.vmm.saved_state import SavedState, write_state

KEY = "k" * 64


class FakeVm:
    """A VM whose guest answers if it is said to. The engine makes more of them."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.spec = SimpleNamespace(
            disks=(), net=Net.NONE, kernel=Path("kernel"), initramfs=Path("initramfs")
        )
        self.engine = SimpleNamespace(
            binary=Path("engine"), state_key=lambda spec: world.key, create=lambda spec: FakeVm(world)
        )
        self.pid = os.getpid()
        self.console = Tail("console")
        self.state: SavedState | None = None
        self.kills = 0
        self.far: socket.socket | None = None
        world.vms.append(self)

    def launch(self, *, state: SavedState | None, **others: object) -> None:
        self.state = state
        if self.world.launch_error is not None:
            raise self.world.launch_error

    async def start(self) -> None:
        if self.state is not None and self.world.restore_error is not None:
            raise self.world.restore_error

    def take_agent_channel(self) -> socket.socket:
        near, self.far = socket.socketpair()
        if self.state is not None and self.world.answers:
            self.far.send(b"READY")
        if self.state is not None and self.world.ends:
            self.far.close()
        return near

    async def wait(self) -> VmExit:
        return VmExit(ExitReason.GUEST_PANIC, 0, "the guest's kernel panicked: no memory")

    async def kill(self) -> VmExit:
        self.kills += 1
        return await self.wait()

    async def save(self, file: int, key: str, *, cpu_s: float, **others: object) -> float:
        if self.world.save_error is not None:
            raise self.world.save_error
        ram = create_guest_ram(1)
        write_state(file, key, ram, b"devices", cpu_s=min(cpu_s, 0.0))
        os.close(ram)
        return 0.01


class FakeWorld:
    """What happens in one test."""

    def __init__(self) -> None:
        self.vms: list[FakeVm] = []
        self.key: str | None = KEY
        self.answers = True
        self.ends = False
        self.launch_error: Exception | None = None
        self.restore_error: Exception | None = None
        self.save_error: Exception | None = None

    async def start(self, *, cold: bool = False, ending: Callable[[], None] | None = None) -> StartedVm:
        async with AsyncExitStack() as stack:
            over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if ending is not None:
                asyncio.get_running_loop().call_later(0.05, over.set_result, None)
            start = VmStart(
                stack, None, cgroup_procs=(), cold=cold, launched=lambda vm, confinement: None, ending=over
            )
            started = await start.run(cast(Vm, FakeVm(self)))
            if started.at_ready is not None:
                await started.at_ready()
            return started


@pytest.fixture
def templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ballonet/templates"


def start(world: FakeWorld, **how: Any) -> StartedVm:
    """Start, and wait for the thread that writes a template."""
    return asyncio.run(world.start(**how))


def test_the_first_start_boots_and_makes_what_the_second_restores(templates: Path) -> None:
    world = FakeWorld()
    assert start(world).source == "booted"
    assert [path.suffix for path in templates.iterdir()] == [".state"]
    again = start(world)
    assert again.source == "restored from a start template"
    assert again.at_ready is None
    vm = world.vms[-1]
    assert vm.far is not None
    size, kind, _, _ = HEADER.unpack_from(vm.far.recv(4096))
    assert (kind, size) == (FrameType.RESTORED, 8 + 64)


@pytest.mark.parametrize("how", ["cold", "unsaveable"])
def test_a_cold_start_neither_uses_nor_makes_a_template(templates: Path, how: str) -> None:
    world = FakeWorld()
    start(world)
    (template,) = templates.iterdir()
    before = template.stat()
    world.key = None if how == "unsaveable" else KEY
    assert start(world, cold=how == "cold").source == "booted"
    template.unlink()
    start(world, cold=how == "cold")
    assert list(templates.iterdir()) == []
    assert before.st_size > 0


def test_a_template_that_the_engine_refuses_is_made_again(templates: Path) -> None:
    world = FakeWorld()
    start(world)
    world.restore_error = EngineError("no such device")
    before = len(world.vms)
    started = start(world)
    assert started.source == "booted, because the guest could not be restored: no such device"
    restored, booted = world.vms[before:]
    assert restored.kills >= 1
    assert started.vm is cast(Vm, booted)
    world.restore_error = None
    assert start(world).source == "restored from a start template"


@pytest.mark.parametrize("limit", ["RESTORE_TIMEOUT_S", "RESTORE_CPU_MIN_S"])
def test_a_restored_guest_that_does_not_answer_is_replaced_by_a_booted_one(
    templates: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    world = FakeWorld()
    start(world)
    monkeypatch.setattr(vm_start, "_LOOK_S", 0.01)
    monkeypatch.setattr(vm_start, limit, -1.0 if limit == "RESTORE_CPU_MIN_S" else 0.05)
    world.answers = False
    started = start(world)
    assert "did not answer" in started.source or "does not answer" in started.source
    assert world.vms[-2].kills >= 1


def test_a_restored_guest_that_ends_is_replaced_by_a_booted_one_and_the_end_is_told(
    templates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = FakeWorld()
    start(world)
    world.answers, world.ends = False, True
    started = start(world)
    assert started.source.startswith("booted, because the guest could not be restored: the ")
    assert started.source.endswith("the guest's kernel panicked: no memory")
    assert "the end of its console output:\n(nothing)" in caplog.text
    assert world.vms[-2].kills >= 1


def test_a_sandbox_that_is_to_end_does_not_wait_for_its_restored_guest(templates: Path) -> None:
    world = FakeWorld()
    start(world)
    world.answers = False
    started = start(world, ending=lambda: None)
    assert started.source == "restored from a start template"


def test_an_engine_that_cannot_be_launched_is_the_error_that_is_reported(templates: Path) -> None:
    world = FakeWorld()
    start(world)
    world.launch_error = ProcessError("QEMU could not be started")
    with pytest.raises(ProcessError, match="QEMU could not be started"):
        start(world)
    assert len(list(templates.iterdir())) == 1, "the template is not to blame"


@pytest.mark.parametrize(
    "error", [EngineError("QEMU did not save its devices"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_guest_that_cannot_be_saved_starts_all_the_same(templates: Path, error: Exception) -> None:
    world = FakeWorld()
    world.save_error = error
    assert start(world).source == "booted"
    assert list(templates.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_no_template(
    templates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert start(FakeWorld()).source == "booted"
    assert list(templates.iterdir()) == []


def test_a_cache_that_cannot_be_written_leads_to_a_boot(templates: Path) -> None:
    templates.parent.mkdir(mode=0o700)
    templates.write_text("a file in the place of the directory")
    assert start(FakeWorld()).source == "booted"
