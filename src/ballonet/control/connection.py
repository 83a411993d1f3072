"""The connection of one client: reads lines, writes replies, enforces timeouts and limits on memory."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from ballonet.base.dataclass import dataclass
from ballonet.control import protocol
from ballonet.control.dispatch import Dispatcher, Watch
from ballonet.control.peers import Access, Peer
from ballonet.control.protocol import LINE_LIMIT, Refusal, Request

log = logging.getLogger(__name__)

#: Lines that are served before other connections get their turn.
_LINES_PER_TURN = 16

#: Bytes of replies that are buffered for a client; when the buffer is full, its requests are not served.
WRITE_BUFFER_BYTES = 16 * 1024

#: Bytes that are read and discarded after the last reply, so that a client that is still sending can read it.
_LINGER_BYTES = 4 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of the server, in seconds, bytes or connections."""

    line_s: float = 5
    """For a line: the first one counts from the connection, later ones from their first byte."""
    idle_s: float = 300
    """For a JSON-RPC connection without requests that does not watch."""
    write_s: float = 10
    """For a client to read buffered replies."""
    linger_s: float = 2
    """For a client to close after its last reply."""
    call_s: float = 30
    """For the sandbox to carry out one request."""
    per_user: int = 256
    total: int = 1024
    sweep_s: float = 0.5
    """How often timeouts are checked, and thus their precision."""
    check_socket_s: float = 2
    """How often the existence of the socket's file is checked."""


class Hub(Protocol):
    """The server, as connections see it."""

    dispatcher: Dispatcher
    limits: Limits
    scratch: memoryview
    loop: asyncio.AbstractEventLoop

    def remember(self, connection: Connection) -> None:
        """The connection has begun."""

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""


class Connection(asyncio.BufferedProtocol):
    """The server's end of one connection. Requests are served in order, one at a time.

    A request that was started is completed even if the client has disconnected; only waiting for a target is cancelled.
    """

    def __init__(self, hub: Hub, peer: Peer, access: Access) -> None:
        self.peer = peer
        self._hub = hub
        self._access = access
        self._transport: asyncio.Transport
        self._socket: socket.socket
        self._input = bytearray()
        self._json: bool | None = None
        self._opened = self._active = hub.loop.time()
        self._line_since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting = False
        self._watcher: asyncio.Task[None] | None = None
        self._reading = True
        self._turn_due = False
        self._blocked_since: float | None = None
        self._drained: asyncio.Future[None] | None = None
        self._eof = False
        self._ended_at: float | None = None
        self._lingered = 0

    # --- callbacks of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._socket = transport.get_extra_info("socket")
        self._hub.remember(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        # All connections share one buffer: its content is copied before another connection reads.
        return self._hub.scratch

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended_at is not None:
            self._lingered += nbytes
            if self._lingered > _LINGER_BYTES:
                self._transport.abort()
            return
        self._input += self._hub.scratch[:nbytes]
        self._advance()

    def eof_received(self) -> bool:
        self._eof = True
        if self._ended_at is not None:
            return False
        self._advance()
        return True

    def pause_writing(self) -> None:
        self._blocked_since = self._hub.loop.time()

    def resume_writing(self) -> None:
        self._blocked_since = None
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended_at = self._hub.loop.time()
        self._input.clear()
        self._give_up_waiting()
        self._hub.forget(self)

    # --- lines ---

    def _advance(self) -> None:
        """Serve the lines that can be served now, then decide whether to continue reading."""
        for _ in range(_LINES_PER_TURN):
            if self._stuck():
                break
            line = self._take_line()
            if line is None:
                break
            self._line_since = None
            self._active = self._hub.loop.time()
            self._serve(line)
        else:
            if not self._turn_due:
                self._turn_due = True
                self._hub.loop.call_soon(self._next_turn)
        self._settle()

    def _next_turn(self) -> None:
        self._turn_due = False
        self._advance()

    def _stuck(self) -> bool:
        return self._task is not None or self._ended_at is not None or self._blocked_since is not None

    def _take_line(self) -> bytes | None:
        end = self._input.find(b"\n")
        if end > LINE_LIMIT or (end < 0 and len(self._input) > LINE_LIMIT):
            self._refuse_and_end(protocol.LINE_TOO_LONG, f"a line of more than {LINE_LIMIT} bytes")
            return None
        if end < 0:
            if not self._eof or (not self._input and self._json is not None):
                return None
            end = len(self._input)
        line = bytes(self._input[:end])
        del self._input[: end + 1]
        return line

    def _settle(self) -> None:
        if self._ended_at is not None:
            return
        if self._eof:
            if self._task is None and not self._turn_due and not self._input and self._blocked_since is None:
                if self._watcher is None:
                    self._ended_at = self._hub.loop.time()
                    self._transport.close()
                else:
                    self._check_peer()
            return
        if self._input and self._line_since is None and not self._stuck() and not self._turn_due:
            self._line_since = self._hub.loop.time()
        read_on = not self._turn_due and (not self._stuck() or len(self._input) <= LINE_LIMIT)
        if read_on != self._reading:
            self._reading = read_on
            if read_on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _serve(self, line: bytes) -> None:
        if self._json is None:
            self._json = protocol.is_json(line)
        if not self._json:
            self._serve_plain(line)
        elif line.strip():
            message = protocol.parse_request(line)
            if isinstance(message, Refusal):
                if message.wants_reply:
                    self._transport.write(protocol.error_line(message))
            else:
                self._serve_request(message)

    def _serve_plain(self, line: bytes) -> None:
        target = protocol.parse_plain(line)
        if isinstance(target, str):
            self._end_with(protocol.plain_error(target))
        elif self._access is not Access.FULL:
            self._end_with(protocol.plain_error(f"not permitted: {self.peer} may read, but not change"))
        else:
            self._start(self._answer_plain(target))

    def _serve_request(self, request: Request) -> None:
        reply = self._hub.dispatcher.answer_at_once(request, self._access)
        if reply is not None:
            if request.wants_reply:
                self._transport.write(reply)
        elif request.method.name == "balloon.watch":
            self._start(self._begin_watch(request))
        else:
            self._start(self._answer(request))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._hub.loop.create_task(work)

    async def _answer_plain(self, target_mib: int) -> None:
        reply = await self._hub.dispatcher.answer_plain(target_mib)
        self._task = None
        self._end_with(reply)

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self._hub.dispatcher.answer(request, self._now_waiting)
        finally:
            self._task, self._waiting = None, False
        if self._ended_at is None:
            if request.wants_reply:
                self._transport.write(reply)
            self._active = self._hub.loop.time()
            self._advance()

    def _now_waiting(self) -> None:
        self._waiting = True
        if self._ended_at is not None:
            self._give_up_waiting()
        elif self._eof:
            self._check_peer()

    # --- watching ---

    async def _begin_watch(self, request: Request) -> None:
        reply, watch = await self._hub.dispatcher.begin_watch(request)
        self._task = None
        if self._ended_at is not None:
            return
        if request.wants_reply:
            self._transport.write(reply)
        if watch is not None and self._watcher is None:
            self._watcher = self._hub.loop.create_task(self._send_changes(watch))
        self._advance()

    async def _send_changes(self, watch: Watch) -> None:
        """Send each change. While the client does not read, a newer change replaces an older one."""
        try:
            while True:
                while self._blocked_since is not None:
                    self._drained = self._hub.loop.create_future()
                    await self._drained
                self._transport.write(protocol.changed_line(await watch.next()))
        except Exception:
            # The end of the connection tells the watcher that it misses changes.
            log.exception("watching the balloon failed, dropping %s", self.peer)
            self._transport.abort()

    # --- closing ---

    def _refuse_and_end(self, code: int, message: str) -> None:
        speaks_json = protocol.is_json(self._input) if self._json is None else self._json
        if speaks_json:
            self._end_with(protocol.error_line(Refusal(code, message)))
        else:
            self._end_with(protocol.plain_error(message))

    def _end_with(self, last: bytes) -> None:
        """Send the last reply, then discard input until the client closes or ``linger_s`` have passed.

        Closing immediately would reset the connection of a client that is still sending.
        """
        if self._ended_at is not None:
            return
        self._ended_at = self._hub.loop.time()
        self._input.clear()
        self._transport.write(last)
        if self._eof:
            self._transport.close()
            return
        self._transport.write_eof()
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def end(self) -> None:
        """Close because the server ends: replies that are written are still delivered, pending requests are
        cancelled."""
        self._ended_at = self._hub.loop.time()
        for task in (self._task, self._watcher):
            if task is not None:
                task.cancel()
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # the kernel's buffer is full: the client does not read
        else:
            self._transport.close()

    def check_deadlines(self, now: float) -> None:
        """Close the connection if its client has exceeded a timeout."""
        limits = self._hub.limits
        if self._ended_at is not None:
            if now - self._ended_at > limits.linger_s:
                self._transport.abort()
        elif self._blocked_since is not None:
            if now - self._blocked_since > limits.write_s:
                log.warning("dropping a control client that does not read its replies: %s", self.peer)
                self._transport.abort()
        elif self._task is not None or (self._watcher is not None and self._line_since is None):
            if self._eof:
                self._check_peer()
        elif self._json is None and now - self._opened > limits.line_s:
            self._refuse_and_end(protocol.TIMED_OUT, f"no complete request within {limits.line_s:g} s")
        elif self._line_since is not None and now - self._line_since > limits.line_s:
            self._refuse_and_end(
                protocol.TIMED_OUT, f"a line was begun and not ended within {limits.line_s:g} s"
            )
        elif now - self._active > limits.idle_s:
            self._refuse_and_end(protocol.TIMED_OUT, f"no request within {limits.idle_s:g} s")

    def _check_peer(self) -> None:
        """After the end of the client's stream, find out whether it has closed the connection or only its sending side.

        Only a closed connection reports POLLHUP.
        """
        if not self._waiting and self._watcher is None:
            return
        poll = select.poll()
        poll.register(self._socket, 0)
        if poll.poll(0):
            self._transport.abort()

    def _give_up_waiting(self) -> None:
        if self._waiting and self._task is not None:
            self._task.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
