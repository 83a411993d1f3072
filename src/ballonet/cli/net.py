"""``ballonet net``: shows what the network of a sandbox has allowed and refused."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterator

from ballonet.base.errors import NotRunningError, SandboxError
from ballonet.base.paths import state_dir_of
from ballonet.cli.output import print_json, print_table, show_size
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.liveness import living
from ballonet.lifecycle.registry import Registry
from ballonet.machine.network_log import FILE, OLD_FILE
from ballonet.vmm.attach import Net

_TAIL = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.add_argument("name", metavar="NAME", help="name of the sandbox")
        return sub

    lines = action(
        "log", "print the log of a sandbox's network, running or not: one JSON object for each line"
    )
    lines.add_argument(
        "-n", "--tail", type=int, default=_TAIL, metavar="N", help=f"the last N lines (default: {_TAIL})"
    )
    counters = action(
        "stats", "show how often a running sandbox's rules have allowed and refused connections"
    )
    counters.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    with Registry.open() as registry:
        record = lifecycle.find(registry, options.name)
    if options.action == "log":
        sys.stdout.writelines(deque(_lines(record.name), max(options.tail, 0)))
        return 0
    note = living(record)
    if note is None:
        raise NotRunningError(f"sandbox {record.name!r} does not run")
    if lifecycle.config_of(record, note.flags).net is not Net.USER:
        raise SandboxError(f"sandbox {record.name!r} has no network with rules", hint=f"--net {Net.USER} has")
    from ballonet.lifecycle.network import ask_network

    answer = asyncio.run(ask_network(note.process, state_dir_of(record.name)))
    if answer.error is not None:
        raise SandboxError(answer.error)
    counters = answer.counters
    if options.json:
        return print_json(counters)
    rows = [(f"{rule['action']} {rule['rule']}", rule["connections"]) for rule in counters["rules"]]
    rows += [(f"refused: {reason}", count) for reason, count in counters["refused"].items()]
    rows += [("queries for names", counters["queries"])]
    print_table(("RULE", "CONNECTIONS"), rows)
    print(f"sent {show_size(counters['sent_bytes'])}, received {show_size(counters['received_bytes'])}")
    return 0


def _lines(name: str) -> Iterator[str]:
    for file in (OLD_FILE, FILE):
        with contextlib.suppress(FileNotFoundError), (state_dir_of(name) / file).open() as lines:
            yield from lines
