"""QEMU's monitor (QMP), through the official ``qemu.qmp`` package, with the errors of ballonet."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from ballonet.base.errors import EngineError, EngineExitedError
from ballonet.base.lean_asyncio import without_tls

with without_tls():
    from qemu.qmp import (
        ConnectError,
        ExecInterruptedError,
        ExecuteError,
        QMPClient,
        QMPError,
        Runstate,
        StateError,
    )

# The package logs each end of the stream as an error. The end of the process is reported elsewhere.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)

#: How long what a QEMU that has ended had still to say may take (seconds): it is in the socket's buffer.
_DRAIN_S = 5.0

EventHandler = Callable[[str, Mapping[str, Any]], None]


class Qmp:
    """A connected monitor. Events are passed to one handler, in order, in the event loop."""

    def __init__(self, name: str, on_event: EventHandler) -> None:
        self._client = QMPClient(name)
        self._on_event = on_event
        self._events: asyncio.Task[None] | None = None

    async def connect(self, monitor: socket.socket) -> None:
        """Negotiate over a connected socket, which this object owns from now on.

        :raises EngineExitedError: QEMU ended first.
        """
        try:
            await self._client.connect(monitor)
        except (ConnectError, OSError) as error:
            raise EngineExitedError(f"QEMU ended before its monitor answered: {error}") from error
        self._events = asyncio.create_task(self._pump_events())

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run one command and return its answer. ``_`` in argument names stands for ``-``.

        :raises EngineError: QEMU refused it; the message has the command and QEMU's error.
        :raises EngineExitedError: QEMU has ended.
        """
        sent = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            return await self._client.execute(command, sent or None)
        except ExecuteError as error:
            raise EngineError(f"QEMU refused {command} {sent}: {error}") from error
        except (ExecInterruptedError, StateError, ConnectionError, EOFError) as error:
            raise EngineExitedError(f"QEMU ended before it answered {command}") from error

    async def send_descriptor(self, name: str, fd: int) -> None:
        """Give QEMU a copy of ``fd``, which commands refer to as ``fd:NAME``.

        :raises EngineError: QEMU did not take it.
        """
        try:
            self._client.send_fd_scm(fd)
        except (OSError, QMPError) as error:
            raise EngineError(f"a descriptor could not be sent to QEMU: {error}") from error
        await self.execute("getfd", fdname=name)

    async def add_descriptor(self, fdset: int, fd: int) -> None:
        """Give QEMU a copy of ``fd``, which it opens as ``/dev/fdset/NUMBER``.

        :raises EngineError: QEMU did not take it.
        """
        try:
            self._client.send_fd_scm(fd)
        except (OSError, QMPError) as error:
            raise EngineError(f"a descriptor could not be sent to QEMU: {error}") from error
        await self.execute("add-fd", fdset_id=fdset)

    async def close(self) -> None:
        """Close the connection, also if QEMU has ended."""
        if self._events is not None:
            self._events.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._events
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()

    async def drained(self) -> None:
        """Return when the events of a QEMU that has ended were all handled. Its end may be seen before them."""
        if self._events is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()
                while not self._client.events.empty() and not self._events.done():  # noqa: ASYNC110  # at once
                    await asyncio.sleep(0)

    async def _pump_events(self) -> None:
        async for event in self._client.events:
            name, data = event["event"], event.get("data")
            self._on_event(str(name), data if isinstance(data, dict) else {})
