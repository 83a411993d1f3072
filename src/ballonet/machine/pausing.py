"""Pauses a sandbox: makes its guest small, saves it in the state directory, and ends the engine.

The file gets its name when it is complete and on the disk, while the guest is stopped: from then on the sandbox is
paused, whatever happens to its process. If anything fails before, the guest runs on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from ballonet.base.errors import BallonetError, BusyError, HostError, SandboxError, StillRunningError, os_hint
from ballonet.base.memory import bytes_to_mib
from ballonet.base.threads import in_thread
from ballonet.control.backend import TrimRequest
from ballonet.machine.live_save import LiveSave, paused_error
from ballonet.machine.paused_file import PAUSED_FILE, discard_paused
from ballonet.vmm.balloon import Balloon
from ballonet.vmm.guard import GUARD_MIN_MIB
from ballonet.vmm.saved_state import PendingState

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

#: How long the guest may take to give up caches and free memory, and then to reach the floor (seconds).
_TRIM_S = 10.0
_SHRINK_S = 5.0


class Pausing:
    """Pauses one sandbox, at most one time.

    :param ending: whether the sandbox ends meanwhile.
    """

    def __init__(self, live: LiveSave, ending: Callable[[], bool]) -> None:
        self._live = live
        self._ending = ending
        self._running: asyncio.Future[dict[str, Any]] | None = None
        #: The guest was saved, and its engine ended.
        self.done = False

    async def pause(self, *, force: bool) -> dict[str, Any]:
        """Pause it; returns the size of the saved state (bytes) and how long that took (seconds).

        :param force: even if commands of clients are running, which it ends.
        :raises BallonetError: it was not paused, and runs on.
        """
        if self._running is not None and not self._running.done():
            raise BusyError(f"sandbox {self._live.name!r} is being paused already")
        # A task of its own: the client that requests it may disconnect.
        self._running = asyncio.create_task(self._pause(force), name="pause")
        return await asyncio.shield(self._running)

    async def settle(self) -> None:
        """Wait until no pause is under way."""
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _pause(self, force: bool) -> dict[str, Any]:
        live, began = self._live, time.monotonic()
        live.check()
        if (clients := live.clients) and not force:
            what = "a command is running" if clients == 1 else f"{clients} commands are running"
            raise StillRunningError(
                f"sandbox {live.name!r} was not paused: {what} in it",
                hint=f"wait for the end, or end it: ballonet pause --force {live.name}",
            )
        path = live.state_dir / PAUSED_FILE
        pending = PendingState.claim(path)
        if pending is None:
            raise HostError(f"{path} is being written by another process")
        agent, balloon = live.services.agent, live.vm.balloon
        before = None if balloon is None else (balloon.status.requested_mib, balloon.status.limit_mib)
        try:
            agent.dismiss(paused_error(live.name))
            await self._make_small()

            async def then() -> None:
                if self._ending():
                    raise SandboxError(f"sandbox {live.name!r} was not paused: it is ending")
                try:
                    await in_thread(pending.commit)
                except BaseException:
                    # It may have its name. The guest, which runs on, must never be combined with it.
                    discard_paused(live.state_dir)
                    raise
                self.done = True
                await live.vm.kill()

            try:
                stopped_s = await live.save(pending.file, target=before, then=then)
            except OSError as error:
                raise HostError(
                    f"sandbox {live.name!r} was not paused: {path} cannot be written: {error.strerror}",
                    hint=os_hint(error, path),
                ) from error
            size = path.stat().st_size
        except BaseException:
            if not self.done:
                await self._undo(pending, before)
            raise
        took_s = time.monotonic() - began
        log.info("paused: %d bytes in %.2f s, of which the guest was stopped %.2f s", size, took_s, stopped_s)
        return {"bytes": size, "seconds": round(took_s, 3)}

    async def _make_small(self) -> None:
        """Have the guest give its caches and free memory to the host. That may fail: the file is then larger."""
        balloon = self._live.vm.balloon
        try:
            if balloon is None:
                await self._live.services.trim(TrimRequest(inflate=False, timeout_s=_TRIM_S))
                return
            await self._live.services.trim(TrimRequest(compact=False, inflate=False, timeout_s=_TRIM_S))
            async with asyncio.timeout(_SHRINK_S):
                _, generation = await balloon.set_target(await _smallest_mib(balloon))
                await balloon.wait_settled(generation)
        except (BallonetError, TimeoutError) as error:
            log.info("the guest was not made smaller: %s", error or "it took too long")

    async def _undo(self, pending: PendingState, before: tuple[int, int | None] | None) -> None:
        pending.close()
        self._live.services.agent.paused = None
        balloon = self._live.vm.balloon
        if balloon is not None and before is not None:
            try:
                await balloon.set_target(before[0])
            except BallonetError as error:
                log.warning("the balloon's target was not restored: %s", error)


async def _smallest_mib(balloon: Balloon) -> int:
    """The target at which the guest keeps what it uses, and the guard. A lower one would take as long as a guest is
    given to reconsider."""
    actual, reading = balloon.status.actual_bytes, await balloon.read_guest()
    if actual is None or reading.available_bytes is None:
        return balloon.spec.floor_mib
    spare_mib = bytes_to_mib(max(0, reading.available_bytes)) - max(balloon.spec.guard_mib, GUARD_MIN_MIB)
    return max(
        balloon.spec.floor_mib, min(balloon.status.target_mib, bytes_to_mib(actual) - max(0, spare_mib) + 1)
    )
