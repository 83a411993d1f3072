"""``ballonet wait``: waits until sandboxes stop."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.base.errors import ConfigError
from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import wait_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "--healthy", action="store_true", help="wait until they are healthy, not until they stop"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="with --healthy: fail after this time"
    )
    parser.epilog = (
        "Prints one line for each sandbox: the exit status of its command, or '-' if no command exited, and the "
        "reason why the sandbox stopped. A sandbox started with 'run -d --rm' is removed when it stops. If that was "
        "before 'wait' was called, its name is unknown (exit status 2), as in Docker."
    )


def run(options: argparse.Namespace) -> int:
    if options.healthy:
        return _wait_healthy(options)
    if options.timeout is not None:
        raise ConfigError(
            "--timeout needs --healthy", hint="or use timeout(1): timeout 10 ballonet wait NAME"
        )
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


def _wait_healthy(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.health import wait_healthy

    if options.timeout is not None and options.timeout < 0:
        raise ConfigError(f"--timeout {options.timeout:g} is negative")
    with Registry.open() as registry:

        def wait(name: str) -> None:
            asyncio.run(wait_healthy(registry, name, options.timeout))
            print(name)

        return for_each(options.names, wait)
