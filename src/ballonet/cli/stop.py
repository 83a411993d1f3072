"""``ballonet stop``: stops sandboxes: gracefully, and by force after a timeout."""

from __future__ import annotations

import argparse

from ballonet.cli.name_arguments import add_group, for_group, group_of, is_group
from ballonet.lifecycle.record import Record, State
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import STOP_TIMEOUT_S, run_blocking, stop_sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_group(parser, of="all running sandboxes")
    parser.add_argument(
        "-t",
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=STOP_TIMEOUT_S,
        help="seconds to wait for a graceful stop before killing; 0: kill at once, -1: wait forever (default: 10)",
    )
    parser.epilog = (
        "--all and --filter do not include paused sandboxes, unless the filter is state=paused: a stop discards their "
        "processes."
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        async def stop(name: str) -> Record | None:
            return await stop_sandbox(registry, name, timeout_s=options.timeout)

        names = group_of(registry, options, (State.STARTING, State.RUNNING))
        return for_group(names, stop, run_blocking, may_be_gone=is_group(options))
