"""Streams of programs on other hosts: commands, files and connections to ports. Nothing is held whole.

A program asks for the next bytes of a stream, and gets at most :data:`PIECE_BYTES`; a command whose output nobody asks
for stops when the guest's window is full. Streams belong to a session, and end when its program is silent for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError, GuestError, HostError
from ballonet.cluster.answers import Answer, failed
from ballonet.guest.guest_process import GuestProcess
from ballonet.sdk.sandbox import Sandbox

#: The most that one message carries (bytes).
PIECE_BYTES = 256 << 10
#: How much output of a command is collected for :meth:`HostStreams.exec` before it becomes a stream.
COLLECTED_BYTES = 1 << 20
#: How long a program may be silent before its streams are closed (seconds).
SILENT_S = 30.0


class _Stream:
    """One stream: outputs by name, an input, and an end."""

    def __init__(self, session: str) -> None:
        self.session = session

    async def read(self, output: str) -> bytes:
        raise ConfigError("this stream has no output")

    async def write(self, data: bytes) -> None:
        raise ConfigError("this stream has no input")

    async def end_input(self) -> Any:
        """No more input; what comes of it."""

    async def close(self) -> None: ...


class _Command(_Stream):
    def __init__(self, session: str, process: GuestProcess) -> None:
        super().__init__(session)
        self.process = process

    async def read(self, output: str) -> bytes:
        reader = self.process.stderr if output == "stderr" else self.process.stdout
        return await reader.read(PIECE_BYTES)

    async def write(self, data: bytes) -> None:
        await self.process.write_stdin(data)

    async def end_input(self) -> None:
        await self.process.close_stdin()

    async def close(self) -> None:
        await self.process.__aexit__(None, None, None)


class _Connection(_Stream):
    def __init__(self, session: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(session)
        self._reader, self._writer = reader, writer

    async def read(self, output: str) -> bytes:
        try:
            return await self._reader.read(PIECE_BYTES)
        except OSError as error:
            raise HostError(f"the connection ended: {error.strerror}") from error

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise HostError(f"the connection ended: {error.strerror}") from error

    async def end_input(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()


class _Output(_Stream):
    """What an iterator gives: a file, or a packed directory."""

    def __init__(self, session: str, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(session)
        self._pieces = pieces

    async def read(self, output: str) -> bytes:
        return await anext(self._pieces, b"")

    async def close(self) -> None:
        close = getattr(self._pieces, "aclose", None)
        if close is not None:
            await close()


class _Input(_Stream):
    """A file or a packed directory that is written. Only a few pieces wait here."""

    def __init__(self, session: str, take: Callable[[AsyncIterator[bytes]], Awaitable[Any]]) -> None:
        super().__init__(session)
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._task = asyncio.ensure_future(take(self._pieces()))

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._queue.get():
            yield piece

    async def write(self, data: bytes) -> None:
        if data:
            await self._put(data)

    async def _put(self, data: bytes) -> None:
        put = asyncio.ensure_future(self._queue.put(data))
        await asyncio.wait({put, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not put.done():
            put.cancel()
            await self._task  # its error
            raise GuestError("the guest stopped reading")

    async def end_input(self) -> Any:
        if not self._task.done():
            await self._put(b"")
        return await self._task

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class HostStreams:
    """All open streams of this host. Methods never raise a :class:`BallonetError`."""

    def __init__(self, box: Callable[[str], Awaitable[Sandbox]]) -> None:
        self._box = box
        self._streams: dict[int, _Stream] = {}
        self._numbers = itertools.count(1)
        self._seen_s: dict[str, float] = {}

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

    def _add(self, stream: _Stream) -> int:
        self.keep(stream.session)
        number = next(self._numbers)
        self._streams[number] = stream
        return number

    def _of(self, number: int) -> _Stream:
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
        command = _Command(session, process)

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
        return self._add(_Command(session, await (await self._box(name)).exec_stream(argv, **how)))

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
        return self._add(_Connection(session, reader, writer))

    async def _open_read(self, session: str, name: str, path: str) -> int:
        return self._add(_Output(session, (await self._box(name)).fs.read_stream(path)))

    async def _open_pack(self, session: str, name: str, path: str, follow: bool) -> int:
        return self._add(_Output(session, (await self._box(name)).fs.pack_stream(path, follow=follow)))

    async def _open_write(self, session: str, name: str, path: str, mode: int, parents: bool) -> int:
        files = (await self._box(name)).fs
        return self._add(
            _Input(session, lambda pieces: files.write_stream(path, pieces, mode=mode, parents=parents))
        )

    async def _open_unpack(self, session: str, name: str, directory: str) -> int:
        files = (await self._box(name)).fs
        return self._add(_Input(session, lambda pieces: files.unpack_stream(pieces, directory)))

    async def _read(self, number: int, output: str = "stdout") -> bytes:
        return await self._of(number).read(output)

    async def _write(self, number: int, data: bytes) -> None:
        await self._of(number).write(data)

    async def _end_input(self, number: int) -> Any:
        return await self._of(number).end_input()

    def _process(self, number: int) -> GuestProcess:
        found = self._of(number)
        assert isinstance(found, _Command)
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
