"""``ballonet kill``: sends a signal to the commands of sandboxes, or ends sandboxes at once."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.name_arguments import add_group, for_group, group_of, is_group
from ballonet.lifecycle.record import State
from ballonet.lifecycle.registry import Registry

_EPILOG = """\
SIGKILL ends the sandbox like a power cut, without a shutdown of its guest.
Other signals go to the sandbox's own command: the one that was given to
'run -d' or 'create'. SIGNAL is a name or a number: HUP, SIGUSR1, 10."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_group(parser, of="all running sandboxes")
    parser.add_argument("-s", "--signal", default="KILL", help="signal to send (default: KILL)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.images.image import signal_number
    from ballonet.lifecycle.signals import signal_sandbox

    number = signal_number(options.signal)
    with Registry.open() as registry:

        async def kill(name: str) -> None:
            await signal_sandbox(registry, name, number)

        names = group_of(registry, options, (State.STARTING, State.RUNNING))
        return for_group(names, kill, asyncio.run, may_be_gone=is_group(options))
