"""``ballonet stop``: stops sandboxes: gracefully, and by force after a timeout."""

from __future__ import annotations

import argparse

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, run_blocking, stop_sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_TIMEOUT_S,
        help="seconds to wait for a graceful stop before killing; 0: kill at once, -1: wait forever (default: 10)",
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def stop(name: str) -> None:
            run_blocking(stop_sandbox(registry, name, timeout_s=options.timeout))
            print(name)

        return for_each(options.names, stop)
