"""``ballonet plot``: plots the memory of sandboxes over time, from their histories."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from ballonet.base.errors import ConfigError
from ballonet.cli.history import add_since
from ballonet.cli.logs import parse_since
from ballonet.cli.name_arguments import add_names
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.samples import history_path
from ballonet.metrics.history import read_history
from ballonet.metrics.model import SandboxSample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE.{png,svg,pdf}", type=Path, required=True, help="the file to write"
    )
    add_since(parser)
    parser.epilog = (
        "Exit status: 0; 2 for usage errors, or if a sandbox has no samples; 125 for other failures."
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.metrics.plotting import check_can_draw, draw

    check_can_draw(options.output, "--output")
    now = time.time()
    since = None if options.since is None else parse_since(options.since, now)
    histories: list[list[SandboxSample]] = []
    until: list[float | None] = []
    for name in dict.fromkeys(options.names):
        with Registry.open() as registry:
            record = lifecycle.find(registry, name)
        run_id = None if living(record) is None else record.run_id
        samples = in_force(read_history(history_path(name)), since, now, run_id)
        if not samples:
            raise ConfigError(
                f"sandbox {name!r} has no samples{f' since {options.since}' if options.since else ''}",
                hint="samples are recorded while a sandbox runs, at least once a minute",
            )
        histories.append(samples)
        until.append(now if run_id is not None and samples[-1].run_id == run_id else None)
    draw(histories, options.output, until=until)
    print(f"plot written to {options.output}")
    return 0


def in_force(
    samples: list[SandboxSample], since: float | None, now: float, living: str | None
) -> list[SandboxSample]:
    """The samples from ``since`` on, preceded by the one that was in force at that time.

    :param living: the ID of the current run. Its last sample is in force until ``now``: a sandbox in which nothing
        changes is sampled once a minute.
    """
    from ballonet.metrics.plotting import GAP_S

    if since is None:
        return samples
    later = [sample for sample in samples if sample.at >= since]
    earlier = [sample for sample in samples if sample.at < since]
    if not earlier or since >= now:
        return later
    before = earlier[-1]
    if later:
        holds = before.run_id == later[0].run_id and later[0].at - before.at <= GAP_S
    else:
        holds = living is not None and before.run_id == living
    return [replace(before, at=since), *later] if holds else later
