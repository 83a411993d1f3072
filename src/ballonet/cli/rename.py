"""``ballonet rename``: gives a sandbox another name."""

from __future__ import annotations

import argparse

from ballonet.lifecycle.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of a sandbox that is not running")
    parser.add_argument("new", metavar="NEW", help="its new name")


def run(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.rename import rename_sandbox

    with Registry.open() as registry:
        print(rename_sandbox(registry, options.name, options.new).name)
    return 0
