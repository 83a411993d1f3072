"""The end of a sandbox: wait for it, stop, kill, close."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from ballonet.base.arguments import check_seconds
from ballonet.base.errors import ConfigError
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, stop_sandbox, wait_end
from ballonet.machine.launch import SandboxEnd
from ballonet.sdk.sandbox_state import SandboxState


class SandboxLife(SandboxState):
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that ends it."""

    async def wait(self) -> SandboxEnd:
        """Wait until the sandbox has ended, for whatever reason, and everything is cleaned up."""
        if self._end is not None:
            return self._end
        if (process := self._followed()) is not None:
            return await self._after_end(await process.wait())
        with Registry.open() as registry:
            return await self._after_end(_end_of(await wait_end(registry, self.name)))

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> SandboxEnd:
        """Stop the sandbox gracefully; kill it if it has not ended after ``timeout_s`` seconds."""
        timeout_s = check_seconds("timeout_s", timeout_s, zero=True)
        if self._end is not None:
            return self._end
        if (process := self._followed()) is not None:
            return await self._after_end(await process.stop(timeout_s))
        await self._hang_up()
        with Registry.open() as registry:
            return await self._after_end(
                _end_of(await stop_sandbox(registry, self.name, timeout_s=timeout_s))
            )

    async def kill(self) -> SandboxEnd:
        """End the sandbox immediately, like a power cut, and wait until nothing of it is left."""
        if self._end is None and (process := self._followed()) is not None:
            return await self._after_end(await process.kill())
        return await self.stop(timeout_s=0)

    async def close(self) -> None:
        """Release what this program holds: an owned sandbox ends, a detached one keeps running.

        May be repeated. If it is cancelled, the sandbox ends nevertheless; another call then waits for that. In a
        forked child, which has a copy of this object, the parent's sandbox keeps running.
        """
        self._leave_to_parent()
        self._closed = True
        if self._process is not None:
            closing = self._closing
            if closing is None or closing.done() or closing.get_loop() is not asyncio.get_running_loop():
                closing = self._closing = asyncio.create_task(self._end_owned())
            await asyncio.shield(closing)
        await self._hang_up()

    async def _end_owned(self) -> None:
        with contextlib.suppress(ConfigError):  # gone already
            await self.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _after_end(self, end: SandboxEnd) -> SandboxEnd:
        """Note how the sandbox ended; an owned one no longer exists."""
        if self._owned:
            self._end = end
        self._forget_facts()
        await self._hang_up()
        with contextlib.suppress(ConfigError), Registry.open() as registry:  # gone already
            self._record = find(registry, self.name)
        return end


def _end_of(record: Record | None) -> SandboxEnd:
    if record is None:
        return SandboxEnd("removed", "the sandbox was removed when it ended")
    return SandboxEnd(record.end_reason or str(record.state), record.end_detail or "", record.exit_code)
