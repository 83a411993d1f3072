"""What a host keeps about the cluster's sandboxes beside its registry, so that a new agent can go on."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ballonet.base.paths import private_dir, replace_file, state_dir
from ballonet.cluster.ledger import Order


def boot_time_s() -> float:
    """The host's clock for leases: it goes on while the host sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lease_path() -> Path:
    """The file that the fence (:mod:`ballonet.cluster.fence`) reads."""
    return state_dir() / "cluster" / "lease.json"


def fenced_dir() -> Path:
    """One empty file for each sandbox that the fence has ended."""
    return state_dir() / "cluster" / "fenced"


def fenced_names() -> frozenset[str]:
    try:
        return frozenset(path.name for path in fenced_dir().iterdir())
    except OSError:
        return frozenset()


class HostNotes:
    """The cluster's sandboxes on this host. Each change is written at once."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        #: Sandboxes whose creation has begun. Those of an agent that was killed are removed by the next.
        self.creating: set[str] = set()
        #: Sandboxes that the directory has placed here to stay: they need no lease.
        self.kept: set[str] = set()
        #: Sandboxes that are being moved to another host: they must not be used here.
        self.moving: set[str] = set()
        #: Snapshots that the cluster made by itself, and removes again.
        self.automatic: set[str] = set()
        #: Why the host takes no more sandboxes.
        self.closed: str | None = None
        self._path = state_dir() / "cluster" / "host.json"
        try:
            document = json.loads(self._path.read_bytes())
            self.orders = {
                name: Order.from_json(json.dumps(order)) for name, order in document["orders"].items()
            }
            self.creating = set(document["creating"])
            self.kept = set(document["kept"])
            self.moving = set(document["moving"])
            self.automatic = set(document.get("automatic", []))
            self.closed = document["closed"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a file that cannot be read says nothing

    def begin(self, order: Order) -> None:
        self.creating.add(order.name)
        self.kept.discard(order.name)
        self.orders[order.name] = order
        (fenced_dir() / order.name).unlink(missing_ok=True)
        self.write()

    def created(self, name: str) -> None:
        self.creating.discard(name)
        self.write()

    def forget(self, name: str) -> None:
        self.creating.discard(name)
        self.kept.discard(name)
        self.moving.discard(name)
        (fenced_dir() / name).unlink(missing_ok=True)
        if self.orders.pop(name, None) is not None:
            self.write()

    def keep(self, names: frozenset[str]) -> bool:
        """Let sandboxes run without a lease; whether that is new."""
        new = (names & self.orders.keys()) - self.kept - self.creating
        if new:
            self.kept |= new
            self.write()
        return bool(new)

    @property
    def leased(self) -> list[str]:
        """The sandboxes that must not run without a lease."""
        return sorted(self.orders.keys() - self.kept)

    def write(self) -> None:
        """:raises HostError: it cannot be written."""
        document = {
            "automatic": sorted(self.automatic),
            "closed": self.closed,
            "creating": sorted(self.creating),
            "kept": sorted(self.kept),
            "moving": sorted(self.moving),
            "orders": {name: json.loads(order.to_json()) for name, order in self.orders.items()},
        }
        replace_file(private_dir(state_dir() / "cluster") / "host.json", json.dumps(document).encode())

    def write_lease(self, expires_s: float) -> None:
        """For the fence. A lease does not outlive a boot, so that the file need not be durable."""
        document = {"expires_s": expires_s, "leased": self.leased}
        path = private_dir(state_dir() / "cluster") / lease_path().name
        replace_file(path, json.dumps(document).encode(), durable=False)
