"""Hosts and requests for the tests of placement."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ballonet.cluster.offer import HostOffer
from ballonet.cluster.request import STRATEGIES, Affinity, Request

SIZES = st.integers(0, 20_000)


def offer(host: str = "a", **changes: Any) -> HostOffer:
    """An empty host of 10,000 MiB, 500 of them reserved."""
    empty = HostOffer(
        host,
        at_s=0.0,
        budget_mib=10_000,
        reserve_mib=500,
        available_mib=10_000,
        reclaimable_mib=0,
        promised_mib=0,
        ceilings_mib=0,
        expected_mib=0,
        deviation_mib=0,
    )
    return empty._replace(**changes)


def request(name: str = "box", **changes: Any) -> Request:
    """A sandbox of 2048 MiB, 512 of them guaranteed."""
    return Request(name, ceiling_mib=2048, least_mib=512, initial_mib=2048)._replace(**changes)


@st.composite
def offers(draw: st.DrawFn, host: str) -> HostOffer:
    return offer(
        host,
        at_s=draw(st.sampled_from([0.0, 5.0, 80.0, 99.0, 100.0])),
        budget_mib=draw(SIZES),
        reserve_mib=draw(st.integers(0, 1000)),
        available_mib=draw(st.integers(-1000, 20_000)),
        reclaimable_mib=draw(st.integers(-1000, 5000)),
        promised_mib=draw(SIZES),
        ceilings_mib=draw(st.integers(0, 100_000)),
        expected_mib=draw(SIZES),
        deviation_mib=draw(st.integers(0, 3000)),
        sandboxes=draw(st.integers(0, 50)),
        groups=draw(st.dictionaries(st.sampled_from(["g", "h"]), st.integers(1, 3))),
        labels=draw(st.dictionaries(st.just("kvm"), st.sampled_from(["yes", "no"]))),
        images=draw(st.frozensets(st.sampled_from(["debian:12", "python"]))),
        states=draw(st.frozensets(st.just("warm"))),
        version=draw(st.sampled_from(["1", "1", "2"])),
        closed=draw(st.sampled_from([None, None, None, "it is being drained"])),
    )


fleets = st.integers(1, 5).flatmap(lambda n: st.tuples(*(offers(f"host-{at:03d}") for at in range(n))))


@st.composite
def requests(draw: st.DrawFn, name: str = "box") -> Request:
    ceiling = draw(st.integers(128, 8192))
    within = st.integers(0, ceiling)
    affinities: list[Affinity | None] = [None, None, "near", "apart"]
    affinity = draw(st.sampled_from(affinities))
    return Request(
        name,
        ceiling,
        draw(within),
        draw(within),
        draw(st.none() | within),
        draw(st.none() | st.integers(0, ceiling // 4)),
        draw(st.sampled_from([None, "debian:12"])),
        draw(st.sampled_from([None, None, "warm"])),
        draw(st.sampled_from([{}, {}, {"kvm": "yes"}])),
        "g" if affinity else None,
        affinity,
        draw(st.sampled_from(STRATEGIES)),
    )
