"""What a program asks of a guest's agent: run commands, read statistics, watch pressure, trim, shut down.

The same over the guest's own channel (in the sandbox's process) and over a relay's socket (anywhere else); a relay
allows processes and ``ping`` only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from ballonet.base.errors import ConfigError, GuestChannelError, GuestError
from ballonet.base.forked import keep_from_children
from ballonet.guest import messages
from ballonet.guest.channel import AgentChannel
from ballonet.guest.frames import MAX_PING_BYTES, Frame, FrameType
from ballonet.guest.guest_process import GuestProcess, ProcessState, start_process
from ballonet.guest.messages import ExitStatus, Ready, TrimFlags
from ballonet.guest.report import GuestReport, parse_report

__all__ = ["AgentClient", "ExitStatus", "GuestProcess", "GuestReport", "Ready", "TrimFlags"]

log = logging.getLogger(__name__)

#: What every command gets unless its caller says otherwise.
DEFAULT_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_ANSWER_S = 10.0
#: The agent ends a trim after 30 s by itself.
_TRIM_S = 60.0
#: The kernel fires at most once a window. More than this many at once, and then two a window, is a flood.
_PRESSURE_BURST = 32


class _PressureWatch:
    """Passes pressure reports on, and notices a guest that sends more than its kernel can cause."""

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
    """Speaks with the agent. Nothing but :meth:`wait_ready` may be called before that has returned once.

    Every call raises :class:`GuestChannelError` once the channel has ended, those that wait then included.
    Needs a running event loop.

    :param stream: a connected Unix stream socket, or the reader of an open stream.
    :param writer: the stream's writer, with a reader. Either way the client owns the stream from now on.
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
        """A client on a Unix socket: the engine's end of the guest's port, or a relay's.

        :raises GuestChannelError: nobody listens there.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(path))
        except OSError as error:
            raise GuestChannelError(
                f"cannot reach the guest's agent at {os.fspath(path)}: {error.strerror}"
            ) from error
        keep_from_children(writer.transport)
        return cls(reader, writer)

    async def wait_ready(self, timeout_s: float | None = None) -> Ready:
        """Wait until the guest has booted, and return what its agent says of it.

        :raises GuestBootError: it did not within ``timeout_s`` seconds.
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
        """Start a process in the guest and return once it runs.

        A caller that is cancelled here leaves nothing running. Later, leaving ``async with`` or dropping the
        process kills it.

        :param env: its environment, with a plain ``PATH`` if that has none, and its user's ``HOME``.
        :param cwd: its working directory; ``None`` is ``/``.
        :param user: ``USER[:GROUP]``, names or numbers, which the guest looks up in its own files; ``None`` is root.
        :param make_cwd: make the working directory if it is not there.
        :param tty: give it a terminal of ``rows`` by ``cols``; its output then comes as standard output.
        :param stdin: whether :meth:`GuestProcess.write_stdin` will be used; otherwise it reads ``/dev/null``.
        :param builtin: ``argv`` names one of the agent's own file programs (``docs/agent.md``).
        :raises ConfigError: no process can be started like that (see :class:`~ballonet.guest.messages.Exec`).
        :raises GuestCommandError: the guest could not start it; ``errno`` says why.
        """
        request = messages.Exec(
            argv=argv,
            env={**DEFAULT_ENVIRONMENT, **(env or {})},
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
        state = ProcessState()
        stream = await self._channel.open_stream(payload, messages.ExecShape(tty, stdin), state)
        return await start_process(state, stream, argv[0])

    async def set_up(self, steps: Sequence[Sequence[str]], *, timeout_s: float) -> None:
        """Make the guest what it is to be, before anything runs in it: see :mod:`ballonet.machine.guest_setup`.

        :raises GuestError: a step failed, with which and why; or no answer in time.
        """
        payload = messages.encode_setup(steps)
        frame = await self._channel.request(FrameType.SETUP, payload, FrameType.SETUP_DONE, timeout_s)
        failure = messages.decode_error(frame)
        if failure.errno != 0:
            raise GuestError(f"the guest could not be set up: {failure.text}")

    async def stats(self, *, timeout_s: float = _ANSWER_S) -> GuestReport:
        """The guest's own accounts of its memory, now.

        :raises GuestError: no answer in time.
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
        """Have ``callback`` called when tasks of the guest were stalled on memory for ``stall_us`` within
        ``window_us`` (microseconds). Replaces the watch before.

        The guest's kernel decides; nothing is polled. Kernels accept windows from 500 ms to 10 s.

        :raises GuestError: the guest's kernel refused, or no answer in time.
        """
        payload = messages.encode_watch(stall_us, window_us)
        self._channel.on_pressure = _PressureWatch(window_us, callback).on_frame
        await self._set_watch(payload, timeout_s, f"{stall_us} µs in {window_us} µs")

    async def stop_watching_pressure(self, *, timeout_s: float = _ANSWER_S) -> None:
        """End the watch. Reports that are under way may still be told until this returns."""
        await self._set_watch(messages.encode_watch(0, 0), timeout_s, "none")
        self._channel.on_pressure = None

    async def trim(
        self, size_bytes: int = 0, flags: TrimFlags = TrimFlags.DROP_CACHES, *, timeout_s: float = _TRIM_S
    ) -> tuple[GuestReport, int]:
        """Have the guest give memory back: reclaim ``size_bytes`` where its kernel can, otherwise (and with
        ``DROP_CACHES``) drop its caches. One at a time.

        :returns: the accounts afterwards, and the errno of the first step that failed (0: none; EAGAIN: there was
            less to reclaim; ETIMEDOUT: it took longer than 30 s and was ended).
        :raises GuestError: one is running already, or no answer in time.
        """
        payload = messages.encode_trim(size_bytes, flags)
        frame = await self._channel.request(FrameType.TRIM, payload, FrameType.TRIM_DONE, timeout_s)
        number, text = messages.split_trim_done(frame)
        return parse_report(text), number

    async def ping(self, payload: bytes = b"", *, timeout_s: float = _ANSWER_S) -> None:
        """Make sure that the agent answers.

        :param payload: at most 1024 bytes to be sent back.
        :raises GuestError: no answer in time.
        :raises GuestChannelError: the answer is a different one.
        """
        if len(payload) > MAX_PING_BYTES:
            raise ConfigError(f"a ping of {len(payload)} bytes; at most {MAX_PING_BYTES} are allowed")
        frame = await self._channel.request(FrameType.PING, payload, FrameType.PONG, timeout_s)
        if frame.payload != payload:
            error = GuestChannelError("the guest answered a ping with other bytes than it got")
            self._channel.fail(error)
            raise error

    async def shutdown(self) -> None:
        """Ask the guest to kill everything and power off, without waiting for it (see :meth:`wait_lost`)."""
        self._channel.send_now(Frame(FrameType.SHUTDOWN, 0))

    @property
    def lost(self) -> GuestChannelError | None:
        """Why the channel has ended; ``None`` while it lives."""
        return self._channel.lost

    async def wait_lost(self) -> GuestChannelError:
        """Wait until the channel has ended, and say why."""
        return await self._channel.wait_lost()

    async def close(self) -> None:
        """End the channel. On the guest's own channel this ends the guest, after a grace."""
        await self._channel.close()

    def drop(self) -> None:
        """Nobody holds this client any more: its channel ends once the processes that it has started have. Without
        that, asyncio would complain of a task that was destroyed."""
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
