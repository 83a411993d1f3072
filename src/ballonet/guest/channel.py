"""The channel to a guest's agent: the one demultiplexer, under both the client and the relay.

It owns the byte stream, enforces the protocol in both directions, and keeps every account that bounds memory:
what a stream may still send, what has been consumed, which replies are due. Whoever breaks the protocol on the
guest's side ends the channel; everything that waits then gets :class:`GuestChannelError`. It knows nothing of who
reads the output (see ``agent_client.py`` and ``relay.py``).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ballonet.base.errors import GuestBootError, GuestChannelError, GuestCommandError, GuestError
from ballonet.guest import messages
from ballonet.guest.frames import (
    FROM_GUEST,
    MAX_PROCESSES,
    MAX_STREAM,
    MAX_TO_GUEST_BYTES,
    MAX_TO_HOST_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)

log = logging.getLogger(__name__)

#: Consumed output is acknowledged in steps of this size: 16 bytes of credit per 64 KiB of output.
_GRANT_STEP_BYTES = WINDOW_BYTES // 4
#: Small frames do not wait for the guest to read. One that lets this much pile up is not reading at all.
_MAX_UNSENT_BYTES = 4 << 20
#: Requests of one kind that may be unanswered, those whose caller has given up included.
_MAX_REQUESTS = 1024
_READ_BYTES = 64 << 10


class StreamOwner(Protocol):
    """Who a stream's frames are for. Called from the channel's reader: must neither block nor raise."""

    def on_frame(self, frame: Frame) -> None:
        """A frame that the protocol allows now. The last one is EXIT or ERROR."""

    def on_lost(self, error: GuestChannelError) -> None:
        """The channel has ended; nothing more will come."""


class ChannelStream:
    """One process's stream: who may send what now, in both directions.

    Methods that send raise :class:`GuestChannelError` if the channel has ended, or if the owner asks for what the
    protocol does not allow (nothing is sent then, and the channel lives on). After the end they do nothing.
    """

    def __init__(
        self, channel: AgentChannel, number: int, shape: messages.ExecShape, owner: StreamOwner
    ) -> None:
        self.number = number
        self.ended = False
        #: Bytes of standard input that may be sent now.
        self.stdin_room = WINDOW_BYTES
        #: Whether the process was started with standard input.
        self.has_stdin = shape.stdin
        self._channel = channel
        self._shape = shape
        self._owner: StreamOwner | None = owner
        self._started = False
        self._stdin_open = shape.stdin
        self._unread = 0  # output given to the owner and not consumed yet
        self._ungranted = 0  # consumed, but the guest has not been told yet

    async def send_stdin(self, data: bytes) -> None:
        """Send up to ``stdin_room`` bytes of standard input; waits while the guest is slow to read."""
        self._check_stdin(len(data))
        await self._channel.send(Frame(FrameType.STDIN, self.number, data), lambda: self._spend(len(data)))

    async def end_stdin(self) -> None:
        """End standard input, after what was sent before."""
        self._check_stdin(0)
        await self._channel.send(Frame(FrameType.STDIN_EOF, self.number), self._close_stdin)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group (SIGKILL: to everything that the process started)."""
        if not 1 <= number <= 64:
            raise GuestChannelError(f"signal {number} is not between 1 and 64")
        if not self.ended:
            self._channel.send_now(Frame(FrameType.SIGNAL, self.number, messages.encode_number(number)))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size."""
        if not self._shape.tty:
            raise GuestChannelError("the process has no terminal to resize")
        if not self.ended:
            payload = messages.encode_resize(rows, columns)
            self._channel.send_now(Frame(FrameType.RESIZE, self.number, payload))

    def consumed(self, size: int) -> None:
        """The owner is done with ``size`` bytes of output: the process may write as many more."""
        if not 0 < size <= self._unread:
            raise GuestChannelError(f"credit for {size} bytes, but {self._unread} are not consumed yet")
        self._unread -= size
        self._ungranted += size
        if self._ungranted >= _GRANT_STEP_BYTES and not self.ended and self._channel.lost is None:
            payload = messages.encode_number(self._ungranted)
            self._ungranted = 0
            self._channel.send_now(Frame(FrameType.CREDIT, self.number, payload))

    def abandon(self) -> None:
        """Kill the process and all that it started; nobody wants its output any more. The number stays taken until
        the guest says EXIT."""
        self._owner = None
        if self.ended or self._channel.lost is not None:
            return
        log.debug("stream %d is abandoned: killing its process", self.number)
        try:
            self.send_signal(signal.SIGKILL)
            if self._unread:
                self.consumed(self._unread)
        except GuestChannelError as error:
            # The channel ended over it, and the guest's processes with it.
            log.debug("stream %d: %s", self.number, error)

    def feed(self, frame: Frame) -> None:
        """A frame from the guest (called by the channel).

        :raises GuestChannelError: it makes no sense now.
        """
        kind = frame.kind
        if kind in (FrameType.STDOUT, FrameType.STDERR):
            self._account_output(frame)
        elif kind == FrameType.STDIN_CREDIT:
            self._account_stdin(messages.decode_number(frame))
        elif kind == FrameType.STARTED and not self._started:
            messages.decode_number(frame)
            self._started = True
        elif kind == FrameType.EXIT and self._started:
            messages.decode_exit(frame)
            self.ended = True
        elif kind == FrameType.ERROR and not self._started:
            messages.decode_error(frame)
            self.ended = True
        else:
            raise GuestChannelError(f"{kind.name} frame out of turn on stream {self.number}")
        if self._owner is not None:
            self._owner.on_frame(frame)
        elif self._unread:
            self.consumed(self._unread)

    def lose(self, error: GuestChannelError) -> None:
        """The channel has ended (called by the channel)."""
        self.ended = True
        if self._owner is not None:
            self._owner.on_lost(error)

    def _account_output(self, frame: Frame) -> None:
        size = len(frame.payload)
        open_now = self._started and size > 0 and not (self._shape.tty and frame.kind == FrameType.STDERR)
        if not open_now:
            raise GuestChannelError(
                f"{frame.kind.name} frame of {size} bytes out of turn on stream {self.number}"
            )
        if self._unread + self._ungranted + size > WINDOW_BYTES:
            raise GuestChannelError(
                f"{frame.kind.name} frame of {size} bytes beyond what stream {self.number} may send"
            )
        self._unread += size

    def _account_stdin(self, granted: int) -> None:
        if granted == 0 or self.stdin_room + granted > WINDOW_BYTES or not self._shape.stdin:
            raise GuestChannelError(
                f"stream {self.number} grants {granted} bytes of input that were never sent"
            )
        self.stdin_room += granted

    def _check_stdin(self, size: int) -> None:
        if not self._stdin_open:
            raise GuestChannelError("the process's standard input is not open")
        if not self.ended and size > self.stdin_room:
            raise GuestChannelError(f"{size} bytes of standard input; {self.stdin_room} may be sent now")

    def _spend(self, size: int) -> bool:
        self.stdin_room -= size
        return not self.ended

    def _close_stdin(self) -> bool:
        self._stdin_open = False
        return not self.ended


class AgentChannel:
    """A byte stream to an agent (or to a relay) with its demultiplexer running. Needs a running event loop.

    :param stream: a connected stream socket or an open stream; the channel owns it from now on.
    """

    def __init__(self, stream: socket.socket | tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        #: Why the channel has ended, or ``None`` while it lives.
        self.lost: GuestChannelError | None = None
        #: The guest's first words, once it has said them.
        self.ready: messages.Ready | None = None
        #: Gets each PRESSURE frame; while it is ``None``, such a frame breaks the protocol.
        self.on_pressure: Callable[[Frame], None] | None = None
        self._unwanted = False
        self._stream = stream
        self._writer: asyncio.StreamWriter | None = None if isinstance(stream, socket.socket) else stream[1]
        self._decoder = FrameDecoder(FROM_GUEST, MAX_TO_HOST_BYTES)
        self._streams: dict[int, ChannelStream] = {}
        self._last_number = 0
        self._replies: dict[FrameType, deque[asyncio.Future[Frame]]] = {
            FrameType.PONG: deque(),
            FrameType.STATS: deque(),
            FrameType.TRIM_DONE: deque(),
            FrameType.WATCHING: deque(),
            FrameType.SETUP_DONE: deque(),
        }
        self._ready_or_lost = asyncio.Event()
        self._lost_callbacks: set[Callable[[], None]] = set()
        self._sending = asyncio.Lock()
        self._sending_exec = asyncio.Lock()
        self._task = asyncio.get_running_loop().create_task(self._read(), name="agent channel")

    async def wait_ready(self, timeout_s: float | None) -> messages.Ready:
        """Wait for the guest's first words.

        :raises GuestBootError: they did not come within ``timeout_s`` seconds.
        :raises GuestChannelError: the channel ended instead.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready_or_lost.wait()
        except TimeoutError:
            raise GuestBootError(
                f"the guest's agent did not report within {timeout_s:g} s", hint="look at the guest's console"
            ) from None
        if self.ready is None:
            raise self._lost_error()
        return self.ready

    async def open_stream(
        self, payload: bytes, shape: messages.ExecShape, owner: StreamOwner
    ) -> ChannelStream:
        """Send EXEC. Whether the process starts is for ``owner`` to hear.

        If the caller is cancelled before EXEC is on its way, it is never sent.

        :raises GuestCommandError: there are too many processes already.
        """
        if len(self._streams) >= MAX_PROCESSES:
            raise GuestCommandError(
                f"{len(self._streams)} processes are running in the guest already; at most {MAX_PROCESSES} can",
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
        """Ask something of the machine as a whole and wait for its reply.

        :raises GuestError: no reply within ``timeout_s`` seconds, or too many such requests unanswered.
        :raises GuestChannelError: the channel ended.
        """
        waiting = self._replies[reply]
        if len(waiting) >= (1 if kind == FrameType.TRIM else _MAX_REQUESTS):
            raise GuestError(
                f"{len(waiting)} {kind.name} requests are unanswered by the guest",
                hint="wait, then ask again",
            )
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        # Written at once, so that the order of the futures is the order of the requests.
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
        """Send a frame in turn with others, when the guest has taken most of what was sent before.

        :param before: called just before the frame goes out; false: it is not needed any more.
        """
        async with self._sending:
            writer = self._live_writer()
            try:
                await writer.drain()
            except OSError as error:
                self._lose(GuestChannelError(f"the channel to the guest broke: {error}"))
            self._live_writer()
            if before is None or before():
                writer.write(frame.encode())

    async def _send_exec(self, number: int, payload: bytes) -> None:
        """Send EXEC, in parts if it is longer than a frame; the agent takes them of one stream at a time."""
        async with self._sending_exec:
            while len(payload) > MAX_TO_GUEST_BYTES:
                part, payload = payload[:MAX_TO_GUEST_BYTES], payload[MAX_TO_GUEST_BYTES:]
                await self.send(Frame(FrameType.EXEC_PART, number, part))
            await self.send(Frame(FrameType.EXEC, number, payload))

    def send_now(self, frame: Frame) -> None:
        """Send a small frame without waiting.

        :raises GuestChannelError: the channel has ended; it does if the guest lets such frames pile up.
        """
        writer = self._live_writer()
        writer.write(frame.encode())
        unsent = writer.transport.get_write_buffer_size()
        if unsent > _MAX_UNSENT_BYTES:
            self._lose(GuestChannelError(f"the guest does not read: {unsent} bytes are waiting for it"))
            raise self._lost_error()

    def call_when_lost(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called once when the channel ends (at once if it has); returns how to take it back."""
        if self.lost is not None:
            callback()
            return lambda: None
        self._lost_callbacks.add(callback)
        return lambda: self._lost_callbacks.discard(callback)

    async def wait_lost(self) -> GuestChannelError:
        """Wait until the channel has ended, and say why."""
        # The reader ends exactly then, and never with an exception of its own.
        await asyncio.wait([self._task])
        return self._lost_error()

    def fail(self, error: GuestChannelError) -> None:
        """End the channel because the guest broke the protocol in a way that only the caller can see."""
        self._lose(error)

    def close_when_idle(self) -> None:
        """End the channel once none of its processes runs: nobody will ask anything more of it."""
        self._unwanted = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._unwanted and not self._streams:
            self._lose(GuestChannelError("the channel to the guest was closed on this side"))
            self._task.cancel()

    async def close(self) -> None:
        """End the channel. The guest kills what runs; whoever still waits gets GuestChannelError."""
        self._lose(GuestChannelError("the channel to the guest was closed on this side"))
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            reader = await self._open()
            while self.lost is None:
                data = await reader.read(_READ_BYTES)
                if not data:
                    self._decoder.finish()
                    raise GuestChannelError(
                        "the guest closed the channel: it was shut down, or its engine ended"
                    )
                for frame in self._decoder.feed(data):
                    self._dispatch(frame)
                    if self.lost is not None:
                        return
        except GuestChannelError as error:
            self._lose(error)
        except OSError as error:
            self._lose(GuestChannelError(f"the channel to the guest broke: {error}"))
        except asyncio.CancelledError:
            self._lose(GuestChannelError("the channel to the guest was closed on this side"))
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
                raise GuestChannelError(f"the guest's first frame is {frame.kind.name}, not READY")
            self.ready = messages.decode_ready(frame)
            self._ready_or_lost.set()
        elif frame.stream == 0:
            self._dispatch_connection(frame)
        else:
            stream = self._streams.get(frame.stream)
            if stream is None:
                raise GuestChannelError(
                    f"{frame.kind.name} frame on stream {frame.stream}, which does not exist"
                )
            stream.feed(frame)
            if stream.ended:
                self._streams.pop(frame.stream, None)
                self._close_if_idle()

    def _dispatch_connection(self, frame: Frame) -> None:
        if frame.kind == FrameType.PRESSURE and self.on_pressure is not None:
            self.on_pressure(frame)
            return
        waiting = self._replies.get(frame.kind)
        if not waiting:
            raise GuestChannelError(f"{frame.kind.name} frame that nobody asked for")
        future = waiting.popleft()
        if not future.done():
            future.set_result(frame)

    def _free_number(self) -> int:
        while True:
            self._last_number = self._last_number % MAX_STREAM + 1
            if self._last_number not in self._streams:
                return self._last_number

    def _live_writer(self) -> asyncio.StreamWriter:
        if self.lost is not None:
            raise self._lost_error()
        if self._writer is None:
            raise GuestChannelError("nothing can be asked of the guest before it is ready")
        return self._writer

    def _lost_error(self) -> GuestChannelError:
        # A new one for each who waits: a shared exception would collect all their tracebacks.
        assert self.lost is not None
        return GuestChannelError(self.lost.message, hint=self.lost.hint)

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
        # Not close(): it would wait for a guest that may never read what is left.
        if self._writer is not None:
            self._writer.transport.abort()
        elif isinstance(self._stream, socket.socket):
            self._stream.close()
        for callback in tuple(self._lost_callbacks):
            callback()
        self._lost_callbacks.clear()
