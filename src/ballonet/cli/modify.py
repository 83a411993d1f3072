"""``ballonet modify``: change a sandbox, and show when each change takes effect."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.base.dataclass import asdict
from ballonet.cli.output import print_json, print_table
from ballonet.cli.setting_options import add_modified_settings, modified_settings
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.modify import TARGET, apply_plan, plan_changes
from ballonet.lifecycle.registry import Registry

#: The guest did not reach the target.
EXIT_NOT_APPLIED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sandbox")
    add_modified_settings(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = f"Exit status: 0; 2 for bad usage; {EXIT_NOT_APPLIED} if the target was not reached; 125."


def run(options: argparse.Namespace) -> int:
    settings = modified_settings(options)
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
