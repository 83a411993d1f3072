"""The end of a sandbox: wait for it, stop, kill, close."""

from __future__ import annotations

import asyncio
import contextlib
from signal import SIGKILL
from typing import Self

from ballonet.base.arguments import check_flag, check_seconds, wrong_type
from ballonet.base.errors import ConfigError
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.sandboxes import find
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, stop_sandbox, wait_end
from ballonet.machine.launch import SandboxEnd
from ballonet.sdk.sandbox_state import PAUSED, SandboxState


class SandboxLife(SandboxState):
    """The part of :class:`~ballonet.sdk.sandbox.Sandbox` that ends it."""

    async def wait(self) -> SandboxEnd:
        """Wait until the sandbox has ended, for whatever reason, and everything is cleaned up. A paused one has not."""
        if self._end is not None:
            return self._end
        if (process := self._followed()) is not None:
            end = await process.wait()
            if end.reason != PAUSED:
                return await self._after_end(end)
            self._note_paused()
        with Registry.open() as registry:
            return await self._after_end(_end_of(await wait_end(registry, self.name)))

    async def wait_healthy(self, timeout: float | None = None) -> None:
        """Wait until the sandbox is healthy: see ``wait_port`` and ``health_cmd`` of :meth:`create`.

        :param timeout: how long to wait at most (seconds).
        :raises ConfigError: its health is not checked.
        :raises NotRunningError: it is not running, or has ended meanwhile.
        :raises SandboxError: it is not healthy in time.
        """
        from ballonet.lifecycle.health import wait_healthy

        timeout_s = None if timeout is None else check_seconds("timeout", timeout, zero=True)
        self._check_usable()
        with Registry.open() as registry:
            await wait_healthy(registry, self.name, timeout_s)

    async def pause(self, *, force: bool = False) -> None:
        """Save the sandbox to disk with its processes, and end its process and its engine: it takes no memory. It
        continues with :meth:`resume`, or with the next command. Network connections do not survive.

        An owned sandbox stays owned: it is removed when this object is closed, but not if this program is killed while
        the sandbox is paused.

        :param force: even if commands are running in it that were started with :meth:`exec`, which that ends.
        :raises StillRunningError: such commands are running.
        :raises ConfigError: the sandbox has volumes.
        :raises BallonetError: it could not be paused, and runs on.
        """
        from ballonet.lifecycle.pause import pause_sandbox

        check_flag("force", force)
        self._check_usable()
        with Registry.open() as registry:
            await pause_sandbox(registry, self.name, force=force)
            self._record = find(registry, self.name)
        if (process := self._followed()) is not None:
            await process.wait()
        self._note_paused()
        await self._hang_up()

    async def touch(self) -> None:
        """Count the sandbox as used now: its idle timeout begins again. Commands do that, too.

        :raises NotRunningError: it is not running.
        """
        from ballonet.lifecycle.pause import touch_sandbox

        self._check_usable()
        with Registry.open() as registry:
            await touch_sandbox(registry, self.name)

    async def resume(self, *, admission: bool = True) -> None:
        """Resume the sandbox if it is paused.

        :param admission: if an autopilot manages the host's sandboxes, resume only if it finds room.
        :raises AdmissionError: there is no room; it stays paused.
        :raises ResumeError: it cannot be resumed here, for example because the engine has another version.
        :raises NotRunningError: it is neither paused nor running.
        """
        check_flag("admission", admission)
        self._check_usable()
        await self._wake(admission=admission)
        self._check_running()

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

    async def send_signal(self, signal: int | str) -> None:
        """Send a signal to the sandbox's own command, and to the processes of its group. SIGKILL ends the sandbox at
        once, as :meth:`kill` does.

        :param signal: its number, or its name, for example ``"HUP"``.
        :raises ConfigError: there is no such signal, or the sandbox has no command of its own.
        :raises NotRunningError: the sandbox is not running, or its command has ended.
        """
        from ballonet.images.image import signal_number
        from ballonet.lifecycle.signals import signal_sandbox

        if not isinstance(signal, int | str) or isinstance(signal, bool):
            raise wrong_type("signal", "a number or a name", signal)
        number = signal_number(str(int(signal) if isinstance(signal, int) else signal))
        self._check_usable()
        if number == SIGKILL:
            await self.kill()
            return
        with Registry.open() as registry:
            await signal_sandbox(registry, self.name, number)

    async def close(self) -> None:
        """Release what this program holds: an owned sandbox ends, a detached one keeps running.

        May be repeated. If it is cancelled, the sandbox ends nevertheless; another call then waits for that. In a
        forked child, which has a copy of this object, the parent's sandbox keeps running.
        """
        self._leave_to_parent()
        self._closed = True
        if self._process is not None or self._paused:
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
