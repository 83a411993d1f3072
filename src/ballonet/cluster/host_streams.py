"""Streams of programs on other hosts: commands, files and connections to ports. Nothing is held whole.

A program asks for the next bytes of a stream, and gets one piece at a time (:mod:`ballonet.cluster.stream_kinds`); a
command whose output nobody asks for stops when the guest's window is full. Streams belong to a session, and end when
its program is silent for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, GuestError, HostError
from ballonet.cluster.answers import Answer, failed
from ballonet.cluster.host_code import CodeRun
from ballonet.cluster.host_logs import LogEntries
from ballonet.cluster.host_server import HostServer
from ballonet.cluster.stream_kinds import PIECE_BYTES, Command, Connection, Input, Output, Stream
from ballonet.guest.guest_process import GuestProcess
from ballonet.sdk.code_session import CodeSession
from ballonet.sdk.sandbox import Sandbox

#: How much output of a command is collected for :meth:`HostStreams.exec` before it becomes a stream.
COLLECTED_BYTES = 1 << 20
#: How long the first part of an answer of the host's HTTP API is waited for (seconds).
AT_ONCE_S = 0.05
#: How long a program may be silent before its streams are closed (seconds).
SILENT_S = 30.0


class HostStreams:
    """All open streams of this host. Methods never raise a :class:`BallonetError`."""

    def __init__(self, box: Callable[[str], Awaitable[Sandbox]]) -> None:
        self._box = box
        self._server = HostServer()
        self._streams: dict[int, Stream] = {}
        self._numbers = itertools.count(1)
        self._seen_s: dict[str, float] = {}
        #: Code sessions by program, sandbox and name.
        self._code: dict[tuple[str, str, str], CodeSession] = {}

    async def call(self, method: str, *what: Any) -> Answer:
        """Call one of the methods below."""
        try:
            return Answer(await getattr(self, "_" + method)(*what))
        except BallonetError as error:
            return failed(error)

    def keep(self, session: str) -> Answer:
        """The program of this session is there."""
        self._seen_s[session] = time.monotonic()
        return Answer(len(self._streams))

    async def close_silent(self) -> None:
        """Close the streams of programs that have ended."""
        now_s = time.monotonic()
        for session, seen_s in list(self._seen_s.items()):
            if now_s - seen_s > SILENT_S:
                del self._seen_s[session]
                for number in [n for n, one in self._streams.items() if one.session == session]:
                    await self._close(number)
                for key in [key for key in self._code if key[0] == session]:
                    del self._code[key]  # the session itself goes on in the guest

    async def close(self) -> None:
        """Close all streams."""
        for number in list(self._streams):
            await self._close(number)
        await self._server.close()

    def _add(self, stream: Stream) -> int:
        self.keep(stream.session)
        number = next(self._numbers)
        self._streams[number] = stream
        return number

    def _of(self, number: int) -> Stream:
        found = self._streams.get(number)
        if found is None:
            raise HostError(
                "the stream has been closed",
                hint="the host's agent was restarted, or this program was silent",
            )
        return found

    async def _exec(
        self, session: str, name: str, argv: Sequence[str], how: Mapping[str, Any], stdin: bytes | None
    ) -> tuple[int | None, int | None, bytes, bytes]:
        """Run a command: its status and output. If that becomes long: ``None`` and the number of its stream."""
        box = await self._box(name)
        process = await box.exec_stream(argv, stdin=stdin is not None, **how)
        outputs = {"stdout": bytearray(), "stderr": bytearray()}
        command = Command(session, process)

        async def feed() -> None:
            if stdin is not None:
                with contextlib.suppress(GuestError):  # it reads no more
                    await process.write_stdin(stdin)
                    await process.close_stdin()

        full = asyncio.Event()

        async def collect(which: str) -> None:
            while not full.is_set() and (piece := await command.read(which)):
                outputs[which] += piece
                if sum(map(len, outputs.values())) >= COLLECTED_BYTES:
                    full.set()

        feeding = asyncio.ensure_future(feed())
        collecting = [asyncio.ensure_future(collect(which)) for which in outputs]
        waiting: asyncio.Future[Any] = asyncio.ensure_future(full.wait())
        try:
            ended: asyncio.Future[Any] = asyncio.gather(*collecting, return_exceptions=True)
            await asyncio.wait({ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
            for task in collecting:
                task.cancel()  # one that waits has taken nothing
            for problem in await ended:
                if isinstance(problem, BallonetError):
                    raise problem
        except BaseException:
            feeding.cancel()
            await command.close()
            raise
        finally:
            waiting.cancel()
        stdout, stderr = bytes(outputs["stdout"]), bytes(outputs["stderr"])
        if len(stdout) + len(stderr) >= COLLECTED_BYTES:
            return None, self._add(command), stdout, stderr
        try:
            await feeding
            return (await process.wait()).returncode, None, stdout, stderr
        finally:
            await command.close()

    async def _open_command(
        self, session: str, name: str, argv: Sequence[str], how: Mapping[str, Any]
    ) -> int:
        return self._add(Command(session, await (await self._box(name)).exec_stream(argv, **how)))

    async def _open_port(self, session: str, name: str, port: int) -> int:
        box = await self._box(name)
        found = next((one for one in box.ports if one.guest == port), None)
        if found is None:
            raise ConfigError(
                f"sandbox {name!r} does not publish port {port}", hint=f'create it with ports=["0:{port}"]'
            )
        try:
            reader, writer = await asyncio.open_connection(str(found.address), found.host)
        except OSError as error:
            raise HostError(f"port {port} of sandbox {name!r}: {error.strerror}") from error
        return self._add(Connection(session, reader, writer))

    async def _open_server(self, session: str, request: bytes) -> tuple[int | None, bytes]:
        """A connection to the host's own HTTP API, for a server of the whole cluster: what it answers at once, and the
        number of the stream; ``None``: that is the whole answer.

        :param request: what is sent first.
        """
        connection = Connection(session, *await self._server.connect())
        answer = bytearray()
        try:
            await connection.write(request)
            async with asyncio.timeout(AT_ONCE_S):
                while len(answer) < PIECE_BYTES:
                    piece = await connection.read("")
                    if not piece:
                        await connection.close()
                        return None, bytes(answer)
                    answer += piece
        except TimeoutError:
            pass
        except BaseException:
            await connection.close()
            raise
        return self._add(connection), bytes(answer)

    async def _open_read(self, session: str, name: str, path: str) -> int:
        return self._add(Output(session, (await self._box(name)).fs.read_stream(path)))

    async def _open_pack(self, session: str, name: str, path: str, follow: bool) -> int:
        return self._add(Output(session, (await self._box(name)).fs.pack_stream(path, follow=follow)))

    async def _open_write(self, session: str, name: str, path: str, mode: int, parents: bool) -> int:
        files = (await self._box(name)).fs
        return self._add(
            Input(session, lambda pieces: files.write_stream(path, pieces, mode=mode, parents=parents))
        )

    async def _open_unpack(self, session: str, name: str, directory: str) -> int:
        files = (await self._box(name)).fs
        return self._add(Input(session, lambda pieces: files.unpack_stream(pieces, directory)))

    async def _open_logs(
        self,
        session: str,
        name: str,
        follow: bool,
        tail: int | None,
        since: float | None,
        until: float | None,
    ) -> int:
        return self._add(await LogEntries.open(session, name, follow, tail, since, until))

    async def _code_session(
        self, session: str, name: str, language: str, wanted: str | None, how: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Start or find a code session: its name and language."""
        found = await (await self._box(name)).code(language, session=wanted, **how)
        self.keep(session)
        self._code[session, name, found.name] = found
        return found.name, found.language

    def _code_of(self, session: str, name: str, code_session: str) -> CodeSession:
        found = self._code.get((session, name, code_session))
        if found is None:
            raise HostError(
                f"the host's agent does not know code session {code_session!r} any more: it was restarted, or the "
                f"sandbox was moved",
                hint=f"get it again: box.code(session={code_session!r})",
            )
        return found

    async def _open_code(
        self, session: str, name: str, code_session: str, code: str, timeout: float | None
    ) -> int:
        """Run code; the stream gives what it does."""
        return self._add(CodeRun(session, self._code_of(session, name, code_session), code, timeout))

    async def _code_do(self, session: str, name: str, code_session: str, what: str) -> None:
        found = self._code_of(session, name, code_session)
        if what == "interrupt":
            await found.interrupt()
        elif what == "restart":
            await found.restart()
        else:
            await found.close()
            del self._code[session, name, code_session]

    async def _read(self, number: int, output: str = "stdout") -> Any:
        return await self._of(number).read(output)

    async def _write(self, number: int, data: bytes) -> None:
        await self._of(number).write(data)

    async def _end_input(self, number: int) -> Any:
        return await self._of(number).end_input()

    def _process(self, number: int) -> GuestProcess:
        found = self._of(number)
        assert isinstance(found, Command)
        return found.process

    async def _wait(self, number: int) -> int:
        return (await self._process(number).wait()).returncode

    async def _signal(self, number: int, signal: int) -> None:
        await self._process(number).send_signal(signal)

    async def _resize(self, number: int, rows: int, cols: int) -> None:
        await self._process(number).resize(rows, cols)

    async def _close(self, number: int) -> None:
        found = self._streams.pop(number, None)
        if found is not None:
            with contextlib.suppress(BallonetError):
                await found.close()
