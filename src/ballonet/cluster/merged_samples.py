"""The memory of all hosts as if it were that of one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ballonet.base.dataclass import replace
from ballonet.metrics.model import HostSample, SandboxSample, Snapshot, sums

#: Between the names of a host and of a sandbox: neither can contain it.
SEPARATOR = "/"


def merged(found: Mapping[str, Snapshot], at: float) -> Snapshot:
    """The sandboxes of all hosts, named ``HOST/NAME``, and the sums of the hosts' memory.

    :param found: by the name of the host.
    :param at: now, by this host's clock. Times of other hosts are counted from it: their clocks may be off.
    """
    sandboxes = [
        _moved(sample, host, at - snapshot.host.at)
        for host, snapshot in sorted(found.items())
        for sample in snapshot.sandboxes
    ]
    hosts = [snapshot.host for snapshot in found.values()]
    host = HostSample(
        at=at,
        total=_sum(host.total for host in hosts),
        available=_sum(host.available for host in hosts),
        pressure_some_avg10=max(
            (host.pressure_some_avg10 for host in hosts if host.pressure_some_avg10 is not None), default=None
        ),
        unknown={
            f"{source} of {name}": why
            for name, snapshot in found.items()
            for source, why in snapshot.host.unknown.items()
        },
        **sums(sandboxes),
    )
    return Snapshot(host, sandboxes)


def place_of(name: str) -> tuple[str, str]:
    """The host and the name in ``HOST/NAME``."""
    host, _, sandbox = name.rpartition(SEPARATOR)
    return host, sandbox


def _moved(sample: SandboxSample, host: str, by_s: float) -> SandboxSample:
    guest_at = None if sample.guest_at is None else sample.guest_at + by_s
    return replace(sample, name=f"{host}{SEPARATOR}{sample.name}", at=sample.at + by_s, guest_at=guest_at)


def _sum(values: Iterable[int | None]) -> int | None:
    """``None`` if one is unknown."""
    known = list(values)
    return None if not known or None in known else sum(value or 0 for value in known)
