"""``ballonet wait``: until sandboxes have ended."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.names import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import wait_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.epilog = (
        "Prints a line for each: the exit status of its command, or '-' if it had none that ended, and why the "
        "sandbox ended."
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def wait(name: str) -> None:
            record = asyncio.run(wait_end(registry, name))
            if record is None:
                print("-  removed: it went away with its end")
                return
            code = "-" if record.exit_code is None else record.exit_code
            print(
                f"{code}  {record.end_reason or record.state}: {record.end_detail or 'it was never started'}"
            )

        return for_each(options.names, wait)
