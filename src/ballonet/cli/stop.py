"""``ballonet stop``: end sandboxes, in order if they let it happen."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.names import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, stop_sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_TIMEOUT_S,
        help="how long the end in order may take until it is forced; 0: at once, -1: never (default: 10)",
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def stop(name: str) -> None:
            asyncio.run(stop_sandbox(registry, name, timeout_s=options.timeout))
            print(name)

        return for_each(options.names, stop)
