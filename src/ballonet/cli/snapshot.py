"""``ballonet snapshot``: saves running sandboxes; lists, removes, exports and imports snapshots."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ballonet.base.errors import ConfigError
from ballonet.cli.name_arguments import for_each
from ballonet.cli.output import print_json, print_table, show_age, show_size
from ballonet.lifecycle.descriptions import describe_snapshot
from ballonet.lifecycle.snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    from ballonet.lifecycle.snapshot_archive import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    create = action("create", "save a running sandbox, which keeps running")
    create.add_argument("sandbox", metavar="SANDBOX", help="name of a running sandbox")
    create.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="name of the snapshot (default: the sandbox's name and the time)",
    )
    create.add_argument(
        "--no-trim",
        dest="trim",
        action="store_false",
        help="do not have an idle guest give up its caches and free memory first: faster, and a larger snapshot",
    )
    listing = action("ls", "list snapshots")
    listing.add_argument("-q", "--quiet", action="store_true", help="print only names")
    inspect = action("inspect", "show detailed information about snapshots, as JSON")
    remove = action("rm", "remove snapshots; sandboxes that were restored from them keep running")
    for sub in (inspect, remove):
        sub.add_argument("names", metavar="NAME", nargs="+", help="name of a snapshot")
    export = action("export", "write a snapshot to one file, for another host with the same engine")
    export.add_argument("name", metavar="NAME", help="name of a snapshot")
    export.add_argument("file", metavar="FILE", help="the file to write; -: standard output")
    load = action("import", "read a snapshot from a file of 'snapshot export'")
    load.add_argument("file", metavar="FILE", help="the file to read; -: standard input")
    load.add_argument("--name", metavar="NAME", help="name of the snapshot (default: that of its sandbox)")
    for sub in (create, listing, inspect, load):
        sub.add_argument(
            "--json",
            action="store_true",
            help="no effect: the output is always JSON" if sub is inspect else "print JSON",
        )


def run(options: argparse.Namespace) -> int:
    return _ACTIONS[options.action](options)


def _create(options: argparse.Namespace) -> int:
    import asyncio

    from ballonet.lifecycle.registry import Registry
    from ballonet.lifecycle.snapshot_save import create_snapshot

    with Registry.open() as registry:
        snapshot = asyncio.run(create_snapshot(registry, options.sandbox, options.name, trim=options.trim))
    return _print_one(snapshot, options)


def _ls(options: argparse.Namespace) -> int:
    snapshots = Snapshots.open().list_all()
    if options.quiet:
        print(*(snapshot.name for snapshot in snapshots), sep="\n", end="\n" if snapshots else "")
        return 0
    if options.json:
        return print_json([describe_snapshot(snapshot) for snapshot in snapshots])
    headings = ("NAME", "SANDBOX", "IMAGE", "CEILING", "SIZE", "AGE", "DETAIL")
    print_table(headings, [_row(snapshot) for snapshot in snapshots], omit=("IMAGE",))
    return 0


def _row(snapshot: Snapshot) -> tuple[object, ...]:
    facts = snapshot.facts
    size = show_size(snapshot.held_bytes)
    if facts is None:
        return (snapshot.name, None, None, None, size, None, snapshot.problem)
    ceiling = f"{facts.config.memory_mib}M"
    detail = "its command runs" if facts.command_runs else None
    return (snapshot.name, facts.sandbox, facts.image, ceiling, size, show_age(facts.created_at), detail)


def _inspect(options: argparse.Namespace) -> int:
    store = Snapshots.open()
    found: list[Snapshot] = []
    status = for_each(options.names, lambda name: found.append(store.get(name)))
    return print_json([describe_snapshot(snapshot) for snapshot in found]) or status


def _rm(options: argparse.Namespace) -> int:
    store = Snapshots.open()

    def remove(name: str) -> None:
        store.remove(name)
        print(name)

    return for_each(options.names, remove)


def _export(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.snapshot_transfer import export_snapshot, whole_file

    store = Snapshots.open()
    size = store.get(options.name).held_bytes
    with _progress("exporting", size) as progress:
        if options.file == "-":
            if sys.stdout.isatty():
                raise ConfigError(
                    "a snapshot cannot be written to a terminal", hint="name a file, or redirect the output"
                )
            with open(1, "wb", closefd=False) as out:
                export_snapshot(store, options.name, out, progress)
            return 0
        with whole_file(Path(options.file)) as out:
            export_snapshot(store, options.name, out, progress)
    return 0


def _import(options: argparse.Namespace) -> int:
    from ballonet.lifecycle.snapshot_transfer import import_snapshot

    if options.file == "-" and sys.stdin.isatty():
        raise ConfigError(
            "a snapshot cannot be read from a terminal", hint="name a file, or redirect the input"
        )
    try:
        source = open(0 if options.file == "-" else options.file, "rb", closefd=options.file != "-")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{options.file} cannot be read: {error.strerror}") from error
    size = os.fstat(source.fileno()).st_size
    with source, _progress("importing", size) as progress:
        snapshot = import_snapshot(Snapshots.open(), source, options.name, progress)
    return _print_one(snapshot, options)


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "create": _create,
    "ls": _ls,
    "inspect": _inspect,
    "rm": _rm,
    "export": _export,
    "import": _import,
}


def _print_one(snapshot: Snapshot, options: argparse.Namespace) -> int:
    if options.json:
        return print_json(describe_snapshot(snapshot))
    print(snapshot.name)
    return 0


@contextmanager
def _progress(step: str, size: int) -> Iterator[Progress]:
    from ballonet.cli.progress import shown_progress

    done = 0
    with shown_progress() as (_, bars):

        def progress(more: int) -> None:
            nonlocal done
            done += more
            if bars is not None:
                bars(step, done, size)

        yield progress
