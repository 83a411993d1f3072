"""``ballonet inspect``: shows detailed information about sandboxes, as JSON."""

from __future__ import annotations

import argparse

from ballonet.cli.name_arguments import add_names, for_each
from ballonet.cli.output import print_json
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.descriptions import describe_in_detail
from ballonet.lifecycle.record import Record
from ballonet.lifecycle.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_names(parser)
    parser.add_argument("--json", action="store_true", help="no effect: the output is always JSON")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        records: list[Record] = []
        status = for_each(options.names, lambda name: records.append(lifecycle.find(registry, name)))
    return print_json(describe_in_detail(records)) or status
