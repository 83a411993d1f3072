"""A process in the guest, as the program that started it holds it: output, input, signals, end."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from ballonet.base.arguments import check_number, to_bytes, wrong_type
from ballonet.base.errors import (
    CommandTimeoutError,
    EventLoopError,
    GuestChannelError,
    GuestCommandError,
    GuestError,
)
from ballonet.guest import messages
from ballonet.guest.channel import ChannelStream
from ballonet.guest.frames import Frame, FrameType

#: Standard input is sent in pieces of at most this size, so that processes take turns on the channel.
_STDIN_PIECE_BYTES = 64 << 10
#: The most that each output of a command may have when it is collected in memory, unless told otherwise.
MAX_OUTPUT_BYTES = 256 << 20


class ProcessState:
    """What is known of the process. The channel holds this and not the :class:`GuestProcess`, so that one that
    nobody holds any more can be noticed."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.exit: messages.ExitStatus | None = None
        self.failure: messages.StartFailure | None = None
        self.lost: GuestChannelError | None = None
        #: Makes the error that ends every wait, once the process was given up: see :meth:`GuestProcess.give_up`.
        self.given_up: Callable[[], GuestError] | None = None
        self.loop = asyncio.get_running_loop()
        self.buffers = {FrameType.STDOUT: bytearray(), FrameType.STDERR: bytearray()}
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def over(self) -> bool:
        """No more frames will come."""
        return self.exit is not None or self.failure is not None or self.lost is not None

    def on_frame(self, frame: Frame) -> None:
        """Take in a frame (see :class:`~ballonet.guest.channel.StreamOwner`)."""
        match frame.kind:
            case FrameType.STDOUT | FrameType.STDERR:
                self.buffers[frame.kind] += frame.payload
            case FrameType.STARTED:
                self.pid = messages.decode_number(frame)
            case FrameType.EXIT:
                self.exit = messages.decode_exit(frame)
            case FrameType.ERROR:
                self.failure = messages.decode_error(frame)
        self._wake()

    def on_lost(self, error: GuestChannelError) -> None:
        """Remember why nothing more will come."""
        self.lost = error
        self._wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at after each frame.

        :raises EventLoopError: in another event loop than that of the channel, where the wait would never end.
        """
        if asyncio.get_running_loop() is not self.loop:
            raise EventLoopError(
                "the command belongs to another event loop, perhaps that of the process that this one was forked from",
                hint="start commands in the loop in which they are used",
            )
        while not condition():
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def check_alive(self) -> None:
        """:raises GuestChannelError: the channel ended before the process did.
        :raises GuestError: the process was given up.
        """
        if self.given_up is not None:
            raise self.given_up()
        if self.lost is not None:
            raise GuestChannelError(self.lost.message, hint=self.lost.hint)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class OutputReader:
    """Standard output or standard error of a process: an async iterator of bytes, in order.

    At most the protocol's window (256 KiB, both outputs together) is held; a process whose output nobody reads
    stops when it is full, so one who wants both must read both at the same time.
    """

    def __init__(
        self, process: GuestProcess, state: ProcessState, stream: ChannelStream, kind: FrameType
    ) -> None:
        # Holding the process: one who reads its output still wants it.
        self._process = process
        self._state = state
        self._stream = stream
        self._buffer = state.buffers[kind]

    async def read(self, limit: int = 64 << 10) -> bytes:
        """The next bytes, at most ``limit``; empty at the end of the output.

        :raises CommandTimeoutError: the command was killed at its ``timeout``; what came before is returned first.
        :raises GuestChannelError: the channel ended before the process did; what came before is returned first.
        """
        check_number("limit", limit, 1, 1 << 62)
        await self._state.until(lambda: bool(self._buffer) or self._state.over)
        if not self._buffer:
            self._state.check_alive()
            return b""
        data = bytes(self._buffer[:limit])
        del self._buffer[: len(data)]
        if data and not self._state.over:
            self._stream.consumed(len(data))
        return data

    async def read_all(self, limit: int) -> bytes:
        """Everything up to the end.

        :raises GuestError: it is more than ``limit`` bytes; the rest was not read.
        """
        parts = bytearray()
        await self.read_into(parts, limit)
        return bytes(parts)

    async def read_into(self, parts: bytearray, limit: int) -> None:
        """Add everything up to the end to ``parts``, which has what came even if this fails.

        :raises GuestError: it is more than ``limit`` bytes; the rest was not read.
        """
        check_number("limit", limit, 0, 1 << 62)
        while data := await self.read():
            if len(parts) + len(data) > limit:
                raise too_much(limit)
            parts += data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data


class GuestProcess:
    """A process in the guest. Best used as ``async with``: leaving the block kills it if it still runs.

    One that is dropped without that is killed, too, when Python notices.
    """

    def __init__(self, state: ProcessState, stream: ChannelStream) -> None:
        self._state = state
        self._stream = stream
        self._writing = asyncio.Lock()
        self._stdin_closed = False
        self._loop = asyncio.get_running_loop()
        self._expiring: asyncio.Task[None] | None = None
        self._pid_of_program = os.getpid()

    # Readers hold the process, so the process must not hold them: a circle would keep a dropped process running
    # until the garbage collector comes by.
    @property
    def stdout(self) -> OutputReader:
        """Standard output; with a terminal, everything."""
        return OutputReader(self, self._state, self._stream, FrameType.STDOUT)

    @property
    def stderr(self) -> OutputReader:
        """Standard error; with a terminal, nothing."""
        return OutputReader(self, self._state, self._stream, FrameType.STDERR)

    @property
    def pid(self) -> int:
        """The process's number in the guest; 0 if it ended before it was asked for."""
        return self._state.pid or 0

    @property
    def exit_status(self) -> messages.ExitStatus | None:
        """How it ended, or ``None`` while it runs."""
        return self._state.exit

    def __repr__(self) -> str:
        state = self._state
        if state.given_up is not None:
            how = "given up"
        elif state.exit is not None:
            how = f"ended with status {state.exit.returncode}"
        else:
            how = "running" if state.lost is None else "lost"
        return f"<GuestProcess pid {self.pid}, {how}>"

    @property
    def running(self) -> bool:
        """Whether more may come of it."""
        return not self._state.over

    @property
    def held_bytes(self) -> int:
        """Output that has arrived and was not read yet: never more than the protocol's window."""
        return sum(map(len, self._state.buffers.values()))

    async def write_stdin(self, data: bytes | str) -> None:
        """Send standard input (text as UTF-8); waits while the process does not read. What comes after the process
        has ended, or has closed its input, is dropped, as its end is what :meth:`wait` tells.

        :raises GuestChannelError: the channel ended, or standard input was closed or never asked for.
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
        """End standard input. Doing it twice is harmless."""
        async with self._writing:
            if not self._stdin_closed and not self._state.over:
                await self._stream.end_stdin()
            self._stdin_closed = True

    async def send_signal(self, number: int) -> None:
        """Send a signal to the process's group; SIGKILL reaches everything that it started. Nothing happens after
        its end.

        :raises GuestChannelError: the channel has ended, or there is no such signal.
        """
        if not isinstance(number, int) or isinstance(number, bool):
            raise wrong_type("signal", "a number such as signal.SIGTERM", number)
        self._stream.send_signal(number)

    async def kill(self) -> None:
        """Kill the command and everything it started."""
        await self.send_signal(signal.SIGKILL)

    async def resize(self, rows: int, cols: int) -> None:
        """Give the terminal a new size.

        :raises GuestChannelError: the channel has ended, or the process has no terminal.
        """
        check_number("rows", rows, 0, 0xFFFF)
        check_number("cols", cols, 0, 0xFFFF)
        self._stream.resize(rows, cols)

    async def wait(self) -> messages.ExitStatus:
        """Wait for the end of the process. Its output must be read meanwhile if it may exceed the window.

        :raises CommandTimeoutError: it was killed at its ``timeout``.
        :raises GuestChannelError: the channel ended first.
        """
        await self._state.until(lambda: self._state.over)
        self._state.check_alive()
        assert self._state.exit is not None
        return self._state.exit

    async def communicate(self, stdin: bytes | str = b"", *, limit: int = 16 << 20) -> tuple[bytes, bytes]:
        """Send ``stdin`` (text as UTF-8) and its end, and collect both outputs, up to the end of the process.

        :param limit: the most that each output may have, in bytes.
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
            # The first failure is the reason; the others follow from it.
            failure = next((error for task in done if (error := task.exception()) is not None), None)
            if isinstance(failure, CommandTimeoutError):
                if rest:
                    await asyncio.wait(rest)  # what had arrived is still there to be read
                failure.stdout, failure.stderr = bytes(out), bytes(err)
            if failure is not None:
                raise failure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return bytes(out), bytes(err)

    async def events(self) -> AsyncIterator[tuple[str, bytes]]:
        """Both outputs as they come: pairs of ``"stdout"`` or ``"stderr"`` and bytes, up to the end of both."""
        async for event in merged({"stdout": self.stdout.read, "stderr": self.stderr.read}):
            yield event

    def expire(self, after_s: float, error: Callable[[], GuestError], *, grace_s: float) -> None:
        """Kill the process if it still runs after ``after_s`` seconds. Whoever reads what is not there, or waits, then
        gets ``error``; at the latest ``grace_s`` later, even if the guest does not answer.
        """
        # The task must not hold the process: one that is dropped is to be noticed.
        state, stream = self._state, self._stream
        self._expiring = asyncio.create_task(_expire(state, stream, after_s, error, grace_s))

    async def wait_given_up(self) -> None:
        """Wait until the process has been killed at its ``timeout`` and is over; for ever where that does not come."""
        await self._state.until(lambda: self._state.given_up is not None and self._state.over)

    def abandon(self) -> None:
        """Kill the process if it runs, and forget it. Its unread output is dropped."""
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
        # A forked child has a copy of what is its parent's.
        if self._pid_of_program != os.getpid():
            return
        if not self._state.over and not self._loop.is_closed():
            # Python may call this in any thread.
            self._loop.call_soon_threadsafe(self._stream.abandon)
            if self._expiring is not None:
                self._loop.call_soon_threadsafe(self._expiring.cancel)


def too_much(limit: int) -> GuestError:
    """The error for an output that is longer than ``limit`` bytes."""
    return GuestError(
        f"the command wrote more than {limit} bytes", hint="read its output piece by piece instead"
    )


async def merged(
    reads: Mapping[str, Callable[[], Awaitable[bytes]]],
) -> AsyncGenerator[tuple[str, bytes], None]:
    """What each of ``reads`` gives, as it comes, with its name; each ends with empty bytes."""
    reading = {asyncio.ensure_future(read()): name for name, read in reads.items()}
    try:
        while reading:
            await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in reading if task.done()]:
                name = reading.pop(task)
                if data := task.result():
                    reading[asyncio.ensure_future(reads[name]())] = name
                    yield name, data
    finally:
        for task in reading:
            task.cancel()


async def _expire(
    state: ProcessState,
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
            state.on_lost(GuestChannelError("the guest did not answer"))
    finally:
        over.cancel()


async def start_process(state: ProcessState, stream: ChannelStream, name: str) -> GuestProcess:
    """Wait until the guest says that the process runs.

    :raises GuestCommandError: it could not be started.
    :raises GuestChannelError: the channel ended first.
    """
    try:
        await state.until(lambda: state.pid is not None or state.over)
    except BaseException:
        stream.abandon()
        raise
    state.check_alive()
    if state.failure is not None:
        raise _start_error(name, state.failure)
    return GuestProcess(state, stream)


def _start_error(name: str, failure: messages.StartFailure) -> GuestCommandError:
    step = messages.StartStep
    missing = failure.step is step.COMMAND and failure.errno == errno.ENOENT
    hint: str | None = None
    if failure.step is step.USER:
        hint = "names are those of the guest's own /etc/passwd and /etc/group; numbers work without"
    elif failure.step is step.DIRECTORY:
        hint = "check that the directory exists in the guest, and that the command's user may enter it"
    elif failure.errno == errno.E2BIG:
        hint = messages.TOO_LONG_HINT
    elif missing:
        hint = "check that the command exists in the guest, and its PATH"
    return GuestCommandError(
        f"{name[:200] or repr(name)} could not be started in the guest: {failure.text}",
        errno=failure.errno,
        hint=hint,
        missing=missing,
    )
