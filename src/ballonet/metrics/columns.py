"""The columns of samples in JSON and CSV. Pure.

Sizes are bytes, times unix seconds, ``*_s`` seconds, ``*_us`` microseconds, ``*_avg10`` percent. An unknown value is
null in JSON and an empty cell in CSV.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Any, TextIO

from ballonet.base.dataclass import fields
from ballonet.metrics.model import HostSample, SandboxSample

_NOT_COLUMNS = ("at", "unknown", "created_at", "health")
#: The columns in order; values derived from others come last.
COLUMNS = (
    "at",
    *(field.name for field in fields(SandboxSample) if field.name not in _NOT_COLUMNS),
    "overhead",
    "unheld",
)


def row(sample: SandboxSample) -> dict[str, Any]:
    """A sample by column, and ``unknown``: why values are unknown."""
    return {name: getattr(sample, name) for name in COLUMNS} | {"unknown": dict(sample.unknown)}


def host_row(host: HostSample) -> dict[str, Any]:
    """The host's values by name."""
    names = [field.name for field in fields(HostSample)]
    return {name: getattr(host, name) for name in (*names, "overcommit")} | {"unknown": dict(host.unknown)}


def write_csv(samples: Iterable[SandboxSample], file: TextIO) -> None:
    """A header line and one line per sample (RFC 4180, but with plain newlines)."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(sample, name) for name in COLUMNS] for sample in samples)
