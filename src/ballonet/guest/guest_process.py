"""A process in the guest, as a program on the host uses it: standard streams, signals and exit status."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from ballonet.base.arguments import check_number, to_bytes, wrong_type
from ballonet.base.errors import CommandTimeoutError, GuestChannelError, GuestError
from ballonet.guest import messages
from ballonet.guest.awaited_state import AwaitedState
from ballonet.guest.channel_stream import ChannelStream, StreamAccount
from ballonet.guest.frames import FrameType
from ballonet.guest.process_output import OutputReader, merged

#: Standard input is sent in pieces of at most this size, so that processes take turns on the channel.
_STDIN_PIECE_BYTES = 64 << 10


class GuestProcess:
    """A process in the guest. Use it with ``async with``: leaving the block kills the process if it is still running.

    A process that is dropped without that is killed when Python deletes the object.
    """

    def __init__(self, state: AwaitedState, stream: ChannelStream) -> None:
        self._state = state
        self._stream = stream
        self._writing = asyncio.Lock()
        self._stdin_closed = False
        self._loop = asyncio.get_running_loop()
        self._expiring: asyncio.Task[None] | None = None
        self._expires_at: float | None = None
        self._pid_of_program = os.getpid()

    # Readers refer to the process, so the process must not refer to them: a reference cycle would keep a dropped
    # process running until the garbage collector runs.
    @property
    def stdout(self) -> OutputReader:
        """Standard output; with a terminal, all output."""
        return OutputReader(self, self._state, self._stream, FrameType.STDOUT)

    @property
    def stderr(self) -> OutputReader:
        """Standard error; with a terminal, nothing."""
        return OutputReader(self, self._state, self._stream, FrameType.STDERR)

    @property
    def pid(self) -> int:
        """The process ID in the guest; 0 if the process ended before the agent read it."""
        return self._state.pid or 0

    @property
    def exit_status(self) -> messages.ExitStatus | None:
        """The exit status, or ``None`` while it is running."""
        return self._state.exit

    def __repr__(self) -> str:
        state = self._state
        if state.given_up is not None:
            how = "killed at its timeout"
        elif state.exit is not None:
            how = f"exited with status {state.exit.returncode}"
        else:
            how = "running" if state.lost is None else "lost"
        return f"<GuestProcess pid {self.pid}, {how}>"

    @property
    def running(self) -> bool:
        """Whether it may still produce output or an exit status."""
        return not self._state.over

    def account(self) -> StreamAccount:
        """What a restored copy of the suspended guest needs to continue it: see :meth:`AgentClient.adopt`."""
        return self._stream.account(self.pid)

    @property
    def held_bytes(self) -> int:
        """Output that has arrived and was not read yet: at most the protocol's window."""
        return sum(map(len, self._state.buffers.values()))

    async def write_stdin(self, data: bytes | str) -> None:
        """Send standard input (text as UTF-8). Waits while the process does not read. Input is dropped once the process
        has ended or has closed its standard input: :meth:`wait` returns how it ended.

        :raises GuestChannelError: the channel ended, or standard input was closed or not requested.
        """
        view = memoryview(to_bytes("standard input", data))
        async with self._writing:
            if self._stdin_closed or not self._stream.has_stdin:
                raise GuestChannelError("the process's standard input is not open")
            while view and not self._state.exit:
                await self._state.until(lambda: self._stream.stdin_room > 0 or self._state.over)
                self._state.check_alive()
                piece = view[: min(self._stream.stdin_room, _STDIN_PIECE_BYTES)]
                if piece and not self._state.over:
                    await self._stream.send_stdin(bytes(piece))
                view = view[len(piece) :]

    async def close_stdin(self) -> None:
        """Close standard input. Further calls do nothing."""
        async with self._writing:
            if not self._stdin_closed and not self._state.over:
                await self._stream.end_stdin()
            self._stdin_closed = True

    async def send_signal(self, number: int) -> None:
        """Send a signal to the process group; SIGKILL also goes to everything that the process started. Does nothing
        after the process has ended.

        :raises GuestChannelError: the channel has ended, or the signal does not exist.
        """
        if not isinstance(number, int) or isinstance(number, bool):
            raise wrong_type("signal", "a number such as signal.SIGTERM", number)
        self._stream.send_signal(number)

    async def kill(self) -> None:
        """Kill the command and everything it started."""
        await self.send_signal(signal.SIGKILL)

    async def resize(self, rows: int, cols: int) -> None:
        """Set the size of the terminal.

        :raises GuestChannelError: the channel has ended, or the process has no terminal.
        """
        check_number("rows", rows, 0, 0xFFFF)
        check_number("cols", cols, 0, 0xFFFF)
        self._stream.resize(rows, cols)

    async def wait(self) -> messages.ExitStatus:
        """Wait until the process ends. If its output may exceed the window, it must be read meanwhile.

        :raises CommandTimeoutError: it was killed at its ``timeout``.
        :raises GuestChannelError: the channel ended first.
        """
        await self._state.until(lambda: self._state.over)
        self._state.check_alive()
        assert self._state.exit is not None
        return self._state.exit

    async def communicate(self, stdin: bytes | str = b"", *, limit: int = 16 << 20) -> tuple[bytes, bytes]:
        """Send ``stdin`` (text as UTF-8), close standard input, and collect both outputs until the process ends.

        :param limit: the maximum length of each output, in bytes.
        :raises GuestError: an output is longer.
        :raises GuestChannelError: the channel ended first.
        """
        data = to_bytes("stdin", stdin)
        out, err = bytearray(), bytearray()

        async def feed() -> None:
            await self.write_stdin(data)
            await self.close_stdin()

        work = [self.stdout.read_into(out, limit), self.stderr.read_into(err, limit)]
        if self._stream.has_stdin and not self._stdin_closed:
            work.append(feed())
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            # The first failure is the cause of the others.
            failure = next((error for task in done if (error := task.exception()) is not None), None)
            if isinstance(failure, CommandTimeoutError):
                if rest:
                    await asyncio.wait(rest)  # output that has arrived can still be read
                failure.stdout, failure.stderr = bytes(out), bytes(err)
            if failure is not None:
                raise failure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bytes(out), bytes(err)

    async def events(self) -> AsyncIterator[tuple[str, bytes]]:
        """Both outputs as they arrive: pairs of ``"stdout"`` or ``"stderr"`` and bytes, up to the end of both."""
        async for event in merged({"stdout": self.stdout.read, "stderr": self.stderr.read}):
            yield event

    def expire(self, after_s: float, error: Callable[[], GuestError], *, grace_s: float) -> None:
        """Kill the process if it is still running after ``after_s`` seconds. Reads beyond its output, and waits, then
        raise ``error``: at most ``grace_s`` later, even if the guest does not respond.
        """
        # The task does not refer to the process, so that dropping the process is still noticed.
        state, stream = self._state, self._stream
        self._expires_at = self._loop.time() + after_s
        self._expiring = asyncio.create_task(_expire(state, stream, after_s, error, grace_s))

    async def wait_expired(self) -> None:
        """Wait until the timeout has passed and the process has ended, by itself or killed. Without a timeout, waits
        forever."""
        expires_at = self._expires_at
        await self._state.until(lambda: expires_at is not None and self._state.over)
        assert expires_at is not None
        await asyncio.sleep(max(expires_at - self._loop.time(), 0))

    def abandon(self) -> None:
        """Kill the process if it is running, and drop its unread output."""
        if self._expiring is not None:
            self._expiring.cancel()
        if not self._state.over:
            self._stream.abandon()
            self._state.on_lost(GuestChannelError("the process was abandoned"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def __del__(self) -> None:
        # In a forked child, this is a copy of the parent's object.
        if self._pid_of_program != os.getpid():
            return
        if not self._state.over and not self._loop.is_closed():
            # Python may delete the object in any thread.
            self._loop.call_soon_threadsafe(self._stream.abandon)
            if self._expiring is not None:
                self._loop.call_soon_threadsafe(self._expiring.cancel)


async def _expire(
    state: AwaitedState,
    stream: ChannelStream,
    after_s: float,
    error: Callable[[], GuestError],
    grace_s: float,
) -> None:
    over = asyncio.create_task(state.until(lambda: state.over))
    try:
        await asyncio.wait({over}, timeout=after_s)
        if state.over:
            return
        state.given_up = error
        with suppress(GuestChannelError):
            stream.send_signal(signal.SIGKILL)
        await asyncio.wait({over}, timeout=grace_s)
        if not state.over:
            stream.abandon()
            state.on_lost(GuestChannelError("the guest did not respond"))
    finally:
        over.cancel()


async def start_process(state: AwaitedState, stream: ChannelStream, name: str) -> GuestProcess:
    """Wait until the guest has started the process.

    :raises GuestCommandError: it could not be started.
    :raises GuestChannelError: the channel ended first.
    """
    try:
        await state.until(lambda: state.pid is not None or state.over)
    except BaseException:
        stream.abandon()
        raise
    state.check_started(name)
    return GuestProcess(state, stream)
