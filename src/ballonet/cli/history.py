"""``ballonet history``: shows a sandbox's memory over time, from the samples that its process records."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from ballonet.base.memory import bytes_to_mib
from ballonet.cli.logs import parse_since
from ballonet.cli.output import print_json, print_table
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import history_path
from ballonet.metrics.columns import row, write_csv
from ballonet.metrics.history import read_history
from ballonet.metrics.model import SandboxSample

_HEADINGS = (
    "TIME (UTC)",
    "TARGET",
    "ACTUAL",
    "LIMIT",
    "GUEST",
    "ENGINE",
    "AVAILABLE",
    "AGE",
    "STALLED",
    "STATE",
)
#: On a terminal that is too narrow, these columns are omitted in this order.
_OMITTED_FIRST = ("AGE", "LIMIT", "STALLED", "ENGINE")
_EPILOG = f"""\
columns:
  TARGET     requested memory of the guest
  ACTUAL     current memory of the guest
  LIMIT      upper limit of the target
  GUEST      host memory used by the guest's RAM
  ENGINE     host memory used by the engine itself
  AVAILABLE  available memory, as reported by the guest
  AGE        age of the guest's report
  STALLED    time that guest tasks waited for memory since the previous line
  STATE      state of the balloon

On a terminal that is too narrow, columns are omitted in this order:
{", ".join(_OMITTED_FIRST)}. Pipes and files always get all columns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sandbox, running or not")
    add_since(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, a list of objects; sizes in bytes")
    form.add_argument("--csv", action="store_true", help="print CSV with a header line; sizes in bytes")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def add_since(parser: argparse.ArgumentParser) -> None:
    """Add ``--since``."""
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="show only samples since then: 10m or 2h (ago), or a time such as 2026-01-31T12:00:00Z",
    )


def run(options: argparse.Namespace) -> int:
    samples = load(options.name, options.since)
    if options.json:
        return print_json([row(sample) for sample in samples])
    if options.csv:
        write_csv(samples, sys.stdout)
        return 0
    print_table(_HEADINGS, _lines(samples), omit=_OMITTED_FIRST)
    return 0


def load(name: str, since: str | None) -> list[SandboxSample]:
    """Read a sandbox's history.

    :param since: the value of ``--since``.
    :raises UnknownSandboxError: there is no such sandbox.
    :raises ConfigError: ``since`` is not a time.
    """
    earliest = None if since is None else parse_since(since, time.time())
    with Registry.open() as registry:
        lifecycle.find(registry, name)
    return read_history(history_path(name), earliest)


def _lines(samples: Sequence[SandboxSample]) -> list[tuple[str | None, ...]]:
    lines = []
    before: SandboxSample | None = None
    for sample in samples:
        sizes = (sample.target, sample.actual, sample.limit, sample.guest_ram, sample.overhead)
        lines.append(
            (
                time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(sample.at)),
                *(_mib(size) for size in (*sizes, sample.guest_available)),
                None if sample.guest_age_s is None else f"{sample.guest_age_s:.1f}s",
                _stalled(before, sample),
                sample.balloon_state,
            )
        )
        before = sample
    return lines


def _stalled(before: SandboxSample | None, sample: SandboxSample) -> str | None:
    if before is None or before.pressure_some_us is None or sample.pressure_some_us is None:
        return None
    return f"{(sample.pressure_some_us - before.pressure_some_us) / 1e6:.2f}s"


def _mib(size: int | None) -> str | None:
    return None if size is None else f"{bytes_to_mib(size)}M"
