"""``ballonet prune``: cleans up after sandboxes whose processes were killed. Running sandboxes are not affected."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.host.cgroup import prune_groups
from ballonet.lifecycle import prune as strays
from ballonet.lifecycle.registry import Registry
from ballonet.machine.hardcap import GROUP_PREFIX
from ballonet.machine.run_directory import prune_run_directories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="kill running sandboxes that are missing from the registry, instead of registering them again",
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        done = asyncio.run(strays.prune(registry, force=options.force))
    done += [f"removed {name}" for name in prune_run_directories()]
    done += [f"removed cgroup {name}" for name in prune_groups(GROUP_PREFIX)]
    for line in done:
        print(line)
    if not done:
        print("nothing to remove")
    return 0
