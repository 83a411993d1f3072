"""Which sandbox is paused when the host is nearly full. Pure.

Only a sandbox that allows it (``--pausable``), whose guest has been quiet for long: by then everything that can be
taken from it while it runs was taken. One at a time, the one that has been quiet for longest, with time between two for
the host's figures to show what the first has given back. Its next use resumes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ballonet.pilot.model import HostView, SandboxView

#: From this price of memory on: a twentieth of the host or less is available beyond the reserve.
PAUSE_PRICE = 0.8
#: A guest must have been quiet for this long (seconds).
PAUSE_QUIET_S = 60.0
#: The time between two pauses, and until a sandbox that was not paused, or that is used again, is asked again
#: (seconds).
APART_S = 10.0
AGAIN_S = 300.0


class Pauses(NamedTuple):
    """What is remembered from tick to tick: when a pause was last requested, of any sandbox and of each."""

    last_s: float = -APART_S
    requested_s: Mapping[str, float] = {}


def is_full(host: HostView) -> bool:
    """Whether the host is so full that sandboxes are paused."""
    return host.price is not None and host.price >= PAUSE_PRICE


def may_be_paused(view: SandboxView, quiet_s: float | None) -> bool:
    """:param quiet_s: how long its guest has been quiet; ``None``: it is at work, or that is unknown."""
    return view.pausable and view.problem is None and quiet_s is not None and quiet_s >= PAUSE_QUIET_S


def choose(
    host: HostView, sandboxes: Sequence[SandboxView], quiet: Mapping[str, float | None], before: Pauses
) -> tuple[str | None, Pauses]:
    """The sandbox to pause, or ``None``; and what to remember.

    :param quiet: how long each guest has been quiet.
    """
    names = {view.name for view in sandboxes}
    requested = {
        name: at_s
        for name, at_s in before.requested_s.items()
        if name in names and host.at_s - at_s < AGAIN_S
    }
    found = [
        view for view in sandboxes if view.name not in requested and may_be_paused(view, quiet.get(view.name))
    ]
    if not found or not is_full(host) or host.at_s - before.last_s < APART_S:
        return None, Pauses(before.last_s, requested)
    idlest = max(found, key=lambda view: (quiet[view.name] or 0.0, view.guest_ram_mib or 0, view.name))
    return idlest.name, Pauses(host.at_s, {**requested, idlest.name: host.at_s})


def describe(host: HostView, quiet_s: float | None) -> str:
    """The reason for a person."""
    return (
        f"paused: the host is nearly full (price {host.price or 0.0:.2f}, {host.available_mib} MiB available), and it "
        f"has been quiet for {quiet_s or 0.0:.0f} s, longer than any other that may be paused"
    )
