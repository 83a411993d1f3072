"""What the calls of the synchronous SDK need beyond running a coroutine: iterations, and care with interruptions.

``sync.py``, which uses these, is generated from the async classes by ``build_tools/sync_sdk.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ballonet.base.arguments import wrong_type
from ballonet.base.errors import EventLoopError
from ballonet.sdk.sync_loop import LOOP

if TYPE_CHECKING:
    from ballonet.sdk.sandbox import Sandbox

_T = TypeVar("_T")


def iterate(items: AsyncIterator[_T]) -> Iterator[_T]:
    """Iterate over ``items``, each step in the loop. Leaving the iteration ends it there."""
    generator = cast("AsyncGenerator[_T, None]", items)
    over = object()

    async def step() -> Any:
        return await anext(generator, over)

    async def end() -> None:
        await generator.aclose()

    try:
        while (item := LOOP.run(step())) is not over:
            yield item
    finally:
        LOOP.forget(end())


def read_in_threads(what: str, items: Iterable[_T]) -> AsyncIterator[_T]:
    """Iterate over the caller's ``items`` in threads, because their steps may block.

    :raises ConfigError: they cannot be iterated over, or are a single piece of data; ``what`` names the argument.
    """
    if isinstance(items, str | bytes | bytearray | memoryview) or not isinstance(items, Iterable):
        raise wrong_type(
            what, "an iterable of bytes", items, hint="pass single pieces of data as a list: [data]"
        )

    async def steps() -> AsyncIterator[_T]:
        over = object()
        iterator = iter(items)
        while (item := await asyncio.to_thread(next, iterator, over)) is not over:
            yield cast("_T", item)

    return steps()


def close_sandbox(sandbox: Sandbox) -> None:
    """Close a sandbox. If this is interrupted (Ctrl-C), closing continues in the loop."""
    try:
        LOOP.run(sandbox.close())
    except EventLoopError:
        raise
    except BaseException:
        LOOP.forget(sandbox.close())
        raise


async def undo_fork(forks: Sequence[Sandbox]) -> None:
    """End the forks of a call that was interrupted (Ctrl-C) after it had succeeded."""
    for fork in forks:
        await undo_create(fork)


async def undo_create(sandbox: Sandbox) -> None:
    """End a sandbox whose creation was interrupted (Ctrl-C) after it had succeeded, and remove it."""
    await sandbox.close()
    if not sandbox._owned:
        await type(sandbox).remove(sandbox.name, force=True)
