"""Client of a control socket, with asyncio. :mod:`ballonet.control.sync_client`, which is generated from this, has the
one without.

A client has one connection, which carries one call at a time, and one more for each watch. To replace a target while
another call waits for it, use a second client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from ballonet.control.backend import BalloonSnapshot, Stats, TrimRequest, TrimResult
from ballonet.control.client_asyncio import AsyncConnection
from ballonet.control.protocol import LimitParams, SetParams, SetReply, StatsParams, VersionResult


class Client(AsyncConnection):
    """A client with asyncio: ``async with await Client.connect(path) as client: …``.

    Every call raises :class:`~ballonet.errors.ControlRefusedError` if the server refuses it, and
    :class:`~ballonet.errors.ControlError` if the server does not answer in time, ends, or uses another protocol.
    """

    async def version(self) -> VersionResult:
        """Read the versions of the protocol and of the server, and its capabilities."""
        return await self._call("version", VersionResult)

    async def get(self) -> BalloonSnapshot:
        """Read the balloon's current state."""
        return await self._call("balloon.get", BalloonSnapshot)

    async def set(
        self,
        target_mib: int,
        *,
        strict: bool = False,
        wait: bool = False,
        timeout_s: float = 30,
        force: bool = False,
    ) -> SetReply:
        """Request a target; see :class:`~ballonet.control.protocol.SetParams`."""
        params = SetParams(target_mib, strict, wait, timeout_s, force)
        return await self._call("balloon.set", SetReply, params, timeout_s if wait else 0.0)

    async def limit(self, limit_mib: int | None) -> BalloonSnapshot:
        """Set an upper limit for targets and for pressure relief; ``None`` resets it to the ceiling."""
        return await self._call("balloon.limit", BalloonSnapshot, LimitParams(limit_mib))

    async def stats(self, max_age_s: float = 0) -> Stats:
        """Read the memory statistics of guest and host; see :class:`~ballonet.control.protocol.StatsParams`."""
        params = StatsParams(max_age_s) if max_age_s else None
        return await self._call("stats", Stats, params)

    async def trim(self, request: TrimRequest | None = None) -> TrimResult:
        """Reclaim memory that the guest does not need, now."""
        request = request or TrimRequest()
        return await self._call("guest.trim", TrimResult, request, request.timeout_s)

    async def watch(self) -> AsyncIterator[BalloonSnapshot]:
        """The balloon's current state, then its state after each change, until the iteration is left.

        Uses a connection of its own. If changes come faster than they are read, older ones are skipped.

        :raises ControlError: also when the sandbox ends.
        """
        async with await self._another() as watcher:
            yield await watcher._call("balloon.watch", BalloonSnapshot)
            while True:
                yield await watcher._change()
