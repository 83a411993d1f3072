"""What the operations of the server share: threads for calls that wait, sandbox objects, limits, running commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from ballonet.base.dataclass import dataclass
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import collect
from ballonet.lifecycle.sandboxes import find
from ballonet.sdk.sandbox import Sandbox
from ballonet.serve.events import EventSource
from ballonet.serve.idempotency import Keys
from ballonet.serve.running_commands import RunningCommands
from ballonet.serve.shared_call import SharedCall

_P = ParamSpec("_P")
_R = TypeVar("_R")

_THREADS = 8
#: Images are pulled by threads of their own, so that a slow registry delays nothing else.
_SLOW_THREADS = 4
_MOST_BOXES = 512


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    requests: int = 1024
    execs_per_sandbox: int = 64
    upload_bytes: int = 64 << 30


class Services:
    """:param directory: private, for what outlives the server."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.max_upload_bytes = limits.upload_bytes
        #: Set when the server stops: streams end.
        self.stopping = asyncio.Event()
        #: Keeps counters from decreasing: see :class:`ballonet.metrics.exposition.Exporter`.
        self.exporter: object = None
        self.keys = Keys(directory / "keys")
        self.events = EventSource(self.blocking)
        #: The memory of all sandboxes and of the host: pages in browsers read it regularly.
        self.memory = SharedCall(lambda: self.blocking(collect))
        self.commands = RunningCommands(limits.execs_per_sandbox)
        self._threads = ThreadPoolExecutor(_THREADS, "serve")
        self._slow_threads = ThreadPoolExecutor(_SLOW_THREADS, "images")
        #: By name: when the sandbox was created, which tells it from a later one, and its object.
        self._boxes: dict[str, tuple[float, Sandbox]] = {}

    async def blocking(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Make a call that may wait for the disk or for sandboxes, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: call(*args, **kwargs))

    async def slow(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Make a call that may take minutes."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._slow_threads, lambda: call(*args, **kwargs))

    async def box(self, name: str) -> Sandbox:
        """The sandbox with that name. The object is kept, with its connections, as long as it is the same sandbox.

        :raises UnknownSandboxError: there is none.
        """
        created_at, box = self._boxes.get(name, (0.0, None))
        if box is not None and box._has_agent():
            return box
        record = await self.blocking(find_record, name)
        if box is None or created_at != record.created_at:
            box = Sandbox(record)
            if name not in self._boxes and len(self._boxes) >= _MOST_BOXES:
                self._boxes.pop(next(iter(self._boxes)))
            self._boxes[name] = record.created_at, box
        return box

    async def close(self) -> None:
        """End what runs here. Sandboxes go on."""
        await self.commands.close()
        await self.events.close()
        for _, box in self._boxes.values():
            await box.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._slow_threads.shutdown(wait=False, cancel_futures=True)


def find_record(name: str) -> Record:
    """The sandbox with that name, in its current state.

    :raises UnknownSandboxError: there is none.
    """
    with Registry.open() as registry:
        return find(registry, name)
