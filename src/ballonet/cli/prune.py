"""``ballonet prune``: cleans up after sandboxes whose processes were killed, and removes start templates. Running
sandboxes are not affected."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.host.cgroup import prune_groups
from ballonet.lifecycle import prune as strays
from ballonet.lifecycle.registry import Registry
from ballonet.lifecycle.snapshots import Snapshots
from ballonet.machine.hardcap import GROUP_PREFIX
from ballonet.machine.run_directory import prune_run_directories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="kill running sandboxes that are missing from the registry, instead of registering them again",
    )
    parser.add_argument(
        "--templates",
        action="store_true",
        help="also remove all start templates; the next start of each kind of sandbox boots, and makes one again",
    )


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        done = asyncio.run(strays.prune(registry, force=options.force))
    done += [f"removed {name}" for name in prune_run_directories()]
    done += [f"removed cgroup {name}" for name in prune_groups(GROUP_PREFIX)]
    done += [f"removed the incomplete snapshot {name}" for name in Snapshots.open().prune()]
    if options.templates:
        from ballonet.machine.templates import prune_templates, templates_dir

        done += [f"removed start template {path.name}" for path in prune_templates(templates_dir(), most=0)]
    for line in done:
        print(line)
    if not done:
        print("nothing to remove")
    return 0
