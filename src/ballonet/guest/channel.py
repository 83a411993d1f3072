"""The channel to a guest's agent: the demultiplexer that the client and the relay share.

Owns the byte stream, enforces the protocol in both directions, and matches replies to requests. If the guest breaks the
protocol, the channel ends; everything that waits then gets :class:`GuestChannelError`. ``channel_stream.py`` has the
accounts of a single process; ``agent_client.py`` and ``relay.py`` use its output.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from collections.abc import Callable

from ballonet.base.errors import GuestBootError, GuestChannelError, GuestCommandError, GuestError
from ballonet.guest import channel_errors, manage, messages
from ballonet.guest.channel_stream import ChannelStream, StreamAccount, StreamOwner
from ballonet.guest.frames import (
    FROM_GUEST,
    MAX_PROCESSES,
    MAX_STREAM,
    MAX_TO_GUEST_BYTES,
    MAX_TO_HOST_BYTES,
    MAX_UNSENT_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)

log = logging.getLogger(__name__)

#: Unanswered requests of one kind, including those whose caller no longer waits.
_MAX_REQUESTS = 1024
_READ_BYTES = 64 << 10


class AgentChannel:
    """A byte stream to an agent (or to a relay), and its demultiplexer. Needs a running event loop.

    :param stream: a connected stream socket or an open stream. The channel takes ownership of it.
    """

    def __init__(self, stream: socket.socket | tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        #: Why the channel has ended, or ``None`` while it is open.
        self.lost: GuestChannelError | None = None
        #: The guest's READY message, once it has arrived.
        self.ready: messages.Ready | None = None
        #: Called with each PRESSURE frame. While it is ``None``, such a frame breaks the protocol.
        self.on_pressure: Callable[[Frame], None] | None = None
        self._close_at_idle = False
        self._stream = stream
        self._writer: asyncio.StreamWriter | None = None if isinstance(stream, socket.socket) else stream[1]
        self._decoder = FrameDecoder(FROM_GUEST, MAX_TO_HOST_BYTES)
        self._streams: dict[int, ChannelStream] = {}
        #: The number of the last stream that was opened.
        self.last_number = 0
        self._replies: dict[FrameType, deque[asyncio.Future[Frame]]] = {
            FrameType.PONG: deque(),
            FrameType.STATS: deque(),
            FrameType.TRIM_DONE: deque(),
            FrameType.WATCHING: deque(),
            FrameType.SETUP_DONE: deque(),
            FrameType.SUSPENDED: deque(),
            FrameType.MANAGED: deque(),
        }
        self._ready_or_lost = asyncio.Event()
        self._lost_callbacks: set[Callable[[], None]] = set()
        self._sending = asyncio.Lock()
        self._sending_exec = asyncio.Lock()
        #: While the guest is suspended: the small frames that wait. Others wait for the locks.
        self._held: list[Frame] | None = None
        self._task = asyncio.get_running_loop().create_task(self._read(), name="agent channel")

    async def wait_ready(self, timeout_s: float | None) -> messages.Ready:
        """Wait for the guest's READY message.

        :raises GuestBootError: it did not arrive within ``timeout_s`` seconds.
        :raises GuestChannelError: the channel ended instead.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready_or_lost.wait()
        except TimeoutError:
            raise GuestBootError(
                f"the guest's agent did not respond within {timeout_s:g} s", hint="check the guest's console"
            ) from None
        if self.ready is None:
            raise self._lost_error()
        return self.ready

    async def open_stream(
        self, payload: bytes, shape: messages.ExecShape, owner: StreamOwner
    ) -> ChannelStream:
        """Send EXEC. ``owner`` learns whether the process starts.

        If the caller is cancelled before EXEC was written, it is not sent.

        :raises GuestCommandError: too many processes are running.
        """
        if len(self._streams) >= MAX_PROCESSES:
            raise GuestCommandError(
                f"{len(self._streams)} processes are running in the guest; the limit is {MAX_PROCESSES}",
                errno=errno.EAGAIN,
                hint="wait for some of them to end",
            )
        number = self._free_number()
        stream = ChannelStream(self, number, shape, owner)
        self._streams[number] = stream
        try:
            await self._send_exec(number, payload)
        except BaseException:
            self._streams.pop(number, None)
            raise
        return stream

    async def request(
        self, kind: FrameType, payload: bytes, reply: FrameType, timeout_s: float | None
    ) -> Frame:
        """Send a request about the whole machine and wait for the reply.

        :raises GuestError: no reply within ``timeout_s`` seconds, or too many such requests are unanswered.
        :raises GuestChannelError: the channel ended.
        """
        waiting = self._replies[reply]
        if len(waiting) >= (1 if kind == FrameType.TRIM else _MAX_REQUESTS):
            raise GuestError(
                f"too many unanswered {kind.name} requests to the guest ({len(waiting)})",
                hint="wait, then try again",
            )
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        # Written without waiting, so that futures and requests are in the same order.
        self.send_now(Frame(kind, 0, payload))
        waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise GuestError(
                f"the guest did not answer {kind.name} within {timeout_s:g} s",
                hint="it may be paused, or short of memory",
            ) from None

    async def send(self, frame: Frame, before: Callable[[], bool] | None = None) -> None:
        """Send a frame after those that wait, when the guest has taken most of what was sent before.

        :param before: called just before the frame is written; false: the frame is no longer needed.
        """
        async with self._sending:
            writer = self._live_writer()
            try:
                await writer.drain()
            except OSError as error:
                self._lose(channel_errors.broken(error))
            self._live_writer()
            if before is None or before():
                writer.write(frame.encode())

    async def _send_exec(self, number: int, payload: bytes) -> None:
        """Send EXEC, in parts if it is longer than a frame. The agent accepts parts of one stream at a time."""
        async with self._sending_exec:
            while len(payload) > MAX_TO_GUEST_BYTES:
                part, payload = payload[:MAX_TO_GUEST_BYTES], payload[MAX_TO_GUEST_BYTES:]
                await self.send(Frame(FrameType.EXEC_PART, number, part))
            await self.send(Frame(FrameType.EXEC, number, payload))

    def send_now(self, frame: Frame) -> None:
        """Send a small frame without waiting.

        :raises GuestChannelError: the channel has ended. It ends if the guest does not read such frames.
        """
        writer = self._live_writer()
        if self._held is not None:
            self._held.append(frame)
            return
        writer.write(frame.encode())
        unsent = writer.transport.get_write_buffer_size()
        if unsent > MAX_UNSENT_BYTES:
            self._lose(channel_errors.not_reading(unsent))
            raise self._lost_error()

    @property
    def streams(self) -> int:
        """The number of processes that are running."""
        return len(self._streams)

    async def suspend(self, timeout_s: float) -> None:
        """Have the agent send nothing more, and send nothing more to it: on return, nothing is under way in either
        direction. Calls wait until :meth:`resume`, which must follow, also if this fails, unless the guest ends.

        :raises GuestError: the agent did not answer in time.
        """
        assert self._held is None, "the guest is suspended already"
        try:
            async with asyncio.timeout(timeout_s):
                await self._sending_exec.acquire()
                try:
                    await self._sending.acquire()
                except BaseException:
                    self._sending_exec.release()
                    raise
                waiting: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
                self._replies[FrameType.SUSPENDED].append(waiting)
                self._live_writer()
                self.send_now(Frame(FrameType.SUSPEND, 0))
                self._held = []
                await waiting
        except TimeoutError:
            raise GuestError(f"the guest did not fall silent within {timeout_s:g} s") from None

    def resume(self, *, restored: bool = False) -> None:
        """Let the agent continue. It ends the processes of all streams that this channel does not have.

        Does nothing if the guest was not suspended by :meth:`suspend`, unless it was ``restored``.
        """
        if self._held is None and not restored:
            return
        held, self._held = self._held, None
        try:
            self.send_now(Frame(FrameType.RESUME, 0, b"".join(map(messages.encode_number, self._streams))))
            for frame in held or ():
                self.send_now(frame)
            for stream in self._streams.values():
                stream.grant()
        finally:
            if held is not None:
                self._sending.release()
                self._sending_exec.release()

    def held_credit(self, number: int) -> int:
        """Bytes of credit for a stream that wait because the guest is suspended."""
        held = (
            frame for frame in self._held or () if (frame.kind, frame.stream) == (FrameType.CREDIT, number)
        )
        return sum(map(messages.decode_number, held))

    def adopt(self, account: StreamAccount, owner: StreamOwner) -> ChannelStream:
        """Continue a stream of a restored guest, before :meth:`resume`."""
        stream = ChannelStream(self, account.number, messages.ExecShape(tty=False, stdin=False), owner)
        stream.restore(account)
        self._streams[account.number] = stream
        return stream

    def call_when_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` once when the channel ends (immediately if it has ended). Returns a function that cancels
        this."""
        if self.lost is not None:
            callback()
            return lambda: None
        self._lost_callbacks.add(callback)
        return lambda: self._lost_callbacks.discard(callback)

    async def wait_lost(self) -> GuestChannelError:
        """Wait until the channel has ended, and return the reason."""
        # The reader ends exactly then, and without an exception of its own.
        await asyncio.wait([self._task])
        return self._lost_error()

    def fail(self, error: GuestChannelError) -> None:
        """End the channel because the guest broke the protocol in a way that only the caller can detect."""
        self._lose(error)

    def close_when_idle(self) -> None:
        """End the channel once none of its processes is running. Nobody may use it any more."""
        self._close_at_idle = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._close_at_idle and not self._streams:
            self._lose(_closed())
            self._task.cancel()

    async def close(self) -> None:
        """End the channel. The guest kills its processes; calls that wait raise GuestChannelError."""
        self._lose(_closed())
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            reader = await self._open()
            while self.lost is None:
                data = await reader.read(_READ_BYTES)
                if not data:
                    self._decoder.finish()
                    raise channel_errors.closed_by_guest()
                for frame in self._decoder.feed(data):
                    self._dispatch(frame)
                    if self.lost is not None:
                        return
        except GuestChannelError as error:
            self._lose(error)
        except OSError as error:
            self._lose(channel_errors.broken(error))
        except asyncio.CancelledError:
            self._lose(_closed())
            raise
        except Exception as error:
            log.exception("the agent channel failed")
            self._lose(GuestChannelError(f"the channel to the guest failed: {error!r}"))

    async def _open(self) -> asyncio.StreamReader:
        if not isinstance(self._stream, socket.socket):
            return self._stream[0]
        self._stream.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._stream)
        return reader

    def _dispatch(self, frame: Frame) -> None:
        if self.ready is None:
            if frame.kind != FrameType.READY or frame.stream != 0:
                raise channel_errors.not_ready_first(frame)
            self.ready = messages.decode_ready(frame)
            self._ready_or_lost.set()
        elif frame.stream == 0:
            self._dispatch_connection(frame)
        else:
            stream = self._streams.get(frame.stream)
            if stream is None:
                raise channel_errors.unknown_stream(frame)
            stream.feed(frame)
            if stream.ended:
                self._streams.pop(frame.stream, None)
                self._close_if_idle()

    def _dispatch_connection(self, frame: Frame) -> None:
        if frame.kind == FrameType.PRESSURE and self.on_pressure is not None:
            self.on_pressure(frame)
            return
        if frame.kind == FrameType.PAUSED:
            raise manage.decode_paused(frame.payload)
        waiting = self._replies.get(frame.kind)
        if not waiting:
            raise channel_errors.without_request(frame)
        future = waiting.popleft()
        if not future.done():
            future.set_result(frame)

    def _free_number(self) -> int:
        while True:
            self.last_number = self.last_number % MAX_STREAM + 1
            if self.last_number not in self._streams:
                return self.last_number

    def _live_writer(self) -> asyncio.StreamWriter:
        if self.lost is not None:
            raise self._lost_error()
        if self._writer is None:
            raise GuestChannelError("the guest is not ready for requests")
        return self._writer

    def _lost_error(self) -> GuestChannelError:
        # A new exception for each caller: a shared one would collect all their tracebacks.
        assert self.lost is not None
        return type(self.lost)(self.lost.message, hint=self.lost.hint)

    def _lose(self, error: GuestChannelError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        log.debug("the agent channel has ended: %s", error)
        self._ready_or_lost.set()
        for waiting in self._replies.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(self._lost_error())
            waiting.clear()
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.lose(self._lost_error())
        # Not close(), which waits until the guest has read what is unsent.
        if self._writer is not None:
            self._writer.transport.abort()
        elif isinstance(self._stream, socket.socket):
            self._stream.close()
        for callback in tuple(self._lost_callbacks):
            callback()
        self._lost_callbacks.clear()


def _closed() -> GuestChannelError:
    return GuestChannelError("the channel to the guest was closed on this side")
