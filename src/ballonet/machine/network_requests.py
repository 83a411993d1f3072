"""Carries out requests about a sandbox's network (:mod:`ballonet.machine.network_request`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ballonet.base.dataclass import replace
from ballonet.base.errors import BallonetError, HostError
from ballonet.machine.network import GuestNetwork
from ballonet.machine.network_request import Answer, NetworkRequest
from ballonet.machine.run_notes import RunNotes
from ballonet.settings.flags import parse_config, render_flags

log = logging.getLogger(__name__)


async def answer_requests(
    requested: asyncio.Event, network: GuestNetwork, notes: RunNotes, directory: Path
) -> None:
    """Answer a request each time that there is one."""
    while True:
        await requested.wait()
        requested.clear()
        await _answer(network, notes, directory)


async def _answer(network: GuestNetwork, notes: RunNotes, directory: Path) -> None:
    """Carry out the request in ``directory``, answer it, and note the new configuration."""
    request = NetworkRequest.read(directory)
    if request is None:
        return
    error: str | None = None
    counters: Mapping[str, Any] = {}
    try:
        if request.rules is not None:
            await network.change(request.rules)
            config = replace(parse_config(notes.note.flags), **request.rules._asdict())
            notes.write(flags=tuple(render_flags(config)))
        counters = await network.counters()
    except BallonetError as problem:
        error = str(problem)
        log.error("a request about the network failed: %s", error)
    with contextlib.suppress(HostError):  # a full disk: the other program gives up waiting
        request.answer(directory, Answer(error, counters))
