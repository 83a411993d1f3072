"""``ballonet pause``: saves running sandboxes to disk, with their processes."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry

_EPILOG = """\
A paused sandbox takes no memory, only disk space. 'ballonet resume' and the
next 'ballonet exec' continue its processes where they were. 'ballonet stop'
discards them. Network connections do not survive."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument(
        "--force", action="store_true", help="even if commands of 'exec' or 'cp' are running, which ends them"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.pause import pause_sandbox

    with Registry.open() as registry:

        def pause(name: str) -> None:
            asyncio.run(pause_sandbox(registry, name, force=options.force))
            print(name)

        return for_each(options.names, pause)
