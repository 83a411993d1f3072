"""What a host is told and what it says about itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from ballonet.cluster.ledger import Order
from ballonet.cluster.offer import HostOffer
from ballonet.pilot.model import SandboxView


class HostConfig(NamedTuple):
    """How a host takes part."""

    name: str
    budget_mib: int | None = None
    reserve_mib: int | None = None
    labels: Mapping[str, str] = {}


class Figures(NamedTuple):
    """The memory of a running sandbox (MiB)."""

    ceiling_mib: int
    target_mib: int
    #: What it holds of the host: guest RAM and engine.
    resident_mib: int | None
    #: What the guest says is available.
    available_mib: int | None = None

    @classmethod
    def of(cls, view: SandboxView) -> Self:
        return cls(view.ceiling_mib, view.target_mib, view.resident_mib, view.guest_available_mib)


class HostReport(NamedTuple):
    """What a host says about itself."""

    #: ``at_s`` is the negative age of the offer: clocks of hosts are not compared.
    offer: HostOffer
    #: Its sandboxes, running or not, and their states.
    sandboxes: Mapping[str, str]
    #: The host's clock when it was asked: a lease that is granted now counts from there.
    mark_s: float = 0.0
    #: Those that the cluster placed here, those being created, and those that ended for want of a lease.
    orders: Mapping[str, Order] = {}
    creating: frozenset[str] = frozenset()
    fenced: frozenset[str] = frozenset()
    #: Those that are paused to be moved.
    moving: frozenset[str] = frozenset()
    #: The snapshots here that the cluster made by itself (``offer.states`` has all).
    automatic: frozenset[str] = frozenset()
    #: The memory of those that run.
    figures: Mapping[str, Figures] = {}
    #: Its wall clock, only to tell a person that it is off.
    wall_s: float | None = None


class Grant(NamedTuple):
    """What the directory tells a host with each question."""

    #: The host's own mark from which on it has a lease.
    mark_s: float | None = None
    #: The sandboxes that stay there, with and without a lease.
    kept: frozenset[str] = frozenset()
