"""A running command without asyncio: the result of :meth:`ballonet.sync.Sandbox.exec_stream`.

Written by hand, unlike the rest of the synchronous SDK: iteration, standard error that is kept meanwhile, and the
checks after a fork have no counterpart in the async class.
"""

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

#: The most standard error that is kept while only standard output is read (bytes).
_ASIDE_BYTES = 64 << 20


class GuestProcess:
    """A running command. ``for piece in box.exec_stream(["ls"]): …`` iterates over its standard output.

    Use it in a ``with`` statement: leaving the block kills the command if it is still running. Dropping the object, as
    at the end of a ``for`` loop, and :meth:`close` do the same. Standard error that is not read during the iteration
    is kept for :attr:`stderr`.
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

    # Created on each access: they refer to the process, so it must not refer to them, or dropping it has no effect.
    @property
    def stdin(self) -> Input:
        """Standard input, if the command was started with ``stdin=True``."""
        return Input(self)

    @property
    def stdout(self) -> Output:
        """Standard output. With a terminal, both outputs."""
        return Output(self, self._inner.stdout.read)

    @property
    def stderr(self) -> Output:
        """Standard error. With a terminal, empty."""
        return Output(self, self._read_stderr)

    @property
    def pid(self) -> int:
        """Process ID in the guest; 0 if the process ended before its ID was known."""
        return self._inner.pid

    @property
    def exit_status(self) -> ExitStatus | None:
        """How the command ended; ``None`` while it runs."""
        return self._inner.exit_status

    @property
    def held_bytes(self) -> int:
        """Bytes of output that have arrived and were not read yet."""
        return self._inner.held_bytes + (0 if self._aside is None else len(self._aside.kept))

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Both outputs as they arrive, until both end: pairs of ``"stdout"`` or ``"stderr"`` and bytes."""
        events = merged({"stdout": self._inner.stdout.read, "stderr": self._read_stderr})
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            LOOP.forget(_end(events))

    def write_stdin(self, data: bytes | str) -> None:
        """Write to standard input (text as UTF-8). Blocks while the command does not read.

        :raises GuestChannelError: the connection ended, or standard input is not open.
        """
        self._run(self._inner.write_stdin(data))

    def close_stdin(self) -> None:
        """Close standard input. May be repeated."""
        self._run(self._inner.close_stdin())

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group; SIGKILL reaches everything that the command started."""
        self._run(self._inner.send_signal(number))

    def kill(self) -> None:
        """Kill the command and everything it started."""
        self._run(self._inner.kill())

    def resize(self, rows: int, cols: int) -> None:
        """Resize the terminal."""
        self._run(self._inner.resize(rows, cols))

    def wait(self) -> ExitStatus:
        """Wait for the end of the command. Output of more than 256 KiB must be read meanwhile."""
        return self._run(self._inner.wait())

    def communicate(self, stdin: bytes | str = b"", *, limit: int = 16 << 20) -> tuple[bytes, bytes]:
        """Write ``stdin`` and close it, then collect both outputs until the command ends.

        :param limit: the most bytes of each output.
        :raises GuestError: an output is longer.
        """
        if self._aside is None:
            return self._run(self._inner.communicate(stdin, limit=limit))
        # After an iteration, standard error is already being read and kept.
        if stdin:
            self.write_stdin(stdin)
        self.close_stdin()
        return self.stdout.read_all(limit), self.stderr.read_all(limit)

    def abandon(self) -> None:
        """Kill the command if it is running, and discard its unread output."""
        if self._program == os.getpid():
            LOOP.call(self._inner.abandon)

    def close(self) -> None:
        """The same as :meth:`abandon`, under the name that generators and files use."""
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
                f"the command belongs to process {self._program}, from which this process was forked",
                hint="start a command in this process: exec_stream()",
            )
        return LOOP.run(work)

    async def _read_stderr(self, limit: int = 64 << 10) -> bytes:
        return await (self._inner.stderr.read(limit) if self._aside is None else self._aside.read(limit))

    def __del__(self) -> None:
        if getattr(self, "_program", None) == os.getpid() and self._inner.running:
            LOOP.forget(_abandon(self._inner))


class Input:
    """Standard input of a command."""

    def __init__(self, process: GuestProcess) -> None:
        self._process = process

    def write(self, data: bytes | str) -> None:
        """Write (text as UTF-8). Blocks while the command does not read."""
        self._process.write_stdin(data)

    def close(self) -> None:
        """Close it: the command reads the end of the file."""
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

        :raises CommandTimeoutError: the command was killed at its ``timeout``; its earlier output is returned first.
        :raises GuestChannelError: the connection ended before the command did.
        """
        return self._process._run(self._read(limit))

    def read_all(self, limit: int = MAX_OUTPUT_BYTES) -> bytes:
        """Read up to the end.

        :raises GuestError: there are more than ``limit`` bytes; the rest is not read.
        """
        parts = bytearray()
        while piece := self.read():
            if len(parts) + len(piece) > limit:
                raise too_much(limit)
            parts += piece
        return bytes(parts)


class _Aside:
    """Standard error, read while the caller reads standard output: otherwise the command would block on it."""

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
