"""What networks have counted, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric

from ballonet.metrics.model import NetworkSample

_PREFIX = "ballonet_sandbox_network"
#: Each figure that a sandbox has once: the end of its name, its meaning, and its attribute.
_TOTALS = (
    ("sent_bytes", "Bytes that the guest sent, IP headers included.", "sent_bytes"),
    ("received_bytes", "Bytes that the guest received, IP headers included.", "received_bytes"),
    ("names_asked", "Names that the guest asked for.", "names_asked"),
    ("names_refused", "Names that the guest asked for and that were not forwarded.", "names_refused"),
)
#: Each figure that a sandbox has for each of its rules.
_BY_RULE = (
    ("connections_allowed", "Connections that were allowed, by rule.", "allowed"),
    ("connections_refused", "Connections that were refused, by rule.", "refused"),
)


def network_families(samples: Sequence[NetworkSample]) -> Iterator[Metric]:
    """The counters of these networks."""
    for end, meaning, attribute in _TOTALS:
        family = CounterMetricFamily(f"{_PREFIX}_{end}", meaning, labels=["sandbox"])
        for sample in samples:
            family.add_metric([sample.name], getattr(sample, attribute))
        yield family
    for end, meaning, attribute in _BY_RULE:
        family = CounterMetricFamily(f"{_PREFIX}_{end}", meaning, labels=["sandbox", "rule"])
        for sample in samples:
            for rule, count in getattr(sample, attribute).items():
                family.add_metric([sample.name, rule], count)
        yield family
