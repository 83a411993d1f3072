"""Leases: how long a host may run sandboxes that the cluster may start elsewhere. Pure: time is passed in.

The directory grants a lease with each question. What it grants counts from a moment on the host's own clock (a *mark*,
which the host sent with its last answer), so that a grant that arrives late does not last longer, and clocks are never
compared. The directory received the mark later than the host made it: for the directory, the lease therefore ends at
the latest :data:`LEASE_S` after it received the mark.
"""

from __future__ import annotations

#: How long a lease lasts after its mark (seconds).
LEASE_S = 20.0
#: How much longer the directory waits before it takes a host for lost: clocks run at different speeds, and the host
#: needs a moment to end its sandboxes (seconds).
MARGIN_S = 5.0


class HostLease:
    """The lease of a host, on the host's clock."""

    def __init__(self) -> None:
        self.expires_s = 0.0

    def renew(self, mark_s: float | None, now_s: float) -> bool:
        """Take a grant; whether that prolongs the lease. A mark of an earlier boot may be in the future."""
        if mark_s is None or mark_s > now_s or mark_s + LEASE_S <= self.expires_s:
            return False
        self.expires_s = mark_s + LEASE_S
        return True

    def valid(self, now_s: float) -> bool:
        return now_s < self.expires_s


class Leases:
    """What the directory knows of all hosts' leases, on its own clock.

    :param now_s: when it started. It does not know what an earlier directory granted, which is over after a while.
    """

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._marks: dict[str, tuple[float, float]] = {}
        self._until: dict[str, float] = {}

    def received(self, host: str, mark_s: float, now_s: float) -> None:
        """A host answered with its mark."""
        self._marks[host] = (mark_s, now_s)

    def grant(self, host: str) -> float | None:
        """The mark from which on a lease is granted now; ``None``: the host has not answered yet."""
        known = self._marks.get(host)
        if known is None:
            return None
        mark_s, received_s = known
        self._until[host] = max(self._until.get(host, 0.0), received_s + LEASE_S)
        return mark_s

    def expired(self, host: str, now_s: float) -> bool:
        """Whether the host certainly has no lease any more."""
        until_s = self._until.get(host, self._began_s + LEASE_S)
        if host not in self._until:
            until_s = max(until_s, self._marks.get(host, (0.0, self._began_s))[1] + LEASE_S)
        return now_s >= until_s + MARGIN_S

    def forget(self, host: str) -> None:
        self._marks.pop(host, None)
        self._until.pop(host, None)
