"""Admission control: while an autopilot runs, a sandbox starts only if there is room for it.

:mod:`ballonet.pilot.admission` decides. This module collects its inputs: what the autopilot last saw, the host's
current memory, and the sandboxes admitted since, which do not show in either yet.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from ballonet.base.errors import AdmissionError
from ballonet.base.paths import exclusive
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.start import Gate
from ballonet.pilot import lock
from ballonet.pilot.lock import manages
from ballonet.settings.flags import parse_config

log = logging.getLogger(__name__)

#: Older observations of the autopilot are not used (seconds).
FRESH_S = 15.0


def admission_control(admission: bool) -> Gate | None:
    """The check for :func:`ballonet.lifecycle.start.start_sandbox`: :func:`admission_checked`, or none."""
    return admission_checked if admission else None


@contextlib.contextmanager
def admission_checked(registry: Registry, record: Record) -> Iterator[None]:
    """Hold the admission lock while the caller marks ``record`` as starting, so that no room is given out twice.

    :raises AdmissionError: there is not enough memory; the message has the numbers.
    """
    owner = lock.find_owner()
    if owner is None or not manages(owner.only, record.name):
        yield
        return
    from ballonet.pilot import state  # most starts have no autopilot, and load none of it

    with exclusive(lock.pilot_dir() / "admission.lock"):
        status = state.read_status()
        if status is None or time.time() - status["at"] > FRESH_S:
            log.warning(
                "the autopilot (pid %d) has not reported for %g s: admission was not checked",
                owner.pid,
                FRESH_S,
            )
        else:
            _judge(registry, record, status)
        yield


def _judge(registry: Registry, record: Record, status: dict[str, Any]) -> None:
    from ballonet.host.memory import read_host_memory
    from ballonet.pilot.admission import admit, needed_mib
    from ballonet.pilot.host_view import host_view
    from ballonet.pilot.model import SandboxView

    # A sandbox that is being restarted does not compete with itself.
    views = [SandboxView(**view) for view in status["sandboxes"] if view["name"] != record.name]
    seen = {view.name for view in views}
    settings = status["settings"]
    pending = [
        other
        for other in registry.list()
        if other.state.lives
        and other.unreadable is None
        and other.name not in seen
        and manages(settings["only"], other.name)
    ]
    host = host_view(
        read_host_memory(),
        status["host"]["at_s"],
        views,
        budget_mib=settings["budget_mib"],
        reserve_mib=settings["reserve_mib"],
    )
    if host.available_mib is not None:
        # They hold nothing yet, but will.
        owed = sum(needed_mib(*_sizes(other)) for other in pending)
        host = host._replace(available_mib=host.available_mib - owed)
    verdict = admit(host, views, *_sizes(record))
    if not verdict.ok:
        raise AdmissionError(
            f"not enough memory for sandbox {record.name!r}: {verdict.reason}",
            hint="stop another sandbox, lower the boot memory (--balloon-initial), or skip this check (--no-admission)",
        )


def _sizes(record: Record) -> tuple[int, int, int, int]:
    """Ceiling, initial memory, floor and reserve of a sandbox."""
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
