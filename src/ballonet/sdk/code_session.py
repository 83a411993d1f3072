"""A code session: an interpreter in the guest that keeps its state between two runs (docs/code-sessions.md)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Self

from ballonet.base.arguments import check_number, check_text
from ballonet.base.code_errors import CodeError, CodeSessionBusyError, CodeSessionEndedError, CodeTimeoutError
from ballonet.base.errors import BallonetError, ConfigError, GuestChannelError, GuestError
from ballonet.guest.code import protocol
from ballonet.guest.code.languages import Language
from ballonet.guest.code.link import CodeLink, Start
from ballonet.sdk.code_result import KEPT_CHARACTERS, CodeEvent, CodeResult, Collector
from ballonet.sdk.code_run import CodeRun
from ballonet.sdk.timeouts import Timeout

#: How long interrupted code may take to end, also if nobody waits for it any more, and a restarted session to be ready
#: (seconds).
GRACE_S = 5.0
READY_S = 300.0


class CodeSession:
    """A session of one language, made by :meth:`ballonet.sandbox.Sandbox.code`. Leaving its ``with`` block closes it.

    Calls from several tasks or threads wait for each other, except :meth:`interrupt`, :meth:`restart` and
    :meth:`close`.
    """

    def __init__(self, start: Start, name: str, language: Language) -> None:
        self._start = start
        self._name = name
        self._language = language
        self._lock = asyncio.Lock()
        self._id: int | None = None
        self._number = 0
        #: The connection of the run in progress.
        self._link: CodeLink | None = None
        #: A run whose connection was lost: its state, what it has done so far, where its stream continues.
        self._cut: tuple[CodeRun, Collector, int] | None = None

    def __repr__(self) -> str:
        return f"<CodeSession {self._name!r} ({self._language.name})>"

    @property
    def name(self) -> str:
        """The session's name, with which :meth:`ballonet.sandbox.Sandbox.code` finds it again."""
        return self._name

    @property
    def language(self) -> str:
        """The session's language."""
        return self._language.name

    async def run(
        self, code: str, *, timeout: float | None = None, limit: int = KEPT_CHARACTERS
    ) -> CodeResult:
        """Run code, wait for its end, and return what it did. What the code raises is in the result.

        If this call is cancelled, the code is interrupted.

        :param timeout: seconds after which the code is interrupted. If it does not react, the session is restarted.
        :param limit: how many characters of each output are kept; the rest is dropped.
        :raises CodeTimeoutError: the timeout expired. The error says whether the session was restarted.
        :raises CodeSessionEndedError: the session's process ended, and has to be restarted.
        :raises CodeSessionBusyError: the session still runs other code.
        :raises GuestPausedError: the sandbox was paused by force meanwhile; see :meth:`follow`.
        """
        check_number("limit", limit, 0, 1 << 40)
        collector = Collector(limit)
        events = self._execute(code, timeout, collector)
        async with contextlib.aclosing(events):
            async for _ in events:
                pass
        return collector.result()

    async def stream(self, code: str, *, timeout: float | None = None) -> AsyncIterator[CodeEvent]:
        """Run code, and give what it does as it happens. The last event is ``end``. Parameters and errors are as in
        :meth:`run`. Leaving the iteration interrupts the code."""
        events = self._execute(code, timeout, None)
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def follow(self, *, timeout: float | None = None) -> CodeResult:
        """Wait for the end of code whose call was cut off with a connection, for example because the sandbox was
        paused by force, and return what it did; after :meth:`stream`, only what it did since then.

        :raises ConfigError: no call was cut off.
        :raises CodeError: too much output was written meanwhile, and part of it was lost.
        """
        limit = Timeout.of(timeout)
        async with self._lock:
            if self._cut is None:
                raise ConfigError(f"no run of code session {self._name!r} was cut off")
            run, collector, offset = self._cut
            link = await self._open(offset)
            try:
                self._cut = None
                if link.hello.lost:
                    raise CodeError(
                        f"output of code session {self._name!r} was lost while nothing was connected to it"
                    )
                async for _ in self._drive(link, run, limit, collector):
                    pass
            finally:
                await link.close()
        return collector.result()

    async def interrupt(self) -> None:
        """Interrupt the code that runs: in Python it gets a KeyboardInterrupt, elsewhere SIGINT. The session keeps its
        state. Does nothing if no code runs."""
        await self._send(protocol.INTERRUPT)

    async def restart(self) -> None:
        """End the session's process with everything that it has started, and start another one. Its state is lost.

        :raises CodeSessionEndedError: the session no longer exists, or its process cannot be started again.
        """
        if (running := self._link) is not None:
            await running.send(protocol.RESTART)
            async with self._lock:  # the run waits for it
                return
        async with self._lock:
            link = await self._open(protocol.NOW)
            try:
                await link.send(protocol.RESTART)
                run = CodeRun(self._language, 0)
                run.restarted = True
                await self._wait_ready(link, run)
            finally:
                await link.close()

    async def close(self) -> None:
        """End the session with everything that it has started. Does nothing if it no longer exists."""
        with contextlib.suppress(CodeSessionEndedError, ConfigError, GuestChannelError):
            if (running := self._link) is not None:
                await running.send(protocol.CLOSE)
                return
            link = await self._open(protocol.NOW)
            try:
                await link.send(protocol.CLOSE)
                async with asyncio.timeout(READY_S):
                    while await link.read():
                        pass
            finally:
                await link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _begin(self) -> None:
        """Wait until the session, which was just started, is ready.

        :raises CodeSessionEndedError: its process ended.
        """
        link = await self._open(0)
        try:
            await self._wait_ready(link, CodeRun(self._language, 0))
        finally:
            await link.close()

    async def _join(self) -> None:
        """Check that an existing session has this language.

        :raises ConfigError: it has another one.
        """
        link = await self._open(protocol.NOW)
        await link.close()
        if link.hello.language != self._language.name:
            raise ConfigError(
                f"code session {self._name!r} has the language {link.hello.language}, not {self._language.name}",
                hint="choose another name for the session",
            )

    async def _wait_ready(self, link: CodeLink, run: CodeRun) -> None:
        """:raises CodeSessionEndedError: the process ended."""
        said = Collector(KEPT_CHARACTERS)
        try:
            async with asyncio.timeout(READY_S):
                while not (run.ready or run.died):
                    for piece in await self._read(link):
                        for event in run.feed(piece):
                            said.add(event)
        except TimeoutError:
            raise GuestError(f"code session {self._name!r} was not ready within {READY_S:g} s") from None
        if run.died:
            words = said.text("stderr").strip().splitlines()[-1:]
            raise CodeSessionEndedError(
                f"the {self._language.name} process of code session {self._name!r} {run.died}"
                + "".join(f": {line[:300]}" for line in words)
            )

    async def _open(self, offset: int) -> CodeLink:
        link = await CodeLink.open(self._start, self._name, offset)
        if self._id is None:
            self._id = link.hello.id
        elif self._id != link.hello.id:
            await link.close()
            raise CodeSessionEndedError(
                f"code session {self._name!r} has ended, and another one has its name now",
                hint="its variables are lost; use the new one",
            )
        return link

    async def _send(self, frame: bytes) -> None:
        if (running := self._link) is not None:
            await running.send(frame)
            return
        link = await self._open(protocol.NOW)
        try:
            await link.send(frame)
        finally:
            await link.close()

    async def _read(self, link: CodeLink) -> list[protocol.Piece]:
        if pieces := await link.read():
            return pieces
        raise CodeSessionEndedError(f"code session {self._name!r} was closed")

    async def _check_free(self, link: CodeLink) -> None:
        """Wait for code that is just ending, perhaps because its caller was interrupted."""
        if not link.hello.alive:
            raise self._ended(link.hello.end)
        if not link.hello.busy:
            return
        lines = protocol.Lines()
        try:
            async with asyncio.timeout(GRACE_S):
                while True:
                    for piece in await self._read(link):
                        if piece.kind == "died":
                            raise self._ended(protocol.died(piece))
                        if piece.kind == "words" and any(kind == "d" for kind, _ in lines.feed(piece.data)):
                            return
        except TimeoutError:
            raise CodeSessionBusyError(
                f"code session {self._name!r} still runs code",
                hint="interrupt() it, or restart() the session",
            ) from None

    def _ended(self, how: str) -> CodeSessionEndedError:
        hint = "restart() starts it again, without its variables"
        if "SIGKILL" in how:
            hint += "; the guest's kernel kills processes with SIGKILL when memory runs out"
        return CodeSessionEndedError(
            f"the {self._language.name} process of code session {self._name!r} {how}", hint=hint
        )

    async def _execute(
        self, code: str, timeout: float | None, collector: Collector | None
    ) -> AsyncGenerator[CodeEvent]:
        check_text("code", code, none=False)
        limit = Timeout.of(timeout)
        async with self._lock:
            line = self._language.request(self._number + 1, code)
            if len(line) > protocol.MAX_REQUEST_BYTES:
                raise ConfigError(
                    f"the code has {len(line)} bytes; a session takes {protocol.MAX_REQUEST_BYTES} at once",
                    hint="copy large data with box.fs.write()",
                )
            link = await self._open(protocol.NOW)
            try:
                await self._check_free(link)
                self._number += 1
                self._cut = None
                run = CodeRun(self._language, self._number)
                self._link = link
                await link.send(protocol.request(line))
                events = self._drive(link, run, limit, collector)
                async with contextlib.aclosing(events):
                    async for event in events:
                        yield event
            finally:
                self._link = None
                await link.close()

    async def _drive(
        self, link: CodeLink, run: CodeRun, limit: Timeout | None, collector: Collector | None
    ) -> AsyncGenerator[CodeEvent]:
        """Follow a run to its end, and end it at its timeout."""
        clock = asyncio.get_running_loop().time
        interrupted = forced = lost = False
        deadline = None if limit is None else clock() + limit.seconds
        try:
            while not run.over:
                try:
                    async with asyncio.timeout_at(deadline):
                        pieces = await self._read(link)
                except TimeoutError:
                    if forced:
                        raise GuestError(f"code session {self._name!r} did not restart") from None
                    await link.send(protocol.RESTART if interrupted else protocol.INTERRUPT)
                    interrupted, forced = True, interrupted
                    deadline = clock() + (READY_S if forced else GRACE_S)
                    continue
                for piece in pieces:
                    for event in run.feed(piece):
                        if collector is not None:
                            collector.add(event)
                        if event.kind != "end" or not interrupted or event.error is None:
                            yield event
            self._raise_end(run, limit if interrupted else None, forced)
        except GuestChannelError:
            lost = True
            self._cut = (run, collector or Collector(KEPT_CHARACTERS), link.offset)
            raise
        except CodeError as error:
            if collector is not None:
                error.stdout, error.stderr = collector.text("stdout"), collector.text("stderr")
            raise
        finally:
            if not run.over and not lost:
                await self._leave(link, run)

    def _raise_end(self, run: CodeRun, limit: Timeout | None, forced: bool) -> None:
        """:raises CodeError: the run did not come to an end of its own."""
        name = self._name
        if limit is not None and (forced or (run.end is not None and _failed(run.end))):
            what = f"the code did not end within its timeout of {limit.text} and was interrupted"
            if forced:
                what += (
                    f"; it did not react within {GRACE_S:g} s, so that code session {name!r} was restarted"
                )
                hint = "its variables are lost"
            else:
                hint = f"code session {name!r} keeps its variables"
            raise CodeTimeoutError(what, timeout=limit.seconds, restarted=forced, hint=hint)
        if run.restarted:
            raise CodeSessionEndedError(f"code session {name!r} was restarted while it ran the code")
        if run.died is not None and run.end is None:
            raise self._ended(run.died)

    async def _leave(self, link: CodeLink, run: CodeRun) -> None:
        """Interrupt code that nobody waits for any more."""
        with contextlib.suppress(BallonetError, TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await link.send(protocol.INTERRUPT)
                while not run.over:
                    for piece in await self._read(link):
                        for _ in run.feed(piece):
                            pass


def _failed(end: CodeEvent) -> bool:
    return end.error is not None or bool(end.exit_status)
