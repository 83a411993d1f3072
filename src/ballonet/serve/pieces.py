"""Bodies that come piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


async def close_pieces(pieces: AsyncIterator[Any]) -> None:
    """End an iterator that is not read to its end, if it is a generator."""
    close: Callable[[], Awaitable[None]] | None = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
