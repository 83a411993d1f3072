"""The gate before a start: where an autopilot drives the sandboxes, a new one starts only if there is room for it.

The judgement is :mod:`ballonet.pilot.admission`'s. This brings its inputs together: what the autopilot last saw, the
host as it is now, and the sandboxes that have been let in since and do not show in either yet.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from ballonet.base.errors import AdmissionError
from ballonet.base.paths import exclusive
from ballonet.host.memory import read_host_memory
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import Gate
from ballonet.pilot import claim
from ballonet.pilot.admission import admit, needed_mib
from ballonet.pilot.claim import looks_after
from ballonet.pilot.host import host_view
from ballonet.pilot.model import SandboxView
from ballonet.settings.flags import parse_config

log = logging.getLogger(__name__)

#: What the autopilot saw longer ago than this is not judged by (seconds).
FRESH_S = 15.0


def gate_for(admission: bool) -> Gate | None:
    """What :func:`ballonet.lifecycle.start.start_sandbox` is to ask: the autopilot, where one drives the sandboxes, or
    nobody."""
    return admitted if admission else None


@contextlib.contextmanager
def admitted(registry: Registry, record: Record) -> Iterator[None]:
    """Hold the gate while the caller makes ``record`` a starting one, so that two never share one place.

    :raises AdmissionError: there is no room; the message has the numbers.
    """
    owner = claim.find_owner()
    if owner is None or not looks_after(owner.only, record.name):
        yield
        return
    with exclusive(claim.pilot_dir() / "admission.lock"):
        status = claim.read_status()
        if status is None or time.time() - status["at"] > FRESH_S:
            log.warning(
                "the autopilot (pid %d) has said nothing for %g s: not asked for room", owner.pid, FRESH_S
            )
        else:
            _judge(registry, record, status)
        yield


def _judge(registry: Registry, record: Record, status: dict[str, Any]) -> None:
    # One that was just stopped to be started again is not its own rival.
    views = [SandboxView(**view) for view in status["sandboxes"] if view["name"] != record.name]
    seen = {view.name for view in views}
    settings = status["settings"]
    pending = [
        other
        for other in registry.list()
        if other.state.lives
        and other.unreadable is None
        and other.name not in seen
        and looks_after(settings["only"], other.name)
    ]
    host = host_view(
        read_host_memory(),
        status["host"]["at_s"],
        views,
        budget_mib=settings["budget_mib"],
        reserve_mib=settings["reserve_mib"],
    )
    if host.available_mib is not None:
        # They hold nothing yet, and will.
        owed = sum(needed_mib(*_sizes(other)) for other in pending)
        host = host._replace(available_mib=host.available_mib - owed)
    verdict = admit(host, views, *_sizes(record))
    if not verdict.ok:
        raise AdmissionError(
            f"no room for sandbox {record.name!r}: {verdict.reason}",
            hint="stop another, give it less at boot (--balloon-initial), or start it all the same with --no-admission",
        )


def _sizes(record: Record) -> tuple[int, int, int, int]:
    """Ceiling, memory at boot, floor and reserve of a sandbox."""
    from ballonet.vmm.builder import default_floor_mib

    config = parse_config(record.flags)
    ceiling = config.memory_mib
    initial = ceiling if config.balloon_initial_mib is None else config.balloon_initial_mib
    if not config.has_balloon:
        floor = ceiling
    elif config.balloon_min_mib is None:
        floor = default_floor_mib(ceiling, initial)
    else:
        floor = config.balloon_min_mib
    return ceiling, initial, floor, record.reserve_mib
