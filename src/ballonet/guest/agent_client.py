"""The client of a guest's agent: run commands, read statistics, watch memory pressure, trim, shut down.

Works on the guest's own channel (in the sandbox's process) and on a relay's socket (in any other process). A relay
accepts only processes and ``ping``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from ballonet.base.errors import ConfigError, GuestChannelError, GuestError
from ballonet.base.forked import keep_from_children
from ballonet.guest import channel_errors, manage, messages
from ballonet.guest.awaited_state import AwaitedState
from ballonet.guest.channel import AgentChannel
from ballonet.guest.channel_stream import StreamAccount
from ballonet.guest.frames import MAX_PING_BYTES, Frame, FrameType
from ballonet.guest.guest_process import GuestProcess, start_process
from ballonet.guest.messages import ExitStatus, Ready, TrimFlags
from ballonet.guest.report import GuestReport, parse_report

__all__ = ["AgentClient", "ExitStatus", "GuestProcess", "GuestReport", "Ready", "TrimFlags"]

log = logging.getLogger(__name__)

_ANSWER_S = 10.0
#: The agent ends a trim after 30 s.
_TRIM_S = 60.0
#: The kernel sends at most one report per window. More than this many at once, and then two per window, is a flood.
_PRESSURE_BURST = 32


class _PressureWatch:
    """Passes pressure reports on, and detects a guest that sends more than its kernel can cause."""

    def __init__(self, window_us: int, callback: Callable[[GuestReport], None]) -> None:
        self._callback = callback
        self._per_second = 2e6 / max(window_us, 1)
        self._allowed = float(_PRESSURE_BURST)
        self._last = time.monotonic()

    def on_frame(self, frame: Frame) -> None:
        now = time.monotonic()
        self._allowed = min(_PRESSURE_BURST, self._allowed + (now - self._last) * self._per_second) - 1
        self._last = now
        if self._allowed < 0:
            raise GuestChannelError("the guest floods the channel with pressure reports")
        try:
            self._callback(parse_report(frame.payload))
        except Exception:
            log.exception("a pressure callback failed")


class AgentClient:
    """A client of the agent. Call :meth:`wait_ready` first, and other methods when it has returned.

    Once the channel has ended, every call raises :class:`GuestChannelError`, including calls that are waiting.
    Needs a running event loop.

    :param stream: a connected Unix stream socket, or the reader of an open stream. The client takes ownership of it.
    :param writer: the writer of the stream, if ``stream`` is a reader.
    """

    def __init__(
        self, stream: socket.socket | asyncio.StreamReader, writer: asyncio.StreamWriter | None = None
    ) -> None:
        if isinstance(stream, socket.socket):
            self._channel = AgentChannel(stream)
        else:
            assert writer is not None, "a reader needs its writer"
            self._channel = AgentChannel((stream, writer))

    @classmethod
    async def connect(cls, path: str | os.PathLike[str]) -> Self:
        """Connect to a Unix socket: that of the guest's port in the engine, or a relay's.

        :raises GuestChannelError: the connection failed.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(path))
        except OSError as error:
            raise channel_errors.no_connection(os.fspath(path), error) from error
        keep_from_children(writer.transport)
        return cls(reader, writer)

    async def wait_ready(self, timeout_s: float | None = None) -> Ready:
        """Wait until the guest has booted, and return the READY message of its agent.

        :raises GuestBootError: it did not boot within ``timeout_s`` seconds.
        """
        return await self._channel.wait_ready(timeout_s)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        make_cwd: bool = False,
        tty: bool = False,
        rows: int = 24,
        cols: int = 80,
        stdin: bool = False,
        builtin: bool = False,
    ) -> GuestProcess:
        """Start a process in the guest, and return when it is running.

        If this call is cancelled, the process is killed. After it has returned, leaving ``async with`` or dropping
        the process kills it.

        :param env: its environment variables. ``PATH`` and ``HOME`` are set by default.
        :param cwd: its working directory; ``None`` is ``/``.
        :param user: ``USER[:GROUP]``, as names or numeric IDs that the guest resolves; ``None`` is root.
        :param make_cwd: create the working directory if it does not exist.
        :param tty: allocate a terminal of ``rows`` by ``cols``. All output is then standard output.
        :param stdin: whether :meth:`GuestProcess.write_stdin` will be used; otherwise standard input is ``/dev/null``.
        :param builtin: ``argv`` names one of the agent's file programs (``docs/agent.md``).
        :raises ConfigError: the arguments are invalid (see :class:`~ballonet.guest.messages.Exec`).
        :raises GuestCommandError: the guest could not start it. ``errno`` has the reason.
        """
        request = messages.Exec(
            argv=argv,
            env={**messages.DEFAULT_ENVIRONMENT, **(env or {})},
            cwd=cwd or "",
            user=user or "",
            make_cwd=make_cwd,
            tty=tty,
            stdin=stdin,
            builtin=builtin,
            rows=rows,
            columns=cols,
        )
        payload = request.encode()
        state = AwaitedState()
        stream = await self._channel.open_stream(payload, messages.ExecShape(tty, stdin), state)
        return await start_process(state, stream, argv[0])

    async def set_up(self, steps: Sequence[Sequence[str]], *, timeout_s: float) -> None:
        """Set up the guest's root, mounts and network, before any process runs: see
        :mod:`ballonet.machine.guest_setup`.

        :raises GuestError: a step failed, and the message says which and why; or there was no reply in time.
        """
        payload = messages.encode_setup(steps)
        frame = await self._channel.request(FrameType.SETUP, payload, FrameType.SETUP_DONE, timeout_s)
        failure = messages.decode_error(frame)
        if failure.errno != 0:
            raise GuestError(
                f"the setup of the guest failed: {failure.text}",
                hint="check the image, the disk or the volume that this step mounts",
            )
        if failure.text:
            log.warning("the guest runs without a part of its setup: %s", failure.text)

    async def stats(self, *, timeout_s: float = _ANSWER_S) -> GuestReport:
        """The guest's memory statistics.

        :raises GuestError: no reply in time.
        """
        frame = await self._channel.request(FrameType.STATS_REQ, b"", FrameType.STATS, timeout_s)
        return parse_report(frame.payload)

    async def watch_pressure(
        self,
        stall_us: int,
        window_us: int,
        callback: Callable[[GuestReport], None],
        *,
        timeout_s: float = _ANSWER_S,
    ) -> None:
        """Call ``callback`` whenever tasks of the guest were stalled on memory for ``stall_us`` within ``window_us``
        (microseconds). Replaces an earlier watch.

        The guest's kernel triggers it; nothing is polled. Kernels accept windows from 500 ms to 10 s.

        :raises GuestError: the guest's kernel refused, or no reply in time.
        """
        payload = messages.encode_watch(stall_us, window_us)
        self._channel.on_pressure = _PressureWatch(window_us, callback).on_frame
        await self._set_watch(payload, timeout_s, f"{stall_us} µs in {window_us} µs")

    async def stop_watching_pressure(self, *, timeout_s: float = _ANSWER_S) -> None:
        """End the watch. ``callback`` may still be called until this returns."""
        await self._set_watch(messages.encode_watch(0, 0), timeout_s, "none")
        self._channel.on_pressure = None

    async def trim(
        self, size_bytes: int = 0, flags: TrimFlags = TrimFlags.DROP_CACHES, *, timeout_s: float = _TRIM_S
    ) -> tuple[GuestReport, int]:
        """Make the guest release memory: reclaim ``size_bytes`` if its kernel can, otherwise (and with ``DROP_CACHES``)
        drop its caches. Only one trim may run at a time.

        :returns: the statistics afterwards, and the errno of the first step that failed (0: none; EAGAIN: less could
            be reclaimed; ETIMEDOUT: it was ended after 30 s, a gentle one after 8 s; EBUSY: a gentle one ended because
            the guest went to work).
        :raises GuestError: a trim is running, or no reply in time.
        """
        payload = messages.encode_trim(size_bytes, flags)
        frame = await self._channel.request(FrameType.TRIM, payload, FrameType.TRIM_DONE, timeout_s)
        number, text = messages.split_trim_done(frame)
        return parse_report(text), number

    async def ping(self, payload: bytes = b"", *, timeout_s: float = _ANSWER_S) -> None:
        """Check that the agent responds.

        :param payload: at most 1024 bytes, which the agent sends back.
        :raises GuestError: no reply in time.
        :raises GuestChannelError: the reply has a different payload.
        """
        if len(payload) > MAX_PING_BYTES:
            raise ConfigError(f"a ping payload of {len(payload)} bytes exceeds the limit of {MAX_PING_BYTES}")
        frame = await self._channel.request(FrameType.PING, payload, FrameType.PONG, timeout_s)
        if frame.payload != payload:
            error = GuestChannelError("the guest answered a ping with other bytes than were sent")
            self._channel.fail(error)
            raise error

    async def shutdown(self) -> None:
        """Tell the guest to kill all processes and power off. Does not wait for it (see :meth:`wait_lost`)."""
        self._channel.send_now(Frame(FrameType.SHUTDOWN, 0))

    async def suspend(self, *, timeout_s: float) -> None:
        """Have the agent fall silent before the guest is saved: see :meth:`AgentChannel.suspend`."""
        await self._channel.suspend(timeout_s)

    def resume(self, *, restored: bool = False) -> None:
        """Let the agent continue: see :meth:`AgentChannel.resume`."""
        self._channel.resume(restored=restored)

    def adopt(self, account: StreamAccount) -> GuestProcess:
        """Continue a process of a restored guest, before :meth:`resume`. It has no standard input."""
        state = AwaitedState()
        state.pid = account.pid
        return GuestProcess(state, self._channel.adopt(account, state))

    async def manage(self, do: str, *, timeout_s: float | None = None, **arguments: object) -> dict[str, Any]:
        """Ask the sandbox's process to do something. Only on a relay's socket.

        :raises BallonetError: it was not done, and why.
        """
        payload = manage.encode_request(do, arguments)
        reply = await self._channel.request(FrameType.MANAGE, payload, FrameType.MANAGED, timeout_s)
        return manage.decode_reply(reply.payload)

    @property
    def lost(self) -> GuestChannelError | None:
        """Why the channel has ended; ``None`` while it is open."""
        return self._channel.lost

    async def wait_lost(self) -> GuestChannelError:
        """Wait until the channel has ended, and return the reason."""
        return await self._channel.wait_lost()

    async def close(self) -> None:
        """End the channel. If it is the guest's own channel, the guest powers off after a grace period."""
        await self._channel.close()

    def drop(self) -> None:
        """Close the channel once the processes that this client started have ended. For a client that is deleted
        without :meth:`close`: asyncio would otherwise warn about a destroyed task."""
        self._channel.close_when_idle()

    async def _set_watch(self, payload: bytes, timeout_s: float, what: str) -> None:
        frame = await self._channel.request(FrameType.WATCH_PRESSURE, payload, FrameType.WATCHING, timeout_s)
        number = messages.decode_number(frame)
        if number != 0:
            self._channel.on_pressure = None
            raise GuestError(
                f"the guest cannot watch memory pressure ({what}): {os.strerror(number & 0xFFFF)}",
                hint="its kernel needs PSI, and a window between 500000 and 10000000 µs",
            )
