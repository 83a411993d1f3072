"""``ballonet rm``: removes sandboxes with their logs and disks."""

from __future__ import annotations

import argparse

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import remove_sandbox, run_blocking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument("-f", "--force", action="store_true", help="kill running sandboxes first")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        def remove(name: str) -> None:
            run_blocking(remove_sandbox(registry, name, force=options.force))
            print(name)

        return for_each(options.names, remove)
