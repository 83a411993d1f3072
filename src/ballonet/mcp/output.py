"""Output for an agent, part by part: each part is bounded, and the next one continues where it ended."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from ballonet.serve.problems import RequestRefusedError

#: The most output of a command in one result (bytes).
PART_BYTES = 32 << 10


class Numbered(Protocol):
    """A part of a command's output, as ``serve/running_commands.py`` keeps it."""

    @property
    def number(self) -> int: ...

    @property
    def stream(self) -> str: ...

    @property
    def content(self) -> bytes: ...


class Source(Protocol):
    """What is read of a running command."""

    @property
    def ended(self) -> bool: ...

    def output(self, after: int | None = None) -> AsyncIterator[Numbered]: ...


class Part(NamedTuple):
    """The output since the last part.

    :param more: there is, or may be, more output.
    :param lost: older output was dropped, because nothing read it.
    """

    stdout: str
    stderr: str
    more: bool
    lost: bool


class OutputReader:
    """Reads the output of one command once, in parts."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._last: int | None = 0
        #: What was read from the command, and does not fit into a part yet.
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in ("stdout", "stderr")
        }

    async def read(self, wait_s: float, limit: int = PART_BYTES) -> Part:
        """The next part: up to the command's end, the limit, or the time.

        :param limit: bytes of output, of both streams together.
        """
        texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        room, lost = self._take(texts, limit), False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0)):
                while room > 0:
                    try:
                        async with contextlib.aclosing(self._source.output(self._last)) as pieces:  # type: ignore[type-var]
                            async for piece in pieces:
                                self._last = piece.number
                                self._waiting.append((piece.stream, piece.content))
                                room = self._take(texts, room)
                                if room <= 0:
                                    break
                        break
                    except RequestRefusedError:  # no longer kept
                        self._last, lost = None, True
        more = bool(self._waiting) or room <= 0 or not self._source.ended
        if not more:
            for stream, decoder in self._decoders.items():
                texts[stream].append(decoder.decode(b"", True))
        return Part("".join(texts["stdout"]), "".join(texts["stderr"]), more, lost)

    def _take(self, texts: dict[str, list[str]], room: int) -> int:
        """Move what fits from the waiting output into ``texts``; returns how much still fits."""
        while self._waiting and room > 0:
            stream, content = self._waiting.popleft()
            if len(content) > room:
                self._waiting.appendleft((stream, content[room:]))
            texts[stream].append(self._decoders[stream].decode(content[:room]))
            room -= min(len(content), room)
        return room
