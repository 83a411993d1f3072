"""The gate before a start: where an autopilot drives the sandboxes, a new one starts only if there is room for it.

The judgement is :mod:`ballonet.pilot.admission`'s. This brings its inputs together: what the autopilot last saw, the
host as it is now, and the sandboxes that have been let in since and do not show in either yet.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import time
from collections.abc import Iterator
from typing import Any

from ballonet.errors import AdmissionError
from ballonet.machine.args import parse_config
from ballonet.paths import exclusive
from ballonet.pilot import claim
from ballonet.pilot.admission import admit, needed_mib
from ballonet.pilot.host import read_host
from ballonet.pilot.model import SandboxView
from ballonet.registry.record import Record
from ballonet.registry.registry import Registry

log = logging.getLogger(__name__)

#: What the autopilot saw longer ago than this is not judged by (seconds).
FRESH_S = 15.0


@contextlib.contextmanager
def admitted(registry: Registry, record: Record) -> Iterator[None]:
    """Hold the gate while the caller makes ``record`` a starting one, so that two never share one place.

    :raises AdmissionError: there is no room; the message has the numbers.
    """
    owner = claim.find_owner()
    if owner is None or (owner.only and not _any_match(record.name, owner.only)):
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
    only = tuple(settings["only"])
    pending = [
        _as_booting(other)
        for other in registry.list()
        if other.state.lives and other.name not in seen and (not only or _any_match(other.name, only))
    ]
    host = read_host(
        status["host"]["at_s"],
        views,
        budget_mib=settings["budget_mib"],
        reserve_mib=settings["reserve_mib"],
    )
    if host.available_mib is not None:
        # They hold nothing yet, and will.
        owed = sum(needed_mib(*_sizes(view)) for view in pending)
        host = host._replace(available_mib=host.available_mib - owed)
    new = _as_booting(record)
    verdict = admit(host, views, *_sizes(new))
    if not verdict.ok:
        raise AdmissionError(
            f"no room for sandbox {record.name!r}: {verdict.reason}",
            hint="stop another, give it less at boot (--balloon-initial), or start it all the same with --no-admission",
        )


def _as_booting(record: Record) -> SandboxView:
    """A sandbox as it will be at boot."""
    config = parse_config(record.flags)
    ceiling = config.memory_mib
    initial = ceiling if config.balloon_initial_mib is None else config.balloon_initial_mib
    from ballonet.vmm.builder import default_floor_mib

    if not config.has_balloon:
        floor = ceiling
    elif config.balloon_min_mib is None:
        floor = default_floor_mib(ceiling, initial)
    else:
        floor = config.balloon_min_mib
    return SandboxView(
        name=record.name,
        ceiling_mib=ceiling,
        floor_mib=floor,
        target_mib=initial,
        actual_mib=None,
        weight=record.weight,
        reserve_mib=record.reserve_mib,
    )


def _sizes(booting: SandboxView) -> tuple[int, int, int, int]:
    """Ceiling, initial memory, floor and reserve."""
    return booting.ceiling_mib, booting.target_mib, booting.floor_mib, booting.reserve_mib


def _any_match(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
