"""``ballonet rm``: removes sandboxes with their logs and disks."""

from __future__ import annotations

import argparse

from ballonet.cli.name_arguments import add_group, for_group, group_of, is_group
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.stop import remove_sandbox, run_blocking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_group(parser, of="all sandboxes")
    parser.add_argument("-f", "--force", action="store_true", help="kill running sandboxes first")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:

        async def remove(name: str) -> None:
            await remove_sandbox(registry, name, force=options.force)

        return for_group(group_of(registry, options), remove, run_blocking, may_be_gone=is_group(options))
