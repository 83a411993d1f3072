"""Forks a sandbox on its host, as the host's agent does it."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet.cluster.host_notes import HostNotes
from ballonet.cluster.ledger import Order
from ballonet.sdk.sandbox import Sandbox


async def fork(
    notes: HostNotes, box: Sandbox, orders: Sequence[Order], expires_s: float
) -> Sequence[Sandbox]:
    """Make a copy of a running sandbox for each order.

    :param expires_s: when the host's lease expires.
    :raises BallonetError: a copy could not be made; none is left.
    """
    try:
        for order in orders:
            notes.begin(order)
        notes.write_lease(expires_s)
        made = await box.fork(*(order.name for order in orders), detached=True)
    except BaseException:
        for order in orders:
            notes.forget(order.name)
        raise
    for order in orders:
        notes.created(order.name)
    return made
