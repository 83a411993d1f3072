"""Commands that run in sandboxes for clients of the server: their output is kept until a client has read it.

A client may disconnect and attach again. A command whose output nobody reads stops when its buffer is full, as with a
pipe. Commands end with the server: the guest kills them when the connection closes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from ballonet.base.errors import BallonetError, CommandTimeoutError
from ballonet.base.timestamps import iso_time
from ballonet.guest.guest_process import GuestProcess
from ballonet.serve.problems import problem_of, refused

#: How much output no client has received yet before the command has to wait (bytes).
UNREAD_BYTES = 256 << 10
#: How much received output is kept for a client that attaches again (bytes).
KEPT_BYTES = 512 << 10
#: What a piece takes besides its content (bytes).
_PIECE_COST = 200
#: How long the status of a command that has ended is known (seconds).
_ENDED_KEPT_S = 300.0
_SWEEP_S = 1.0


class Piece(NamedTuple):
    """A part of the output: ``stdout`` or ``stderr``."""

    number: int
    stream: str
    content: bytes

    @property
    def cost(self) -> int:
        """About how much memory it takes (bytes)."""
        return len(self.content) + _PIECE_COST


class RunningCommand:
    """One command.

    :param unattended_s: how long it may run while no client is attached.
    """

    def __init__(
        self, sandbox: str, argv: tuple[str, ...], process: GuestProcess, *, tty: bool, unattended_s: float
    ) -> None:
        self.id = secrets.token_hex(8)
        self.sandbox = sandbox
        self.argv = argv
        self.tty = tty
        self.process = process
        self.started_at = time.time()
        self.unattended_s = unattended_s
        self.ended_at: float | None = None
        self.returncode: int | None = None
        self.timed_out = False
        #: Why it ended without a status.
        self.error: BallonetError | None = None
        self._pieces: deque[Piece] = deque()
        self._kept_bytes = 0
        self._next = 1
        #: All pieces before this number were received by a client, and how many bytes were not.
        self._received = 1
        self._unread_bytes = 0
        self._changed = asyncio.Event()
        self._readers = 0
        self._left_at = time.monotonic()
        self._reading = asyncio.create_task(self._read())

    @property
    def ended(self) -> bool:
        return self.ended_at is not None

    @property
    def attended(self) -> bool:
        """Whether a client reads it now."""
        return self._readers > 0

    def abandoned(self, now: float) -> bool:
        """Whether no client has been interested in it for too long."""
        allowed = _ENDED_KEPT_S if self.ended else self.unattended_s
        return self._readers == 0 and now - self._left_at > allowed

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sandbox": self.sandbox,
            "argv": list(self.argv),
            "tty": self.tty,
            "pid": self.process.pid,
            "started_at": iso_time(self.started_at),
            "ended_at": iso_time(self.ended_at),
            "returncode": self.returncode,
            "timed_out": self.timed_out,
            "error": None if self.error is None else problem_of(self.error),
        }

    async def output(self, after: int | None = None) -> AsyncIterator[Piece]:
        """The output after the piece ``after``, up to its end; by default from the oldest piece that is kept.

        :raises RequestRefusedError: some of it is not kept any more.
        """
        position = self._oldest if after is None else after + 1
        self._readers += 1
        try:
            if after is not None:
                self.check_available(after)
                self._note_received(after)  # its last reader may have left before it asked for the next one
            while True:
                self.check_available(position - 1)
                if position < self._next:
                    piece = self._pieces[position - self._oldest]
                    yield piece
                    position += 1
                    self._note_received(piece.number)
                elif self.ended:
                    return
                else:
                    await self._change()
        finally:
            self._readers -= 1
            self._left_at = time.monotonic()

    def check_available(self, after: int | None) -> None:
        """:raises RequestRefusedError: the output after that piece is not kept any more."""
        if after is not None and not self._oldest <= after + 1 <= self._next:
            raise refused(
                "output-lost",
                f"the output after piece {after} is not available: the oldest kept is {self._oldest}",
                hint="attach without a position to get what is kept",
            )

    @property
    def _oldest(self) -> int:
        return self._pieces[0].number if self._pieces else self._next

    async def wait(self) -> None:
        """Wait until it has ended and its output was read from the guest."""
        while not self.ended:
            await self._change()

    async def close(self) -> None:
        """Kill it if it runs."""
        self.process.abandon()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _note_received(self, number: int) -> None:
        """A client has all pieces up to this one."""
        if number < self._received:
            return  # another client was faster, or this one attached again
        for each in range(self._received, number + 1):
            self._unread_bytes -= self._pieces[each - self._oldest].cost
        self._received = number + 1
        while self._pieces and self._pieces[0].number < self._received and self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._pieces.popleft().cost
        self._announce()

    async def _read(self) -> None:
        try:
            async for stream, content in self.process.events():
                piece = Piece(self._next, stream, content)
                self._pieces.append(piece)
                self._next += 1
                self._kept_bytes += piece.cost
                self._unread_bytes += piece.cost
                self._announce()
                while self._unread_bytes >= UNREAD_BYTES:
                    await self._change()
            self.returncode = (await self.process.wait()).returncode
        except CommandTimeoutError:
            self.timed_out = True
        except BallonetError as error:
            self.error = error
        finally:
            self.ended_at = time.time()
            self._announce()

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()


class RunningCommands:
    """All commands of the server.

    :param per_sandbox: how many may run in one sandbox at once.
    """

    def __init__(self, per_sandbox: int) -> None:
        self._per_sandbox = per_sandbox
        self._commands: dict[str, RunningCommand] = {}
        self._counts: dict[str, int] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def reserve(self, sandbox: str) -> Place:
        """A place for a command in a sandbox: ``with``.

        :raises RequestRefusedError: it has as many as it may.
        """
        if self._counts.get(sandbox, 0) >= self._per_sandbox:
            raise refused(
                "too-many-execs",
                f"{self._per_sandbox} commands run in sandbox {sandbox!r} for clients of this server, its limit",
                hint="wait until one of them has ended",
                Retry_After="1",
            )
        return Place(self._counts, sandbox)

    def add(self, command: RunningCommand, place: Place) -> None:
        """Keep a command, with its place until it has ended. Of those that have ended, only the last ones are kept."""
        self._commands[command.id] = command
        over = [each for each in self.of(command.sandbox) if each.ended and not each.attended]
        for each in over[: -self._per_sandbox]:
            del self._commands[each.id]
        place.keep()
        command._reading.add_done_callback(lambda _: place.leave())
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())

    def get(self, sandbox: str, id: str) -> RunningCommand:
        """:raises RequestRefusedError: there is none with that ID in that sandbox."""
        command = self._commands.get(id)
        if command is None or command.sandbox != sandbox:
            raise refused(
                "unknown-exec", f"there is no command with the ID {id[:40]!r} in sandbox {sandbox!r}"
            )
        return command

    def of(self, sandbox: str) -> list[RunningCommand]:
        return [command for command in self._commands.values() if command.sandbox == sandbox]

    async def remove(self, command: RunningCommand) -> None:
        self._commands.pop(command.id, None)
        await command.close()

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for command in list(self._commands.values()):
            await self.remove(command)

    async def _sweep(self) -> None:
        while self._commands:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for command in [each for each in self._commands.values() if each.abandoned(now)]:
                await self.remove(command)


class Place:
    """One of the places of :meth:`RunningCommands.reserve`."""

    def __init__(self, counts: dict[str, int], sandbox: str) -> None:
        self._counts = counts
        self._sandbox = sandbox
        self._kept = self._left = False
        counts[sandbox] = counts.get(sandbox, 0) + 1

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.leave()

    def keep(self) -> None:
        """Keep it beyond the ``with`` block."""
        self._kept = True

    def leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._counts[self._sandbox] -= 1
        if not self._counts[self._sandbox]:
            del self._counts[self._sandbox]
