"""Server-sent events: how a stream of events is written (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ballonet.serve.pieces import close_pieces

#: A comment is sent after this time without an event, so that a broken connection is noticed (seconds).
KEEP_ALIVE_S = 15.0
_COMMENT = b": keep-alive\n\n"


def event(kind: str, value: Any, id: str | None = None) -> bytes:
    """One event, with a JSON document as its data."""
    head = f"event: {kind}\n" + ("" if id is None else f"id: {id}\n")
    return head.encode() + b"data: " + msgspec.json.encode(value, enc_hook=str) + b"\n\n"


async def kept_alive(events: AsyncIterator[bytes], every_s: float = KEEP_ALIVE_S) -> AsyncIterator[bytes]:
    """``events``, with comments while there are none. Begins with one, so that the response starts at once."""
    yield _COMMENT
    waiting: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(events, None))
            done, _ = await asyncio.wait({waiting}, timeout=every_s)
            if not done:
                yield _COMMENT
                continue
            piece, waiting = waiting.result(), None
            if piece is None:
                return
            yield piece
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await close_pieces(events)
