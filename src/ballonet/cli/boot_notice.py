"""A word on standard error while a boot takes long, so that nobody thinks that the command hangs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

#: When it is said, in seconds: where a person watches, and where a file or a program gets it.
_TERMINAL_S, _FILE_S = 5, 30


@contextlib.asynccontextmanager
async def told_if_slow(name: str) -> AsyncIterator[None]:
    """Say once that sandbox ``name`` is still booting if the block takes long."""
    telling = asyncio.create_task(_tell(name, _TERMINAL_S if sys.stderr.isatty() else _FILE_S))
    try:
        yield
    finally:
        telling.cancel()


async def _tell(name: str, after_s: int) -> None:
    await asyncio.sleep(after_s)
    print(f"ballonet: sandbox {name!r} is still booting after {after_s} s", file=sys.stderr)
