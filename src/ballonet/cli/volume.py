"""``ballonet volume``: lists, creates and removes named volumes."""

from __future__ import annotations

import argparse

from ballonet.base.dataclass import asdict
from ballonet.cli.output import print_json, print_table
from ballonet.lifecycle import volumes
from ballonet.lifecycle.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    listing = action("ls", "list volumes and the sandboxes that use them")
    listing.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    listing.add_argument("-q", "--quiet", action="store_true", help="print only names")
    for name, help in (("create", "create volumes"), ("rm", "remove volumes and their contents")):
        action(name, help).add_argument("names", metavar="NAME", nargs="+", help="name of a volume")
    action("prune", "remove all volumes that no sandbox uses")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        match options.action:
            case "ls":
                return _list(registry, options)
            case "create":
                done = [volumes.create(name).name for name in options.names]
            case "rm":
                done = []
                for name in options.names:
                    volumes.remove(registry, name)
                    print(name)
            case _:
                done = volumes.prune(registry)
    print(*done, sep="\n", end="\n" if done else "")
    return 0


def _list(registry: Registry, options: argparse.Namespace) -> int:
    found = volumes.list_volumes(registry)
    if options.json:
        return print_json([asdict(volume) for volume in found])
    if options.quiet:
        print(*(volume.name for volume in found), sep="\n", end="\n" if found else "")
        return 0
    rows = [(volume.name, ", ".join(volume.users) or None, volume.path) for volume in found]
    print_table(("NAME", "USED BY", "PATH"), rows)
    return 0
