"""A scripted sandbox for tests of the control socket: no VM, every fact set by the test.

As a program it serves itself: ``python fake_backend.py SOCKET [MODE]`` until its input ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ballonet.control.backend import (
    Backend,
    BalloonSnapshot,
    Capabilities,
    GuestMemory,
    GuestPressure,
    HostMemory,
    Outcome,
    SetResult,
    Stats,
    TrimRequest,
    TrimResult,
    clamp,
)
from ballonet.control.connection import Limits
from ballonet.control.peers import AccessPolicy
from ballonet.control.server import ControlServer
from ballonet.control.socketfile import bind_control_socket

SINCE = 1767225600.0


class ChangeFeed:
    """The newest snapshot and its version: a :class:`~ballonet.control.backend.ChangeSignal`.

    It has no state per watcher, so one feed serves all of them. For one event loop.
    """

    def __init__(self, snapshot: BalloonSnapshot) -> None:
        self.version = 1
        self.snapshot = snapshot
        self._next: asyncio.Future[None] | None = None

    def publish(self, snapshot: BalloonSnapshot) -> None:
        """Make ``snapshot`` the newest and wake the watchers; an equal one is no change."""
        if snapshot == self.snapshot:
            return
        self.snapshot = snapshot
        self.version += 1
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.set_result(None)

    async def wait_change(self, since_version: int) -> tuple[int, BalloonSnapshot]:
        """The newest version above ``since_version``, as soon as there is one."""
        while self.version <= since_version:
            if self._next is None:
                self._next = asyncio.get_running_loop().create_future()
            # One future for all watchers: a watcher that is cancelled must not cancel it for the others.
            await asyncio.shield(self._next)
        return self.version, self.snapshot


class FakeBackend(Backend):
    """A sandbox of 1024 MiB, floor 256. Its guest follows each target at once unless told otherwise."""

    def __init__(self, *, has_balloon: bool = True, follows: bool = True) -> None:
        self.has_balloon = has_balloon
        self.follows = follows
        self.targets: list[int] = []
        self.forced: list[bool] = []
        self.generation = 0
        self.waiting = 0
        self.failure: Exception | None = None
        self.stall: asyncio.Event | None = None
        self.trims: list[TrimRequest] = []
        self.ages: list[float] = []
        self.feed = ChangeFeed(
            BalloonSnapshot(
                ceiling_mib=1024,
                initial_mib=512,
                floor_mib=256,
                limit_mib=None,
                requested_mib=512,
                target_mib=512,
                actual_mib=512,
                state="applied",
                since=SINCE,
                driver="present",
                resident_mib=390,
                guest_ram_mib=288,
                engine_mib=102,
            )
        )

    @property
    def balloon(self) -> BalloonSnapshot | None:
        return self.feed.snapshot if self.has_balloon else None

    def change(self, **fields: object) -> None:
        """Let the balloon's facts become ``fields``."""
        self.feed.publish(dataclasses.replace(self.feed.snapshot, **fields))  # type: ignore[arg-type]

    async def set_target(self, requested_mib: int, *, force: bool) -> SetResult:
        target_mib, clamped = clamp(requested_mib, self.feed.snapshot)
        self.generation += 1
        result = SetResult(requested_mib, target_mib, clamped, self.generation)
        await self._maybe_stall()
        self.targets.append(requested_mib)
        self.forced.append(force)
        self.change(requested_mib=requested_mib, target_mib=target_mib, state="converging")
        if self.follows:
            self.change(actual_mib=target_mib, state="applied")
        return result

    async def wait_settled(self, generation: int, timeout_s: float) -> tuple[BalloonSnapshot, Outcome]:
        self.waiting += 1
        version = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    version, snapshot = await self.feed.wait_change(version)
                    if self.generation != generation:
                        return snapshot, "superseded"
                    if snapshot.state != "converging":
                        return snapshot, "settled"
        except TimeoutError:
            return self.feed.snapshot, "timeout"
        finally:
            self.waiting -= 1

    def subscribe(self) -> ChangeFeed:
        return self.feed

    async def stats(self, max_age_s: float = 0.0) -> Stats:
        self.ages.append(max_age_s)
        await self._maybe_stall()
        return Stats(
            guest=GuestMemory(age_s=0.5, total_mib=478, free_mib=301, available_mib=380, disk_caches_mib=44),
            pressure=GuestPressure(age_s=0.5, some_avg10=0.0, some_avg60=1.25, some_total_us=8210),
            oom_kills=0,
            host=HostMemory(resident_mib=390, pss_mib=371, guest_ram_mib=288, engine_mib=102),
        )

    async def trim(self, request: TrimRequest) -> TrimResult:
        self.trims.append(request)
        await self._maybe_stall()
        self.change(resident_mib=280)
        return TrimResult(returned_mib=110, resident_before_mib=390, resident_after_mib=280, complete=True)

    async def set_limit(self, limit_mib: int | None) -> None:
        await self._maybe_stall()
        self.change(limit_mib=limit_mib)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            balloon=self.has_balloon,
            statistics=True,
            pressure_relief=True,
            hard_cap=False,
            trim=True,
            accelerator="tcg",
            engine="QEMU 7.2.0",
        )

    async def _maybe_stall(self) -> None:
        if self.stall is not None:
            await self.stall.wait()
        if self.failure is not None:
            raise self.failure


@asynccontextmanager
async def serving(
    path: Path,
    backend: Backend | None = None,
    *,
    policy: AccessPolicy | None = None,
    limits: Limits | None = None,
    mode: int = 0o600,
) -> AsyncIterator[ControlServer]:
    """A server at ``path``, closed at the end."""
    server = ControlServer(
        backend or FakeBackend(), bind_control_socket(path, mode=mode), policy=policy, limits=limits
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def _serve_until_eof(path: Path, mode: int) -> None:
    async with serving(path, mode=mode):
        print("ready", os.getpid(), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve_until_eof(Path(sys.argv[1]), int(sys.argv[2], 8) if len(sys.argv) > 2 else 0o600))
