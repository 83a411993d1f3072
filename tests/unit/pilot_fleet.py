"""Sandboxes for tests of the autopilot: rows and notes of a real registry, real control sockets, scripted guests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ballonet.base.paths import private_dir, state_dir_of
from ballonet.control.backend import GuestMemory, GuestPressure, HostMemory, Stats
from ballonet.host.identity import ProcessId
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.machine.notes import MachineNote
from ballonet.pilot.model import Decision, HostView, SandboxView, Verdict
from ballonet.settings.config import SandboxConfig
from tests.unit.fake_backend import FakeBackend, serving


class Guest(FakeBackend):
    """A scripted sandbox whose statistics a test sets, and which counts the requests for them."""

    def __init__(self, *, available_mib: int | None = 300, resident_mib: int = 400) -> None:
        super().__init__()
        self.asked = 0
        self.reading = Stats(
            guest=GuestMemory(
                age_s=0.0, total_mib=478, free_mib=200, available_mib=available_mib, disk_caches_mib=44
            ),
            pressure=GuestPressure(age_s=0.0, some_total_us=0, full_total_us=0),
            oom_kills=0,
            host=HostMemory(resident_mib=resident_mib, pss_mib=resident_mib, guest_ram_mib=resident_mib - 90),
        )
        self.change(resident_mib=resident_mib)

    async def stats(self, max_age_s: float = 0.0) -> Stats:
        self.asked += 1
        await self._maybe_stall()
        return self.reading

    def stall_for(self, some_us: int) -> None:
        """Set how long the guest has stalled on memory so far (microseconds)."""
        self.reading = replace(self.reading, pressure=GuestPressure(age_s=0.0, some_total_us=some_us))


class Fixed:
    """A policy that returns the targets that a test sets, and counts its calls."""

    name = "fixed"

    def __init__(self, targets: Mapping[str, int | None], period_s: float = 60.0) -> None:
        self.targets = targets
        self.period_s = period_s
        self.seen: list[tuple[HostView, dict[str, SandboxView], object]] = []

    def decide(self, host: HostView, sandboxes: Sequence[SandboxView], memory: Any) -> Decision:
        self.seen.append((host, {view.name: view for view in sandboxes}, memory))
        verdicts = [
            Verdict(
                view.name,
                None if view.problem else self.targets.get(view.name),
                "so the test wants",
                {"x": 1},
            )
            for view in sandboxes
        ]
        return Decision(verdicts, (memory or 0) + 1)


def register(name: str, socket: Path, **config: object) -> None:
    """A row and a note, as of a sandbox that runs."""
    with Registry.open() as registry:
        made = SandboxConfig(name=name, memory_mib=1024, balloon_min_mib=256, **config)  # type: ignore[arg-type]
        lifecycle.create(registry, made)
        registry.begin_run(name, f"run-{name}", ProcessId.current())
        MachineNote(
            run_id=f"run-{name}",
            process=ProcessId.current(),
            ready=True,
            flags=registry.get(name).flags,
            control_socket=str(socket),
            started_at=1.0,
            engine=ProcessId.current(),
        ).write(private_dir(state_dir_of(name)))


@asynccontextmanager
async def running(tmp_path: Path, guests: dict[str, Guest]) -> AsyncIterator[None]:
    """Serve and register ``guests``."""
    async with AsyncExitStack() as stack:
        for name, guest in guests.items():
            path = tmp_path / f"{name}.sock"
            await stack.enter_async_context(serving(path, guest))
            register(name, path)
        yield
