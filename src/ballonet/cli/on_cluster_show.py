"""``ballonet --cluster ADDRESS ls``, ``logs``, ``code`` and ``snapshot``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from ballonet.cli.command_options import parse_env, timeout_from
from ballonet.cli.output import print_json, print_table, show_age
from ballonet.cli.standard_streams import write_all

HEADINGS = ("NAME", "HOST", "STATE", "CEILING", "TARGET", "HELD", "AVAILABLE", "DETAIL")
FIGURES = ("ceiling_mib", "target_mib", "resident_mib", "available_mib")


def ls(cluster: Any, options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for host, found in cluster.status().items():
        for name, state in sorted(found["sandboxes"].items()):
            figures = found["figures"].get(name)
            row = {"name": name, "host": host, "state": state}
            row |= dict.fromkeys(FIGURES) if figures is None or state != "running" else figures._asdict()
            row |= {"started": found["started"].get(name), "unsaved": found["unsaved"].get(name)}
            rows.append(row)
    if options.json:
        return print_json(rows)
    table = []
    for row in rows:
        unsaved = None if row["unsaved"] is None else f"not saved elsewhere: {row['unsaved']}"
        detail = "; ".join(words for words in (row["started"], unsaved) if words)
        table.append(
            (row["name"], row["host"], row["state"], *(_mib(row[name]) for name in FIGURES), detail or None)
        )
    print_table(HEADINGS, table, omit=("DETAIL",))
    return 0


def _mib(value: int | None) -> str | None:
    return None if value is None else f"{value}M"


def logs(cluster: Any, options: argparse.Namespace) -> int:
    from ballonet.cli.logs import EntryText, parse_since, parse_tail

    # A duration is counted back from 0: the host, which wrote the log, counts it back from its own time.
    since = None if options.since is None else parse_since(options.since, 0.0)
    until = None if options.until is None else parse_since(options.until, 0.0, option="--until")
    tail = parse_tail(options.tail)
    text = EntryText(timestamps=options.timestamps)
    sys.stdout.flush()
    for entry in cluster.get(options.name).logs(follow=options.follow, tail=tail, since=since, until=until):
        write_all(2 if entry.stream == "stderr" else 1, text.of(entry))
    return 0


def code(cluster: Any, options: argparse.Namespace) -> int:
    from ballonet.cli.code import decoded_input, output_of, read_code, status_of
    from ballonet.cli.stdin_reader import check_stdin
    from ballonet.guest.code.languages import language_of

    language_of(options.lang)
    timeout, env = timeout_from(options), parse_env(options.env)
    if options.file == "-":
        check_stdin()
        text = decoded_input(sys.stdin.buffer.read())
    else:
        text = read_code(options.file)
    session = cluster.get(options.name).code(
        options.lang, session=options.session, env=env, cwd=options.workdir, user=options.user
    )
    status = 0
    sys.stdout.flush()
    try:
        for event in session.stream(text, timeout=None if timeout is None else timeout.seconds):
            if event.kind == "end":
                status = status_of(event)
            else:
                write_all(*output_of(event))
    finally:
        if options.session is None or options.close:
            session.close()
    return status


def add_snapshot_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="save a sandbox; it runs on")
    create.add_argument("--no-trim", dest="trim", action="store_false", help="keep caches and free memory")
    create.add_argument(
        "--copies",
        metavar="N",
        type=int,
        default=1,
        help="on how many other hosts it is kept as well (default: 1)",
    )
    create.add_argument("sandbox", metavar="SANDBOX", help="name of the sandbox")
    create.add_argument("name", metavar="NAME", nargs="?", help="name of the snapshot")
    listing = actions.add_parser("ls", help="list the snapshots that were made through the cluster")
    listing.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    rm = actions.add_parser("rm", help="remove a snapshot on all hosts")
    rm.add_argument("name", metavar="NAME", help="name of the snapshot")


def snapshot(cluster: Any, options: argparse.Namespace) -> int:
    if options.action == "create":
        made = cluster.save(options.sandbox, options.name, copies=options.copies, trim=options.trim)
        print(f"{made.name}: on {', '.join(made.hosts)}")
        if made.problem is not None:
            print(f"ballonet: warning: fewer copies than asked for: {made.problem}", file=sys.stderr)
        return 0
    if options.action == "rm":
        cluster.remove_snapshot(options.name)
        return 0
    found = cluster.snapshots()
    if options.json:
        return print_json([one._asdict() | {"hosts": list(one.hosts)} for one in found])
    headings = ("NAME", "SANDBOX", "HOSTS", "AGE", "DETAIL")
    rows = [
        (
            one.name,
            one.sandbox,
            ", ".join(one.hosts),
            show_age(time.time() - one.age_s),
            "of an earlier sandbox of that name"
            if not one.current
            else "automatic"
            if one.automatic
            else None,
        )
        for one in found
    ]
    print_table(headings, rows, omit=("DETAIL",))
    return 0
