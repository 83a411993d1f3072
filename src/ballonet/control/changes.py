"""A value that watchers follow, coalesced: they see the newest, in order, and nothing is ever queued for them."""

from __future__ import annotations

import asyncio

from ballonet.control.backend import BalloonSnapshot


class ChangeFeed:
    """The newest snapshot and its version; the ready-made :class:`~ballonet.control.backend.ChangeSignal`.

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
