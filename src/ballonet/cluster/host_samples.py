"""The memory of all sandboxes of a host, as its agent answers."""

from __future__ import annotations

import asyncio

from ballonet.base.errors import BallonetError
from ballonet.cluster.answers import Answer, failed
from ballonet.lifecycle.samples import collect


async def samples_here() -> Answer:
    """All sandboxes here and the host, as :class:`ballonet.metrics.model.Snapshot`."""
    try:
        return Answer(await asyncio.to_thread(collect))
    except BallonetError as error:
        return failed(error)
