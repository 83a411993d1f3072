"""The relay: shares the channel to a guest's agent among local clients.

Local clients use the frames of the channel, limited to processes and PING, with stream numbers of their own. The
channel does all accounting; the relay translates stream numbers, and makes sure that a client that disconnects or
breaks the protocol ends only its own processes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ballonet.base.errors import (
    BallonetError,
    GuestChannelError,
    GuestCommandError,
    GuestError,
    GuestPausedError,
)
from ballonet.guest import manage, messages
from ballonet.guest.agent_client import AgentClient
from ballonet.guest.channel import AgentChannel
from ballonet.guest.channel_stream import ChannelStream
from ballonet.guest.frames import (
    FROM_LOCAL_CLIENT,
    MAX_EXEC_BYTES,
    MAX_PING_BYTES,
    MAX_TO_GUEST_BYTES,
    WINDOW_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)

log = logging.getLogger(__name__)

_READ_BYTES = 64 << 10
#: Unread bytes that a client may have beyond the windows of its processes: replies, starts and ends.
_MAX_UNREAD_SMALL_BYTES = 1 << 20
#: How long the rest of a connection that is closed may take to be sent, in seconds.
_CLOSE_S = 5.0


class AgentRelay(AgentClient):
    """A client of the agent that also serves connections of local clients on its channel."""

    #: Carries out a request to the sandbox's process (MANAGE): its name and its arguments.
    manager: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]] | None = None
    #: Why no client is served any more.
    paused: GuestPausedError | None = None
    _connections: set[_Connection]

    def __init__(self, stream: socket.socket) -> None:
        super().__init__(stream)
        self._connections = set()

    @property
    def processes(self) -> int:
        """How many processes are running that the host has started."""
        return self._channel.streams

    @property
    def opened(self) -> int:
        """Changes whenever a process is started."""
        return self._channel.last_number

    def dismiss(self, why: GuestPausedError) -> None:
        """Disconnect the clients, which ends their processes, and refuse new ones until :attr:`paused` is unset again.
        Clients whose request to the sandbox's process is being carried out stay."""
        self.paused = why
        for connection in tuple(self._connections):
            connection.dismiss(why)

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one local client until it disconnects or breaks the protocol, or the guest's channel ends.

        On return, and when cancelled, the connection is closed and the client's processes are killed. Can be the
        callback of :func:`asyncio.start_unix_server`.
        """
        connection = _Connection(self, self._channel, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)


class _RelayedProcess:
    """Passes the frames of one stream to the client, with the client's number."""

    def __init__(self, connection: _Connection, number: int) -> None:
        self._connection = connection
        self._number = number

    def on_frame(self, frame: Frame) -> None:
        if frame.kind in (FrameType.EXIT, FrameType.ERROR):
            self._connection.forget(self._number)
        self._connection.write(Frame(frame.kind, self._number, frame.payload))

    def on_lost(self, error: GuestChannelError) -> None:
        # The channel notifies the connection itself.
        self._connection.forget(self._number)


class _Connection:
    """One local client."""

    def __init__(
        self,
        relay: AgentRelay,
        channel: AgentChannel,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._relay = relay
        self._managing = self._ending = False
        self._channel = channel
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder(FROM_LOCAL_CLIENT, MAX_TO_GUEST_BYTES)
        #: ``None``: EXEC is being sent to the guest.
        self._streams: dict[int, ChannelStream | None] = {}
        #: An EXEC of several frames: its stream (0: none) and the parts that have arrived.
        self._parts_of = 0
        self._parts = bytearray()
        self._closed = False

    async def serve(self) -> None:
        unsubscribe = self._channel.call_when_lost(self._end_soon)
        try:
            ready = await self._channel.wait_ready(None)
            self.write(Frame(FrameType.READY, 0, messages.encode_ready(ready)))
            if self._relay.paused is not None:
                self.dismiss(self._relay.paused)
            while data := await self._reader.read(_READ_BYTES):
                for frame in self._decoder.feed(data):
                    await self._handle(frame)
        except GuestError as error:
            if self._channel.lost is None:
                log.warning("a client of the agent relay was disconnected: %s", error)
        except OSError as error:
            log.debug("a client of the agent relay failed: %s", error)
        finally:
            unsubscribe()
            self._closed = True
            for stream in list(self._streams.values()):
                if stream is not None:
                    stream.abandon()
            self._streams.clear()
            await self._close()

    def dismiss(self, why: GuestPausedError) -> None:
        """Tell the client why, and disconnect it, unless a request of it is being carried out."""
        if not self._managing:
            self.write(Frame(FrameType.PAUSED, 0, manage.encode_paused(why)))
            self._end_soon()

    def write(self, frame: Frame) -> None:
        """Send a frame to the client. A client with too many unread bytes is disconnected."""
        if self._closed:
            return
        self._writer.write(frame.encode())
        unread = self._writer.transport.get_write_buffer_size()
        if unread > (len(self._streams) + 1) * WINDOW_BYTES + _MAX_UNREAD_SMALL_BYTES:
            log.warning(
                "a client of the agent relay does not read and was disconnected: %d bytes unread", unread
            )
            self._closed = True
            self._writer.transport.abort()

    def forget(self, number: int) -> None:
        """The process has ended; the client may use its number again."""
        self._streams.pop(number, None)

    def _end_soon(self) -> None:
        """The guest is gone. What was written may still be sent, but not to a client that does not read. A client whose
        request to the sandbox's process is being carried out gets its reply first."""
        if self._managing:
            self._ending = True
            return
        self._writer.close()
        asyncio.get_running_loop().call_later(_CLOSE_S, self._writer.transport.abort)

    async def _handle(self, frame: Frame) -> None:
        if frame.kind == FrameType.PING:
            await self._ping(frame)
        elif frame.kind == FrameType.MANAGE:
            await self._manage(frame)
        elif frame.stream == 0:
            raise GuestChannelError(f"{frame.kind.name} frame on stream 0")
        elif frame.kind == FrameType.EXEC_PART:
            self._add_part(frame)
        elif frame.kind == FrameType.EXEC:
            await self._exec(frame)
        else:
            await self._pass_on(frame)

    async def _ping(self, frame: Frame) -> None:
        if frame.stream != 0 or len(frame.payload) > MAX_PING_BYTES:
            raise GuestChannelError(f"PING frame of {len(frame.payload)} bytes on stream {frame.stream}")
        # One at a time, and only for a client that reads, so that replies cannot accumulate.
        await self._writer.drain()
        await self._channel.request(FrameType.PING, frame.payload, FrameType.PONG, None)
        self.write(Frame(FrameType.PONG, 0, frame.payload))

    async def _manage(self, frame: Frame) -> None:
        """A request to the sandbox's process."""
        do, arguments = manage.decode_request(frame.payload)
        manager = self._relay.manager
        self._managing = True
        try:
            if manager is None:
                raise GuestError(
                    "the sandbox's process takes no requests", hint="try again when it has started"
                )
            reply = manage.encode_done(await manager(do, arguments))
        except BallonetError as error:
            reply = manage.encode_failed(error)
        finally:
            self._managing = False
        self.write(Frame(FrameType.MANAGED, 0, reply))
        if self._ending:
            self._end_soon()

    def _add_part(self, frame: Frame) -> None:
        """As in the agent, a part for another stream discards the earlier EXEC."""
        if frame.stream in self._streams:
            raise GuestChannelError(f"EXEC_PART frame on stream {frame.stream}, which is in use")
        if frame.stream != self._parts_of:
            self._parts_of, self._parts = frame.stream, bytearray()
        if not frame.payload or len(self._parts) + len(frame.payload) > MAX_EXEC_BYTES:
            raise GuestChannelError(
                f"EXEC_PART frame of {len(frame.payload)} bytes after {len(self._parts)}: "
                f"the limit of an EXEC is {MAX_EXEC_BYTES}"
            )
        self._parts += frame.payload

    def _whole_exec(self, frame: Frame) -> bytes:
        parts = self._parts if frame.stream == self._parts_of else b""
        self._parts_of, self._parts = 0, bytearray()
        if len(parts) + len(frame.payload) > MAX_EXEC_BYTES:
            raise GuestChannelError(
                f"EXEC of {len(parts) + len(frame.payload)} bytes exceeds the limit of {MAX_EXEC_BYTES}"
            )
        return bytes(parts) + frame.payload

    async def _exec(self, frame: Frame) -> None:
        number = frame.stream
        if number in self._streams:
            raise GuestChannelError(f"EXEC frame on stream {number}, which is in use")
        payload = self._whole_exec(frame)
        shape = messages.decode_exec(payload)
        # Only for a client that reads: each process adds to its unread bytes.
        await self._writer.drain()
        self._streams[number] = None
        try:
            stream = await self._channel.open_stream(payload, shape, _RelayedProcess(self, number))
        except GuestCommandError as error:
            self.forget(number)
            self.write(Frame(FrameType.ERROR, number, messages.encode_error(error.errno, error.message)))
            return
        self._streams[number] = stream

    async def _pass_on(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            # The stream has just ended.
            return
        match frame.kind:
            case FrameType.STDIN:
                if not frame.payload:
                    raise GuestChannelError("empty STDIN frame")
                await stream.send_stdin(frame.payload)
            case FrameType.STDIN_EOF:
                if frame.payload:
                    raise GuestChannelError("STDIN_EOF frame with a payload")
                await stream.end_stdin()
            case FrameType.SIGNAL:
                stream.send_signal(messages.decode_number(frame))
            case FrameType.RESIZE:
                stream.resize(*messages.decode_resize(frame))
            case FrameType.CREDIT:
                stream.consumed(messages.decode_number(frame))

    async def _close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                with suppress(OSError):
                    await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
