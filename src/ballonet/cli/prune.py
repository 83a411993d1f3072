"""``ballonet prune``: clean up after sandboxes whose processes were killed. Those that live are left alone."""

from __future__ import annotations

import argparse

from ballonet import lifecycle
from ballonet.host.cgroup import prune_groups
from ballonet.machine.hardcap import GROUP_PREFIX
from ballonet.machine.place import prune_places
from ballonet.registry.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        strays = [f"the files of {name}" for name in lifecycle.prune(registry)]
    removed = [*prune_places(), *strays, *(f"cgroup {name}" for name in prune_groups(GROUP_PREFIX))]
    for name in removed:
        print(f"removed {name}")
    if not removed:
        print("there was nothing to remove")
    return 0
