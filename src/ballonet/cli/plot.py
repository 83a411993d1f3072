"""``ballonet plot``: draw what sandboxes' memory was, from their histories."""

from __future__ import annotations

import argparse
from pathlib import Path

from ballonet.cli.history import add_since, load
from ballonet.cli.names import add_names
from ballonet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE.{png,svg,pdf}", type=Path, required=True, help="where to draw it"
    )
    add_since(parser)


def run(options: argparse.Namespace) -> int:
    from ballonet.metrics.drawing import check_can_draw, draw

    check_can_draw(options.output, "--output")
    histories = []
    for name in dict.fromkeys(options.names):
        samples = load(name, options.since)
        if not samples:
            raise ConfigError(
                f"sandbox {name!r} has no samples{f' since {options.since}' if options.since else ''}",
                hint="a sandbox takes them while it runs, one a minute at least",
            )
        histories.append(samples)
    draw(histories, options.output)
    print(f"drawn in {options.output}")
    return 0
