"""Exports the model as Prometheus metrics, with prometheus-client. Unknown values are left out and marked as unknown.

The metrics and their meanings are in :mod:`ballonet.metrics.figures`; state and info metrics are defined below.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ballonet.base.errors import BallonetError
from ballonet.control.backend import State as BalloonState
from ballonet.metrics.figures import GROUPS, HOST_FIGURES, SANDBOX_FIGURES, STORED_FIGURES, Figure
from ballonet.metrics.model import HEALTH_STATES, STATES, HostSample, SandboxSample, Snapshot
from ballonet.metrics.network_exposition import network_families
from ballonet.metrics.stored import StoredSample

log = logging.getLogger(__name__)


class Exporter:
    """Renders snapshots. It remembers the last value of each counter, so that no counter decreases."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._turn = threading.Lock()

    def registry(self, take: Callable[[], Snapshot]) -> CollectorRegistry:
        """A registry for prometheus-client's server: each scrape takes a snapshot, one at a time.

        If that fails, ``ballonet_collect_success`` is 0 and the reason is logged.
        """

        def families() -> Iterator[Metric]:
            with self._turn:
                try:
                    yield from self._timed(take)
                    success = 1
                except BallonetError as error:  # for example an unreadable registry
                    log.warning("cannot collect metrics: %s", error)
                    success = 0
                yield GaugeMetricFamily(
                    "ballonet_collect_success", "Whether the sandboxes could be listed.", value=success
                )

        return _registry_of(families)

    def render(self, take: Callable[[], Snapshot]) -> bytes:
        """The text format, version 0.0.4.

        :raises BallonetError: what ``take`` raises.
        """
        return generate_latest(_registry_of(lambda: self._timed(take)))

    def _timed(self, take: Callable[[], Snapshot]) -> Iterator[Metric]:
        began = time.monotonic()
        snapshot = take()
        took_s = time.monotonic() - began
        yield from self._families(snapshot)
        yield GaugeMetricFamily(
            "ballonet_collect_duration_seconds", "Time that it took to query all sandboxes.", value=took_s
        )

    def _families(self, snapshot: Snapshot) -> Iterator[Metric]:
        self._counters.keep({sample.name for sample in snapshot.sandboxes})
        for figure in SANDBOX_FIGURES:
            yield self._of_sandboxes(figure, snapshot.sandboxes)
        yield from _states(snapshot.sandboxes)
        yield from network_families(snapshot.networks)
        yield from _unlabelled(HOST_FIGURES, snapshot.host)
        yield _host_known(snapshot.host)
        yield from _unlabelled(STORED_FIGURES, snapshot.stored)
        yield from _starts({} if snapshot.stored is None else snapshot.stored.starts)

    def _of_sandboxes(self, figure: Figure, samples: Iterable[SandboxSample]) -> Metric:
        family = _family(figure, ["sandbox"])
        for sample in samples:
            value = getattr(sample, figure.attribute)
            if figure.kind == "counter":
                value = self._counters.value(sample, figure.attribute, value)
            if value is not None:
                family.add_metric([sample.name], value * figure.scale)
        return family


class Counters:
    """Keeps counters from decreasing, and substitutes the last known value for an unknown one.

    A sandbox continues its totals across restarts by itself, from its history. They may still decrease if a sandbox was
    killed before it wrote a sample, or if a guest reports wrong values. A new sandbox of the same name starts at zero,
    which Prometheus handles as a counter reset.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[float | None, dict[str, float]]] = {}

    def keep(self, names: Set[str]) -> None:
        """Forget all other sandboxes: they were removed."""
        for name in self._last.keys() - names:
            del self._last[name]

    def value(self, sample: SandboxSample, name: str, value: float | None) -> float | None:
        """The value to export for ``value``."""
        created_at, last = self._last.get(sample.name, (None, {}))
        if created_at != sample.created_at:
            last = {}
        self._last[sample.name] = sample.created_at, last
        if value is not None:
            last[name] = max(value, last.get(name, value))
        return last.get(name)


def _states(samples: Iterable[SandboxSample]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "ballonet_sandbox_state", "1 for the sandbox's current state.", labels=["sandbox", "state"]
    )
    balloon = GaugeMetricFamily(
        "ballonet_sandbox_balloon_state", "1 for the balloon's current state.", labels=["sandbox", "state"]
    )
    known = GaugeMetricFamily(
        "ballonet_sandbox_known",
        "Whether the values of one source are known: balloon, host, pss, guest.",
        labels=["sandbox", "figures"],
    )
    unknown = GaugeMetricFamily(
        "ballonet_sandbox_unknown_info",
        "Why the values of one source are unknown.",
        labels=["sandbox", "figures", "reason"],
    )
    health = GaugeMetricFamily(
        "ballonet_sandbox_health",
        "1 for the guest's current health, if it is checked.",
        labels=["sandbox", "state"],
    )
    for sample in samples:
        if sample.health is not None:
            for word in HEALTH_STATES:
                health.add_metric([sample.name, word], float(sample.health == word))
        for word in STATES:
            state.add_metric([sample.name, word], float(sample.state == word))
        if sample.balloon_state is not None:
            for word in get_args(BalloonState):
                balloon.add_metric([sample.name, word], float(sample.balloon_state == word))
        for group in GROUPS:
            known.add_metric([sample.name, group], float(group not in sample.unknown))
        for group, reason in sample.unknown.items():
            unknown.add_metric([sample.name, group, reason], 1)
    yield from (state, balloon, health, known, unknown)


def _host_known(host: HostSample) -> Metric:
    known = GaugeMetricFamily(
        "ballonet_host_known",
        "Whether the host's values are known: meminfo, pressure.",
        labels=["figures"],
    )
    for group in ("meminfo", "pressure"):
        known.add_metric([group], float(group not in host.unknown))
    return known


def _unlabelled(figures: Iterable[Figure], sample: HostSample | StoredSample | None) -> Iterator[Metric]:
    for figure in figures:
        family = _family(figure, [])
        value = None if sample is None else getattr(sample, figure.attribute)
        if value is not None:
            family.add_metric([], value * figure.scale)
        yield family


def _starts(starts: Mapping[str, tuple[int, float]]) -> Iterator[Metric]:
    count = CounterMetricFamily(
        "ballonet_starts",
        "Sandboxes that were started, by how: from a template, by a boot because there was none, cold, or saved.",
        labels=["how"],
    )
    took = CounterMetricFamily(
        "ballonet_starts_seconds", "Time that these starts took, until the guest was ready.", labels=["how"]
    )
    for how, (number, took_s) in starts.items():
        count.add_metric([how], number)
        took.add_metric([how], took_s)
    yield from (count, took)


def _family(figure: Figure, labels: list[str]) -> GaugeMetricFamily | CounterMetricFamily:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    return kind(figure.metric, figure.help, labels=labels)


def _registry_of(families: Callable[[], Iterable[Metric]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    return registry


class _Collected:
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return []
