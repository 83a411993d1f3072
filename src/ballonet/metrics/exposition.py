"""The model as Prometheus metrics, through prometheus-client. Names: base units, ``_total`` on counters, label
``sandbox`` (Prometheus' naming practices). What is unknown has no sample."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ballonet.metrics.model import SandboxSample, Snapshot, Totals

_PREFIX = "ballonet_sandbox_"
_STATES = ("created", "starting", "running", "stopped", "failed")

#: Gauges in bytes, ``ballonet_sandbox_memory_NAME_bytes``.
_SIZES: dict[str, str] = {
    "ceiling": "The most memory that the guest may ever have.",
    "floor": "The least that a target may ask for.",
    "requested": "What was last asked for, before clamping.",
    "target": "What the guest is to have.",
    "actual": "What the guest has, by the engine's word.",
    "limit": "The most that a target or relief may give: the host's limit, or the ceiling.",
    "resident": "Host memory (RSS) of the virtual machine's process.",
    "pss": "Host memory of that process, shared pages counted by share.",
    "guest_ram": "Host memory that holds the guest's RAM alone.",
    "overhead": "Host memory of the engine itself: resident less guest RAM.",
    "reclaimed": "Ceiling less the guest RAM that the host holds.",
    "guest_total": "All memory that the guest's kernel manages, by its own word.",
    "guest_free": "Memory that the guest does not use, by its own word.",
    "guest_available": "Memory that new programs in the guest could have, by its own word.",
    "guest_caches": "The guest's page cache, by its own word.",
}
#: Counters since the sandbox was first seen, restarts included.
_COUNTERS: dict[str, tuple[str, str]] = {
    "major_faults": ("memory_guest_major_faults", "Page faults in the guest that needed a disk."),
    "swap_in": ("memory_guest_swap_in_bytes", "Memory that the guest read back from swap."),
    "swap_out": ("memory_guest_swap_out_bytes", "Memory that the guest wrote to swap."),
    "oom_kills": ("memory_guest_oom_kills", "Processes that the guest's kernel killed for lack of memory."),
    "pressure_some_s": (
        "pressure_memory_waiting_seconds",
        "Time in which some task of the guest waited for memory.",
    ),
    "pressure_full_s": (
        "pressure_memory_stalled_seconds",
        "Time in which all tasks of the guest waited for memory.",
    ),
}


class Exporter:
    """Renders snapshots; keeps what counters need to survive a sandbox's restart."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._turn = threading.Lock()

    def registry(self, take: Callable[[], Snapshot]) -> CollectorRegistry:
        """For prometheus-client's own server: each scrape takes a snapshot, one at a time."""

        def families() -> Iterator[Metric]:
            with self._turn:
                yield from self._families(take())

        registry = CollectorRegistry()
        registry.register(_Collected(families))
        return registry

    def render(self, snapshot: Snapshot) -> bytes:
        """The text format, version 0.0.4."""
        return generate_latest(self.registry(lambda: snapshot))

    def _families(self, snapshot: Snapshot) -> Iterator[Metric]:
        samples = snapshot.sandboxes
        for name, text in _SIZES.items():
            yield _gauge(f"memory_{name}_bytes", text, samples, name)
        yield _gauge(
            "pressure_memory_some_avg10_ratio",
            "Share of the last 10 s in which some task of the guest waited for memory.",
            samples,
            "pressure_some_avg10",
            scale=0.01,
        )
        for name, (metric, text) in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + metric, text, labels=["sandbox"])
            for sample in samples:
                value = self._totals.add(sample, name, getattr(sample, name))
                if value is not None:
                    counter.add_metric([sample.name], value)
            yield counter
        state = GaugeMetricFamily(
            _PREFIX + "state", "1 for the state that it is in.", labels=["sandbox", "state"]
        )
        balloon = GaugeMetricFamily(
            _PREFIX + "balloon_state", "1 for the balloon's state.", labels=["sandbox", "state"]
        )
        age = GaugeMetricFamily(
            _PREFIX + "guest_report_age_seconds", "How old the guest's own figures are.", labels=["sandbox"]
        )
        known = GaugeMetricFamily(
            _PREFIX + "known",
            "0 where some figures are unknown; reason says why.",
            labels=["sandbox", "reason"],
        )
        for sample in samples:
            for name in _STATES:
                state.add_metric([sample.name, name], float(sample.state == name))
            if sample.balloon_state is not None:
                balloon.add_metric([sample.name, sample.balloon_state], 1)
            if sample.guest_at is not None:
                age.add_metric([sample.name], max(0.0, sample.at - sample.guest_at))
            known.add_metric([sample.name, sample.unknown or ""], float(sample.unknown is None))
        yield from (state, balloon, age, known)
        yield from _host(snapshot)


class _Collected:
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return []


def _gauge(
    metric: str, text: str, samples: Iterable[SandboxSample], name: str, *, scale: float = 1.0
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(_PREFIX + metric, text, labels=["sandbox"])
    for sample in samples:
        value = getattr(sample, name)
        if value is not None:
            family.add_metric([sample.name], value * scale)
    return family


def _host(snapshot: Snapshot) -> Iterator[Metric]:
    host = snapshot.host
    for name, text, value in (
        ("memory_total_bytes", "The host's memory.", host.total),
        ("memory_available_bytes", "What new programs on the host could have.", host.available),
        ("memory_committed_bytes", "The ceilings of all running sandboxes together.", host.committed),
        ("memory_promised_bytes", "The targets of all running sandboxes together.", host.promised),
        ("memory_held_bytes", "What the processes of all running sandboxes hold.", host.held),
        ("memory_overcommit_ratio", "Committed memory for each byte of the host's.", host.overcommit),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"ballonet_host_{name}", text, value=value)
    for name, text, value in (
        (
            "waiting",
            "Time since boot in which some task of the host waited for memory.",
            host.pressure_some_s,
        ),
        (
            "stalled",
            "Time since boot in which all tasks of the host waited for memory.",
            host.pressure_full_s,
        ),
    ):
        if value is not None:
            yield CounterMetricFamily(f"ballonet_host_pressure_memory_{name}_seconds", text, value=value)
