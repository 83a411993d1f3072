"""All figures of the model: name in Prometheus, unit, meaning and source. Pure.

Names follow Prometheus' naming practices: base units, and ``_total`` for counters, which the text format adds. A test
compares this table with ``docs/metrics.md``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

#: The source of a figure, which determines its age. ``config``; ``balloon``: the engine, at the time of the scrape;
#: ``host``: ``/proc`` of the engine's process, at the time of the scrape; ``pss``: the same, updated less often;
#: ``guest``: the guest's last report; ``files``: the sizes of files, at the time of the scrape.
Source = Literal["config", "balloon", "host", "pss", "guest", "files"]


class Figure(NamedTuple):
    """One number of :class:`~ballonet.metrics.model.SandboxSample`, ``HostSample`` or
    :class:`~ballonet.metrics.stored.StoredSample`, as a metric."""

    attribute: str
    metric: str
    kind: Literal["gauge", "counter"]
    help: str
    source: Source
    #: Factor from the attribute to the metric's unit.
    scale: float = 1.0


def _size(name: str, help: str, source: Source) -> Figure:
    return Figure(name, f"ballonet_sandbox_memory_{name}_bytes", "gauge", help, source)


SANDBOX_FIGURES: tuple[Figure, ...] = (
    _size("ceiling", "Upper limit of the guest's memory, fixed at creation.", "config"),
    _size("floor", "Lower limit for targets.", "balloon"),
    _size("requested", "The last requested target, before clamping to floor and ceiling.", "balloon"),
    _size("target", "The target in force: the request after clamping.", "balloon"),
    _size("actual", "The guest's current memory as reported by the engine.", "balloon"),
    _size(
        "limit",
        "Upper limit in force for targets and pressure relief: the host's limit or the ceiling.",
        "balloon",
    ),
    _size("resident", "Host memory (RSS) of the engine's process.", "host"),
    _size("pss", "Host memory (PSS) of the engine's process: shared pages count in proportion.", "pss"),
    _size("guest_ram", "Host memory that backs the guest's RAM.", "host"),
    _size("overhead", "Host memory of the engine itself: resident minus guest RAM.", "host"),
    _size("unheld", "Part of the ceiling that the host does not back: ceiling minus guest RAM.", "host"),
    _size("guest_total", "Total memory in the guest (MemTotal).", "guest"),
    _size("guest_free", "Unused memory in the guest (MemFree).", "guest"),
    _size(
        "guest_available",
        "Memory available to new programs in the guest without swapping (MemAvailable).",
        "guest",
    ),
    _size("guest_caches", "Page cache and buffers of the guest.", "guest"),
    _size("guest_swap_total", "Total swap space of the guest.", "guest"),
    _size("guest_swap_free", "Unused swap space of the guest.", "guest"),
    Figure(
        "pss_age_s",
        "ballonet_sandbox_memory_pss_age_seconds",
        "gauge",
        "Age of the PSS value, which is costly to read and updated at most twice a minute.",
        "pss",
    ),
    Figure(
        "guest_age_s",
        "ballonet_sandbox_guest_report_age_seconds",
        "gauge",
        "Age of the guest's last report.",
        "guest",
    ),
    Figure(
        "guest_uptime_s",
        "ballonet_sandbox_guest_uptime_seconds",
        "gauge",
        "Time since the guest's boot, by its own clock, at its last report.",
        "guest",
    ),
    Figure(
        "pressure_some_avg10",
        "ballonet_sandbox_pressure_memory_some_avg10_ratio",
        "gauge",
        "Share of the last 10 s during which at least one task of the guest waited for memory.",
        "guest",
        0.01,
    ),
    Figure(
        "pressure_full_avg10",
        "ballonet_sandbox_pressure_memory_full_avg10_ratio",
        "gauge",
        "Share of the last 10 s during which all tasks of the guest waited for memory.",
        "guest",
        0.01,
    ),
    Figure(
        "pressure_some_us",
        "ballonet_sandbox_pressure_memory_waiting_seconds",
        "counter",
        "Time during which at least one task of the guest waited for memory.",
        "guest",
        1e-6,
    ),
    Figure(
        "pressure_full_us",
        "ballonet_sandbox_pressure_memory_stalled_seconds",
        "counter",
        "Time during which all tasks of the guest waited for memory.",
        "guest",
        1e-6,
    ),
    Figure(
        "major_faults",
        "ballonet_sandbox_memory_guest_major_faults",
        "counter",
        "Page faults in the guest that required disk access.",
        "guest",
    ),
    Figure(
        "swap_in",
        "ballonet_sandbox_memory_guest_swap_in_bytes",
        "counter",
        "Memory that the guest read from swap.",
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
        "Processes that the guest's kernel killed because it was out of memory.",
        "guest",
    ),
    Figure(
        "reclaimed",
        "ballonet_sandbox_memory_reclaimed_bytes",
        "counter",
        "Guest RAM that was returned to the host (a lower bound: sampled).",
        "host",
    ),
)

HOST_FIGURES: tuple[Figure, ...] = (
    Figure("total", "ballonet_host_memory_total_bytes", "gauge", "Total memory of the host.", "host"),
    Figure(
        "available",
        "ballonet_host_memory_available_bytes",
        "gauge",
        "Memory available to new programs on the host without swapping.",
        "host",
    ),
    Figure(
        "committed",
        "ballonet_host_memory_committed_bytes",
        "gauge",
        "Sum of the ceilings of all running sandboxes.",
        "config",
    ),
    Figure(
        "promised",
        "ballonet_host_memory_promised_bytes",
        "gauge",
        "Sum of the targets of all running sandboxes; where a target is unknown, the ceiling.",
        "balloon",
    ),
    Figure(
        "held",
        "ballonet_host_memory_held_bytes",
        "gauge",
        "Sum of the resident memory of all running sandboxes' engines.",
        "host",
    ),
    Figure(
        "overcommit",
        "ballonet_host_memory_overcommit_ratio",
        "gauge",
        "Committed memory divided by the host's total memory.",
        "host",
    ),
    Figure(
        "pressure_some_avg10",
        "ballonet_host_pressure_memory_some_avg10_ratio",
        "gauge",
        "Share of the last 10 s during which at least one task of the host waited for memory.",
        "host",
        0.01,
    ),
    Figure(
        "pressure_some_s",
        "ballonet_host_pressure_memory_waiting_seconds",
        "counter",
        "Time since boot during which at least one task of the host waited for memory.",
        "host",
    ),
    Figure(
        "pressure_full_s",
        "ballonet_host_pressure_memory_stalled_seconds",
        "counter",
        "Time since boot during which all tasks of the host waited for memory.",
        "host",
    ),
)

STORED_FIGURES: tuple[Figure, ...] = (
    Figure("paused", "ballonet_paused_sandboxes", "gauge", "Number of paused sandboxes.", "files"),
    Figure(
        "paused_bytes",
        "ballonet_paused_sandboxes_bytes",
        "gauge",
        "Size of the saved states of paused sandboxes: what they would take of the host's memory at first.",
        "files",
    ),
    Figure("snapshots", "ballonet_snapshots", "gauge", "Number of snapshots.", "files"),
    Figure(
        "snapshots_bytes", "ballonet_snapshots_bytes", "gauge", "What snapshots take of the disk.", "files"
    ),
    Figure("templates", "ballonet_templates", "gauge", "Number of start templates.", "files"),
    Figure(
        "templates_bytes",
        "ballonet_templates_bytes",
        "gauge",
        "What start templates take of the disk.",
        "files",
    ),
)

#: The values of the label ``figures`` of ``ballonet_sandbox_known``: the sources of a sample's figures.
GROUPS = ("balloon", "host", "pss", "guest")
