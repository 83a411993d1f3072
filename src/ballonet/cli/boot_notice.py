"""A message on standard error when a boot takes long, so that the command does not seem to hang."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

#: Seconds until the message: on a terminal, and elsewhere.
_TERMINAL_S, _FILE_S = 5, 30


@contextlib.asynccontextmanager
async def notice_if_slow(name: str) -> AsyncIterator[None]:
    """Print once that sandbox ``name`` is still booting if the block takes long."""
    notice = asyncio.create_task(_print_later(name, _TERMINAL_S if sys.stderr.isatty() else _FILE_S))
    try:
        yield
    finally:
        notice.cancel()


async def _print_later(name: str, after_s: int) -> None:
    await asyncio.sleep(after_s)
    print(f"ballonet: sandbox {name!r} is still booting after {after_s} s", file=sys.stderr)
