"""``ballonet modify``: change a sandbox that exists; says first what takes effect when."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict

from ballonet.cli.output import print_json, print_table
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.modify import TARGET, apply_plan, plan_changes
from ballonet.lifecycle.registry import Registry
from ballonet.vmm.attach import Net

#: A live change did not come to be (a target that the guest did not follow).
EXIT_NOT_APPLIED = 3

_SIZES = {
    "memory": "the ceiling",
    "memory_target": "move the balloon of the running sandbox there, and wait for it",
    "balloon_initial": "memory at boot",
    "balloon_min": "the least that a target may ask for",
    "guard": "available memory that a shrink leaves to the guest",
    "reserve": "memory that the autopilot never takes from it",
    "disk": "the writable disk; it can only grow",
}
_NUMBERS = {"cpus": "processors", "weight": "share of memory from the autopilot, against 100 for others"}
_LISTS = {
    "volumes": (("-v", "--volume"), "SOURCE:GUEST[:ro]", "its volumes"),
    "tmpfs": (("--tmpfs",), "PATH[:SIZE]", "its directories in the guest's memory"),
    "ports": (("-p", "--publish"), "[ADDRESS:]HOST:GUEST[/udp]", "its published ports"),
}
_SWITCHES = ("deflate_on_oom", "free_page_reporting", "pressure_relief", "hard_cap")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a sandbox's name")
    for name, help in _SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="SIZE", help=help)
    for name, help in _NUMBERS.items():
        parser.add_argument(f"--{name}", metavar="N", type=int, help=help)
    for name, (flags, metavar, what) in _LISTS.items():
        help = f"{what}, all of them (may be repeated; '' is none)"
        parser.add_argument(*flags, dest=name, metavar=metavar, action="append", help=help)
    parser.add_argument("--net", choices=list(map(str, Net)), help="what the guest can reach")
    for name in _SWITCHES:
        parser.add_argument(
            f"--{name.replace('_', '-')}", action=argparse.BooleanOptionalAction, help="on or off"
        )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = f"Exit status: 0; 2 for bad usage; {EXIT_NOT_APPLIED} if the target was not reached; 125."


def run(options: argparse.Namespace) -> int:
    names = (*_SIZES, *_NUMBERS, *_SWITCHES, *_LISTS, "net")
    settings = {name: value for name in names if (value := getattr(options, name)) is not None}
    settings |= {name: [item for item in settings[name] if item] for name in _LISTS if name in settings}
    with Registry.open() as registry:
        record = lifecycle.find(registry, options.name)
        plan = plan_changes(record, living(record), settings)
        changes = plan.changes if options.dry_run else asyncio.run(apply_plan(registry, plan))
    if options.json:
        print_json([asdict(change) for change in changes])
    else:
        rows = [
            (change.setting, change.old, change.new, change.when, change.state, change.detail)
            for change in changes
        ]
        print_table(("SETTING", "OLD", "NEW", "TAKES EFFECT", "STATE", "DETAIL"), rows)
    missed = any(
        change.setting == TARGET and change.state not in ("applied", "planned") for change in changes
    )
    return EXIT_NOT_APPLIED if missed else 0
