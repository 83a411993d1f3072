"""``ballonet wait``: waits until sandboxes stop."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import wait_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.epilog = (
        "Prints one line for each sandbox: the exit status of its command, or '-' if no command exited, and the "
        "reason why the sandbox stopped. A sandbox started with 'run -d --rm' is removed when it stops. If that was "
        "before 'wait' was called, its name is unknown (exit status 2), as in Docker."
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def wait(name: str) -> None:
            record = asyncio.run(wait_end(registry, name))
            if record is None:
                print("-  removed: the sandbox was removed before its exit status was read")
                return
            code = "-" if record.exit_code is None else record.exit_code
            print(
                f"{code}  {record.end_reason or record.state}: {record.end_detail or 'the sandbox was never started'}"
            )

        return for_each(options.names, wait)
