"""``ballonet touch``: counts sandboxes as used now, so that their idle timeouts begin again."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.lifecycle.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)


def run(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.pause import touch_sandbox

    with Registry.open() as registry:

        def touch(name: str) -> None:
            asyncio.run(touch_sandbox(registry, name))
            print(name)

        return for_each(options.names, touch)
