"""One process in a guest, for a program without asyncio: it polls the connection and handles what is ready.

A command line starts one process and waits for it. Loading asyncio would take longer than everything else that it does.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import Self

from ballonet.base.errors import GuestChannelError, GuestError
from ballonet.guest import channel_errors, manage, messages
from ballonet.guest.channel_stream import ProcessStream
from ballonet.guest.frames import (
    FROM_GUEST,
    MAX_TO_GUEST_BYTES,
    MAX_TO_HOST_BYTES,
    MAX_UNSENT_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
)
from ballonet.guest.process_state import ProcessState

_READ_BYTES = 64 << 10
#: Standard input waits while more than this is unsent; pieces of it have at most this size.
_STDIN_PIECE_BYTES = 64 << 10
#: The only stream of the connection.
_STREAM = 1


class PolledProcess:
    """A process that was requested on a connection of its own. It is killed when the connection is closed.

    Poll :meth:`fileno`: call :meth:`receive` when it is readable, and :meth:`flush` when it is writable and
    :attr:`unsent` is not 0. Nothing blocks. ``state`` has what has arrived; once the connection is lost, it is over.

    :param connection: a connected Unix stream socket, which this object then owns.
    :raises ConfigError: the request is invalid.
    """

    def __init__(self, connection: socket.socket, request: messages.Exec) -> None:
        payload = request.encode()
        #: Why the connection has ended, or ``None`` while it is open.
        self.lost: GuestChannelError | None = None
        self.state = ProcessState()
        self._name = request.argv[0]
        self._socket = connection
        self._greeted = False
        self._unsent = bytearray()
        self._decoder = FrameDecoder(FROM_GUEST, MAX_TO_HOST_BYTES)
        shape = messages.ExecShape(request.tty, request.stdin)
        self._stream = ProcessStream(self, _STREAM, shape, self.state)
        connection.setblocking(False)
        while len(payload) > MAX_TO_GUEST_BYTES:
            part, payload = payload[:MAX_TO_GUEST_BYTES], payload[MAX_TO_GUEST_BYTES:]
            self.send_now(Frame(FrameType.EXEC_PART, _STREAM, part))
        self.send_now(Frame(FrameType.EXEC, _STREAM, payload))

    @classmethod
    def connect(cls, path: str | os.PathLike[str], request: messages.Exec) -> Self:
        """Request a process on the socket of a sandbox's relay.

        :raises GuestChannelError: the connection failed.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            try:
                connection.connect(os.fspath(path))
            except OSError as error:
                raise channel_errors.no_connection(os.fspath(path), error) from error
            return cls(connection, request)
        except BaseException:
            connection.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that wait until the guest reads."""
        return len(self._unsent)

    @property
    def running(self) -> bool:
        """Whether the guest has started it. It may have ended since.

        :raises GuestCommandError: the guest could not start it.
        :raises GuestError: the connection ended first.
        """
        if self.state.over:
            self.state.check_started(self._name)
        return self.state.pid is not None

    @property
    def wants_stdin(self) -> bool:
        """Whether :meth:`write_stdin` would send something now."""
        return not self.state.over and self._stream.stdin_room > 0 and self.unsent < _STDIN_PIECE_BYTES

    def receive(self) -> None:
        """Handle what has arrived."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(channel_errors.broken(error))
            return
        try:
            if not data:
                self._decoder.finish()
                raise channel_errors.closed_by_guest()
            for frame in self._decoder.feed(data):
                self._dispatch(frame)
        except GuestChannelError as error:
            self._lose(error)

    def flush(self) -> None:
        """Send what is unsent, as far as possible."""
        while self._unsent and self.lost is None:
            try:
                del self._unsent[: self._socket.send(self._unsent, socket.MSG_NOSIGNAL)]
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(channel_errors.broken(error))

    def send_now(self, frame: Frame) -> None:
        """Send a frame as soon as the guest takes it.

        :raises GuestChannelError: the connection has ended. It ends if the guest does not read.
        """
        if self.lost is None:
            self._unsent += frame.encode()
            self.flush()
            if self.unsent > MAX_UNSENT_BYTES:
                self._lose(channel_errors.not_reading(self.unsent))
        if self.lost is not None:
            raise GuestChannelError(self.lost.message, hint=self.lost.hint)

    def take_output(self, kind: FrameType, limit: int) -> bytes:
        """The next bytes of an output, at most ``limit``; empty if none have arrived."""
        buffer = self.state.buffers[kind]
        data = bytes(buffer[:limit])
        del buffer[: len(data)]
        if data and not self.state.over:
            self._stream.consumed(len(data))
        return data

    def write_stdin(self, data: bytes) -> int:
        """Send the beginning of ``data``, as much as the guest accepts now; returns its length."""
        piece = data[: min(self._stream.stdin_room, _STDIN_PIECE_BYTES)]
        if piece:
            self._stream.send_stdin_now(piece)
        return len(piece)

    def close_stdin(self) -> None:
        """End standard input."""
        self._stream.end_stdin_now()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process group; SIGKILL also goes to everything that the process started. Does nothing
        after the process has ended."""
        self._stream.send_signal(number)

    def resize(self, rows: int, cols: int) -> None:
        """Set the size of the terminal."""
        self._stream.resize(rows, cols)

    def give_up(self, error: GuestError) -> None:
        """Kill it at its timeout: what waits for it then raises ``error``, after the output that has arrived."""
        self.state.given_up = lambda: error
        with suppress(GuestChannelError):
            self.send_signal(signal.SIGKILL)

    def abandon(self) -> None:
        """Kill it if it is running, and wait for nothing more."""
        if not self.state.over:
            self._stream.abandon()
            self.state.on_lost(GuestChannelError("the process was abandoned"))

    def close(self) -> None:
        """Close the connection. The process and everything that it started is killed."""
        self.abandon()
        self._socket.close()

    def _dispatch(self, frame: Frame) -> None:
        if not self._greeted:
            if frame.kind != FrameType.READY or frame.stream != 0:
                raise channel_errors.not_ready_first(frame)
            messages.decode_ready(frame)
            self._greeted = True
        elif frame.kind == FrameType.PAUSED and frame.stream == 0:
            raise manage.decode_paused(frame.payload)
        elif frame.stream == 0:
            raise channel_errors.without_request(frame)
        elif frame.stream != _STREAM or self._stream.ended:
            raise channel_errors.unknown_stream(frame)
        else:
            self._stream.feed(frame)

    def _lose(self, error: GuestChannelError) -> None:
        if self.lost is None:
            self.lost = error
            if not self._stream.ended:
                self._stream.lose(error)
