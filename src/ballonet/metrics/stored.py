"""What sandboxes have on disk, and how they were started, at one time. Pure. Only the exporter reads it."""

from __future__ import annotations

from collections.abc import Mapping

from ballonet.base.dataclass import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """Sizes are bytes; ``None``: unknown."""

    paused: int | None = None
    paused_bytes: int | None = None
    snapshots: int | None = None
    snapshots_bytes: int | None = None
    templates: int | None = None
    templates_bytes: int | None = None
    #: By how sandboxes were started: how many were, and how long that took in all (seconds).
    starts: Mapping[str, tuple[int, float]] = field(default_factory=dict)
