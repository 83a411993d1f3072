"""A command in a guest without asyncio: what :meth:`ballonet.sync.Sandbox.exec_stream` gives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ballonet.base.errors import EventLoopError, GuestError
from ballonet.guest.process_output import MAX_OUTPUT_BYTES, merged, too_much
from ballonet.sdk.sync_loop import LOOP

if TYPE_CHECKING:
    from ballonet.guest.guest_process import GuestProcess as AsyncGuestProcess
    from ballonet.guest.messages import ExitStatus
    from ballonet.guest.process_output import OutputReader

_T = TypeVar("_T")

#: The most standard error that is put aside for later while only standard output is read (bytes).
_ASIDE_BYTES = 64 << 20


class GuestProcess:
    """A command that runs. Iterating gives its standard output, piece by piece.

    Best used as ``with``: leaving the block kills the command if it still runs. So does dropping the object, and so
    does :meth:`close`. Standard error that nobody reads meanwhile is kept for :attr:`stderr`.
    """

    def __init__(self, inner: AsyncGuestProcess) -> None:
        self._inner = inner
        self._program = os.getpid()
        self._aside: _Aside | None = None

    def __repr__(self) -> str:
        return repr(self._inner)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._aside is None:
            self._aside = self._run(_put_aside(self._inner.stderr))
        piece = self._run(self._inner.stdout.read())
        if not piece:
            raise StopIteration
        return piece

    # Made when asked for: they hold the process, so the process must not hold them.
    @property
    def stdin(self) -> Input:
        """Standard input; it was asked for with ``stdin=True``."""
        return Input(self)

    @property
    def stdout(self) -> Output:
        """Standard output; with a terminal, everything."""
        return Output(self, self._inner.stdout.read)

    @property
    def stderr(self) -> Output:
        """Standard error; with a terminal, nothing."""
        return Output(self, self._read_stderr)

    @property
    def pid(self) -> int:
        """The process's number in the guest; 0 if it ended before it was asked for."""
        return self._inner.pid

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended, or ``None`` while it runs."""
        return self._inner.exit_status

    @property
    def held_bytes(self) -> int:
        """Output that has arrived and was not read yet."""
        return self._inner.held_bytes + (0 if self._aside is None else len(self._aside.kept))

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Both outputs as they come: pairs of ``"stdout"`` or ``"stderr"`` and bytes, up to the end of both."""
        events = merged({"stdout": self._inner.stdout.read, "stderr": self._read_stderr})
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            LOOP.forget(_end(events))

    def write_stdin(self, data: bytes | str) -> None:
        """Send standard input (text as UTF-8); waits while the process does not read.

        :raises GuestChannelError: the channel ended, or standard input was closed or never asked for.
        """
        self._run(self._inner.write_stdin(data))

    def close_stdin(self) -> None:
        """End standard input. Doing it twice is harmless."""
        self._run(self._inner.close_stdin())

    def send_signal(self, number: int) -> None:
        """Send a signal to the process's group; SIGKILL reaches all that it started."""
        self._run(self._inner.send_signal(number))

    def kill(self) -> None:
        """Kill the command and everything it started."""
        self._run(self._inner.kill())

    def resize(self, rows: int, cols: int) -> None:
        """Give the terminal a new size."""
        self._run(self._inner.resize(rows, cols))

    def wait(self) -> ExitStatus:
        """Wait for the end of the command. What it writes meanwhile must be read if it may exceed 256 KiB."""
        return self._run(self._inner.wait())

    def communicate(self, stdin: bytes | str = b"", *, limit: int = 16 << 20) -> tuple[bytes, bytes]:
        """Send ``stdin`` and its end, and collect both outputs, up to the end of the command.

        :param limit: the most that each output may have, in bytes.
        :raises GuestError: an output is longer.
        """
        if self._aside is None:
            return self._run(self._inner.communicate(stdin, limit=limit))
        # Iterated before: standard error is read already, and put aside.
        if stdin:
            self.write_stdin(stdin)
        self.close_stdin()
        return self.stdout.read_all(limit), self.stderr.read_all(limit)

    def abandon(self) -> None:
        """Kill the command if it runs, and forget it. Its unread output is dropped."""
        if self._program == os.getpid():
            LOOP.call(self._inner.abandon)

    def close(self) -> None:
        """The same as :meth:`abandon`: as a generator has it."""
        self.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._program != os.getpid():
            work.close()
            raise EventLoopError(
                f"the command was started by process {self._program}, from which this one was forked: it is not ours",
                hint="start another one with exec_stream",
            )
        return LOOP.run(work)

    async def _read_stderr(self, limit: int = 64 << 10) -> bytes:
        return await (self._inner.stderr.read(limit) if self._aside is None else self._aside.read(limit))

    def __del__(self) -> None:
        if getattr(self, "_program", None) == os.getpid() and self._inner.running:
            LOOP.forget(_abandon(self._inner))


class Input:
    """A command's standard input."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process

    def write(self, data: bytes | str) -> None:
        """Send (text as UTF-8); waits while the command does not read."""
        self._process.write_stdin(data)

    def close(self) -> None:
        """End it: the command reads its end."""
        self._process.close_stdin()


class Output:
    """Standard output or standard error of a command: an iterator of bytes, in order."""

    def __init__(self, process: GuestProcess, read: Callable[[int], Coroutine[Any, Any, bytes]]) -> None:
        self._process = process
        self._read = read

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if piece := self.read():
            return piece
        raise StopIteration

    def read(self, limit: int = 64 << 10) -> bytes:
        """The next bytes, at most ``limit``; empty at the end of the output.

        :raises CommandTimeoutError: the command was killed at its ``timeout``; what came before is returned first.
        :raises GuestChannelError: the channel ended before the command did.
        """
        return self._process._run(self._read(limit))

    def read_all(self, limit: int = MAX_OUTPUT_BYTES) -> bytes:
        """Everything up to the end.

        :raises GuestError: it is more than ``limit`` bytes; the rest was not read.
        """
        parts = bytearray()
        while piece := self.read():
            if len(parts) + len(piece) > limit:
                raise too_much(limit)
            parts += piece
        return bytes(parts)


class _Aside:
    """Standard error, read as it comes while somebody reads standard output, so that the command does not stall."""

    def __init__(self, output: OutputReader) -> None:
        self.kept = bytearray()
        self._over = False
        self._failure: GuestError | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._drain(output))

    async def read(self, limit: int) -> bytes:
        while not self.kept:
            if self._failure is not None:
                raise self._failure
            if self._over:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self.kept[:limit])
        del self.kept[: len(data)]
        self._changed.set()
        return data

    async def _drain(self, output: OutputReader) -> None:
        try:
            while data := await output.read():
                self.kept += data
                self._changed.set()
                while len(self.kept) > _ASIDE_BYTES:
                    self._changed.clear()
                    await self._changed.wait()
        except GuestError as error:
            self._failure = error
        finally:
            self._over = True
            self._changed.set()


async def _put_aside(output: OutputReader) -> _Aside:
    return _Aside(output)


async def _next(events: AsyncGenerator[tuple[str, bytes], None]) -> tuple[str, bytes] | None:
    return await anext(events, None)


async def _end(events: AsyncGenerator[tuple[str, bytes], None]) -> None:
    await events.aclose()


async def _abandon(inner: AsyncGuestProcess) -> None:
    inner.abandon()
