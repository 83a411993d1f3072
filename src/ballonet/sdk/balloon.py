"""The balloon of a sandbox, as the attribute ``balloon`` of :class:`ballonet.sandbox.Sandbox`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ballonet.base.arguments import check_flag, check_seconds
from ballonet.base.errors import NotRunningError
from ballonet.base.memory import Size, to_mib
from ballonet.sdk.connections import PerLoop

if TYPE_CHECKING:
    from ballonet.control.backend import BalloonSnapshot, Stats, TrimResult
    from ballonet.control.client import Client
    from ballonet.control.protocol import SetReply


class Owner(Protocol):
    """What a balloon uses of its sandbox."""

    @property
    def name(self) -> str: ...

    @property
    def control_socket(self) -> Path | None: ...

    def _check_usable(self) -> None: ...

    def _check_running(self) -> None: ...


class BalloonHandle:
    """The balloon of a sandbox. Connects to the control socket when first used.

    Every call raises :class:`~ballonet.errors.NotRunningError` if the sandbox is not running or has no balloon, and the
    errors of :class:`ballonet.control.client.Client`.
    """

    def __init__(self, sandbox: Owner) -> None:
        self._sandbox = sandbox
        self._clients: PerLoop[Client] = PerLoop(self._new_client, lambda client: client.closed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._sandbox!r}>"

    async def get(self) -> BalloonSnapshot:
        """Read the balloon's current state."""
        return await (await self._connect()).get()

    async def set(
        self,
        target: Size,
        *,
        strict: bool = False,
        wait: bool = False,
        timeout_s: float = 30,
        force: bool = False,
    ) -> SetReply:
        """Request ``target`` as the guest-visible memory.

        :param strict: raise an error if ``target`` is below the floor or above the ceiling, instead of clamping it.
        :param wait: return only when the guest has reached the target, has stopped, or ``timeout_s`` has passed.
        :param force: continue to shrink below the guard, the available memory that a shrink leaves to the guest.
        """
        target_mib = to_mib(target, "target")
        for what, value in (("strict", strict), ("wait", wait), ("force", force)):
            check_flag(what, value)
        check_seconds("timeout_s", timeout_s)
        client = await self._connect()
        return await client.set(target_mib, strict=strict, wait=wait, timeout_s=timeout_s, force=force)

    async def limit(self, limit: Size | None) -> BalloonSnapshot:
        """Set an upper limit for targets and for pressure relief; ``None`` resets it to the ceiling."""
        limit_mib = None if limit is None else to_mib(limit, "limit")
        return await (await self._connect()).limit(limit_mib)

    async def stats(self) -> Stats:
        """Read the memory statistics of the guest and of the host."""
        return await (await self._connect()).stats()

    async def trim(self) -> TrimResult:
        """Reclaim memory that the guest does not need, now."""
        return await (await self._connect()).trim()

    async def watch(self) -> AsyncIterator[BalloonSnapshot]:
        """The balloon's current state, then its state after each change."""
        async for snapshot in (await self._connect()).watch():
            yield snapshot

    async def close(self) -> None:
        """Close the connection. A later call opens a new one."""
        await self._clients.close()

    async def _connect(self) -> Client:
        self._sandbox._check_usable()
        return await self._clients.get()

    async def _new_client(self) -> Client:
        from ballonet.control.client import Client

        self._sandbox._check_running()
        socket = self._sandbox.control_socket
        if socket is None:
            raise NotRunningError(
                f"sandbox {self._sandbox.name!r} has no balloon",
                hint="create it with one: balloon=True",
            )
        return await Client.connect(socket)
