"""Each figure of the model in words: its name in Prometheus, its unit, what it means, and whose word it is. Pure.

Names follow Prometheus' naming practices: base units, ``_total`` on counters; the text format adds that ending. The
reference page, ``docs/metrics.md``, has the same table; a test keeps the two equal.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: Where a figure comes from, which also says how old it may be: ``config``; ``balloon``: the engine's, as of the
#: scrape; ``host``: ``/proc`` of the engine's process, as of the scrape; ``pss``: the same, on a slower clock;
#: ``guest``: the guest's own word.
Source = Literal["config", "balloon", "host", "pss", "guest"]


class Figure(NamedTuple):
    """One number of :class:`~ballonet.metrics.model.SandboxSample` or ``HostSample``, as a metric."""

    attribute: str
    metric: str
    kind: Literal["gauge", "counter"]
    help: str
    source: Source
    #: What the attribute is multiplied by to be in the metric's unit.
    scale: float = 1.0


def _size(name: str, help: str, source: Source) -> Figure:
    return Figure(name, f"ballonet_sandbox_memory_{name}_bytes", "gauge", help, source)


SANDBOX_FIGURES: tuple[Figure, ...] = (
    _size("ceiling", "The most memory that the guest may ever have.", "config"),
    _size("floor", "The least that a target may ask for.", "balloon"),
    _size("requested", "What was last asked for, before clamping.", "balloon"),
    _size("target", "What the guest is to have: the request after clamping.", "balloon"),
    _size("actual", "What the guest has, by the engine's word.", "balloon"),
    _size(
        "limit",
        "The most that a target or relief may reach now: the host's limit, or the ceiling.",
        "balloon",
    ),
    _size("resident", "Host memory (RSS) of the virtual machine's process.", "host"),
    _size("pss", "Host memory of that process, with shared pages counted by share.", "pss"),
    _size("guest_ram", "Host memory that holds the guest's RAM alone.", "host"),
    _size("overhead", "Host memory of the engine itself: resident less guest RAM.", "host"),
    _size("unheld", "Ceiling less the guest RAM that the host holds.", "host"),
    _size("guest_total", "All memory that the guest's kernel manages.", "guest"),
    _size("guest_free", "Memory that the guest does not use at all.", "guest"),
    _size("guest_available", "Memory that new programs in the guest could have without swapping.", "guest"),
    _size("guest_caches", "The guest's page cache and buffers.", "guest"),
    _size("guest_swap_total", "Swap space that the guest has.", "guest"),
    _size("guest_swap_free", "The part of the guest's swap space that is not used.", "guest"),
    Figure(
        "pss_age_s",
        "ballonet_sandbox_memory_pss_age_seconds",
        "gauge",
        "How old the PSS figure is; it is costly, and read twice a minute at most.",
        "pss",
    ),
    Figure(
        "guest_age_s",
        "ballonet_sandbox_guest_report_age_seconds",
        "gauge",
        "How old the guest's own figures are.",
        "guest",
    ),
    Figure(
        "guest_uptime_s",
        "ballonet_sandbox_guest_uptime_seconds",
        "gauge",
        "The guest's own clock at its report: time since its boot.",
        "guest",
    ),
    Figure(
        "pressure_some_avg10",
        "ballonet_sandbox_pressure_memory_some_avg10_ratio",
        "gauge",
        "Share of the last 10 s in which some task of the guest waited for memory.",
        "guest",
        0.01,
    ),
    Figure(
        "pressure_full_avg10",
        "ballonet_sandbox_pressure_memory_full_avg10_ratio",
        "gauge",
        "Share of the last 10 s in which all tasks of the guest waited for memory.",
        "guest",
        0.01,
    ),
    Figure(
        "pressure_some_us",
        "ballonet_sandbox_pressure_memory_waiting_seconds",
        "counter",
        "Time in which some task of the guest waited for memory.",
        "guest",
        1e-6,
    ),
    Figure(
        "pressure_full_us",
        "ballonet_sandbox_pressure_memory_stalled_seconds",
        "counter",
        "Time in which all tasks of the guest waited for memory.",
        "guest",
        1e-6,
    ),
    Figure(
        "major_faults",
        "ballonet_sandbox_memory_guest_major_faults",
        "counter",
        "Page faults in the guest that needed a disk.",
        "guest",
    ),
    Figure(
        "swap_in",
        "ballonet_sandbox_memory_guest_swap_in_bytes",
        "counter",
        "Memory that the guest read back from swap.",
        "guest",
    ),
    Figure(
        "swap_out",
        "ballonet_sandbox_memory_guest_swap_out_bytes",
        "counter",
        "Memory that the guest wrote to swap.",
        "guest",
    ),
    Figure(
        "oom_kills",
        "ballonet_sandbox_memory_guest_oom_kills",
        "counter",
        "Processes that the guest's kernel killed for lack of memory.",
        "guest",
    ),
    Figure(
        "reclaimed",
        "ballonet_sandbox_memory_reclaimed_bytes",
        "counter",
        "Guest RAM that came back to the host, as far as it was seen.",
        "host",
    ),
)

HOST_FIGURES: tuple[Figure, ...] = (
    Figure("total", "ballonet_host_memory_total_bytes", "gauge", "The host's memory.", "host"),
    Figure(
        "available",
        "ballonet_host_memory_available_bytes",
        "gauge",
        "What new programs on the host could have without swapping.",
        "host",
    ),
    Figure(
        "committed",
        "ballonet_host_memory_committed_bytes",
        "gauge",
        "The ceilings of all running sandboxes together.",
        "config",
    ),
    Figure(
        "promised",
        "ballonet_host_memory_promised_bytes",
        "gauge",
        "The targets of all running sandboxes together; of one whose target is unknown, its ceiling.",
        "balloon",
    ),
    Figure(
        "held",
        "ballonet_host_memory_held_bytes",
        "gauge",
        "Resident memory of the processes of all running sandboxes together.",
        "host",
    ),
    Figure(
        "overcommit",
        "ballonet_host_memory_overcommit_ratio",
        "gauge",
        "Committed memory for each byte of the host's.",
        "host",
    ),
    Figure(
        "pressure_some_avg10",
        "ballonet_host_pressure_memory_some_avg10_ratio",
        "gauge",
        "Share of the last 10 s in which some task of the host waited for memory.",
        "host",
        0.01,
    ),
    Figure(
        "pressure_some_s",
        "ballonet_host_pressure_memory_waiting_seconds",
        "counter",
        "Time since the host's boot in which some task of it waited for memory.",
        "host",
    ),
    Figure(
        "pressure_full_s",
        "ballonet_host_pressure_memory_stalled_seconds",
        "counter",
        "Time since the host's boot in which all tasks of it waited for memory.",
        "host",
    ),
)

#: Where a sample's figures come from, as the label ``figures`` of ``ballonet_sandbox_known``.
GROUPS = ("balloon", "host", "pss", "guest")
