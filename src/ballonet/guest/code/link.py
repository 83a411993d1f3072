"""A connection to a code session: a process in the guest that connects to the session's socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

from ballonet.base.code_errors import CodeSessionBusyError, CodeSessionEndedError
from ballonet.base.errors import GuestError
from ballonet.base.text import printable
from ballonet.guest.code import protocol
from ballonet.guest.code.protocol import Decoder, Hello, Piece

if TYPE_CHECKING:
    from ballonet.guest.guest_process import GuestProcess

#: Sessions are in a file system in memory: they do not outlive their guest.
PREFIX = "/dev/shm/ballonet-code"  # noqa: S108  # in the guest
#: Exit statuses of the agent's program, as in ``code_session.c``.
EXISTS, MISSING, NO_COMMAND, NO_PROGRAM = 3, 4, 5, 127
#: How long to wait for a client that has just gone, how often to look, and how long to wait for a reply (seconds).
_TAKEN_S = 2.0
_LOOK_S = 0.05
_REPLY_S = 60.0
_MAX_WORDS_BYTES = 64 << 10

#: Starts ``session`` with these words in the guest, as the user of the session.
Start = Callable[..., Awaitable["GuestProcess"]]


class CodeLink:
    """A connection, from :meth:`open` to :meth:`close`."""

    def __init__(self, process: GuestProcess, decoder: Decoder, hello: Hello, early: list[Piece]) -> None:
        self._process = process
        self._decoder = decoder
        self.hello = hello
        self._early = early

    @classmethod
    async def open(cls, start: Start, name: str, offset: int) -> Self:
        """Connect, and continue the stream at ``offset``.

        :raises CodeSessionEndedError: there is no such session.
        :raises CodeSessionBusyError: another program is connected to it.
        """
        ends = asyncio.get_running_loop().time() + _TAKEN_S
        while True:
            link = await cls._open_once(start, name, offset)
            if not link.hello.taken:
                return link
            await link.close()
            if asyncio.get_running_loop().time() > ends:
                raise CodeSessionBusyError(
                    f"code session {name!r} is in use by another program",
                    hint="wait until its code has ended, or use a session of your own",
                )
            await asyncio.sleep(_LOOK_S)

    @classmethod
    async def _open_once(cls, start: Start, name: str, offset: int) -> Self:
        process = await start("connect", PREFIX, name)
        try:
            await process.write_stdin(protocol.attach(offset))
            decoder, early = Decoder(), list[Piece]()
            async with asyncio.timeout(_REPLY_S):
                while decoder.hello is None:
                    data = await process.stdout.read()
                    if not data:
                        raise await _refusal(process, name)
                    early += decoder.feed(data)
        except TimeoutError:
            process.abandon()
            raise GuestError(f"code session {name!r} did not respond") from None
        except BaseException:
            process.abandon()
            raise
        return cls(process, decoder, decoder.hello, early)

    @property
    def offset(self) -> int:
        """Where the stream continues after what :meth:`pieces` has given."""
        return self._decoder.offset

    async def send(self, frame: bytes) -> None:
        await self._process.write_stdin(frame)

    async def read(self) -> list[Piece]:
        """What the session sends next; empty when it has closed the connection."""
        while not self._early:
            data = await self._process.stdout.read()
            if not data:
                return []
            self._early += self._decoder.feed(data)
        found, self._early = self._early, []
        return found

    async def close(self) -> None:
        """Disconnect. The session sees that before this returns, unless the guest does not respond."""
        try:
            with contextlib.suppress(GuestError, TimeoutError):
                async with asyncio.timeout(_TAKEN_S):
                    await self._process.close_stdin()
                    while await self._process.stdout.read():
                        pass
        finally:
            self._process.abandon()


async def _refusal(process: GuestProcess, name: str) -> GuestError:
    said = printable((await process.stderr.read_all(_MAX_WORDS_BYTES)).decode(errors="replace").strip())
    status = (await process.wait()).returncode
    if status == MISSING:
        return CodeSessionEndedError(
            f"there is no code session {name!r} in the sandbox",
            hint="it was closed, or the sandbox was restarted, or its processes were killed: start another one",
        )
    return refused(status, said)


def refused(status: int, said: str) -> GuestError:
    """The error for the agent's program, which ended with ``status``."""
    if status == NO_PROGRAM:
        return GuestError(
            "the sandbox's agent is of an earlier version, which has no code sessions",
            hint="start the sandbox anew",
        )
    return GuestError(f"the code session failed: {said or f'exit status {status}'}")
