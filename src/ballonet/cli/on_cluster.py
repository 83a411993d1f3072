"""``ballonet --cluster ADDRESS COMMAND``: commands for sandboxes of a cluster, on whichever host they are."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ballonet.base.errors import BallonetError, ConfigError
from ballonet.cli.command_options import (
    EXIT_STATUSES,
    add_command_options,
    add_timeout_option,
    argv_from,
    defaults_from,
    timeout_from,
)
from ballonet.cli.output import print_json, print_table
from ballonet.cli.parser import Parser

OPTION = "--cluster"


def main(words: Sequence[str]) -> int:
    """Run ``--cluster ADDRESS COMMAND …``."""
    parser = Parser(prog="ballonet --cluster ADDRESS", usage="ballonet --cluster ADDRESS COMMAND …")
    parser.add_argument(
        OPTION, metavar="ADDRESS", required=True, help="HOST:PORT of the head; auto: the one of this host"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser, prog=parser.prog
    )

    def command(name: str, help: str, act: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        made.set_defaults(act=act)
        return made

    _add_run(command("run", "run a command in a new sandbox on the host that fits best", _run))
    exec_ = command("exec", "run a command in a sandbox", _exec)
    exec_.add_argument("-i", "--interactive", action="store_true", help="pass standard input to the command")
    add_timeout_option(exec_)
    exec_.add_argument("name", metavar="NAME", help="name of the sandbox")
    add_command_options(exec_, inherits="the sandbox's, else the image's")
    exec_.epilog = EXIT_STATUSES
    ls = command("ls", "list the sandboxes of all hosts", _ls)
    ls.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    stop = command("stop", "stop a sandbox; it stays registered", _stop)
    stop.add_argument("name", metavar="NAME", help="name of the sandbox")
    rm = command("rm", "remove a sandbox", _rm)
    rm.add_argument("-f", "--force", action="store_true", help="even if it is running")
    rm.add_argument("name", metavar="NAME", help="name of the sandbox")
    options = parser.parse_args(list(words))
    from ballonet.cluster.client import Cluster

    with Cluster(options.cluster) as cluster:
        return int(options.act(cluster, options))


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", "--name", metavar="NAME", help="name of the sandbox (default: a random one)")
    parser.add_argument("--image", metavar="IMAGE", help="image, which the host has or pulls")
    parser.add_argument("-m", "--memory", metavar="SIZE", help="maximum memory of the guest")
    parser.add_argument("--expected", metavar="SIZE", help="memory that it uses on average")
    parser.add_argument(
        "-p", "--publish", metavar="PORT", action="append", default=[], help="publish a port on its host"
    )
    parser.add_argument(
        "--host-label",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="label that the host must have (may be repeated)",
    )
    parser.add_argument(
        "--restart",
        choices=("no", "elsewhere"),
        default="no",
        help="if its host is lost: start it anew on another host (default: no)",
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="run in the background, and print the name"
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input to the command")
    add_timeout_option(parser)
    add_command_options(parser)
    parser.epilog = EXIT_STATUSES


def _run(cluster: Any, options: argparse.Namespace) -> int:
    from ballonet.sdk.random_name import random_name

    argv = argv_from(options)
    if not argv and not options.detach:
        raise ConfigError("no command was given", hint="for example: ballonet --cluster auto run -- uname -a")
    if options.restart != "no" and not options.detach:
        raise ConfigError("--restart needs -d: without it, the sandbox ends with its command")
    labels = {}
    for word in options.host_label:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--host-label {word!r} is not KEY=VALUE")
        labels[key] = value
    said = defaults_from(options)
    settings: dict[str, Any] = {"image": options.image, "memory": options.memory, "ports": options.publish}
    box = cluster.create(
        options.name or random_name("run"),
        expected=options.expected,
        labels=labels,
        detached=options.detach,
        restart=options.restart,
        **{word: value for word, value in settings.items() if value},
        **({"command": argv, "env": said.env, "cwd": said.cwd, "user": said.user} if options.detach else {}),
    )
    if options.detach:
        print(box.name)
        return 0
    try:
        return _follow(box, argv, options)
    finally:
        box.remove(force=True)


def _exec(cluster: Any, options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv:
        raise ConfigError("no command was given", hint=f"for example: exec {options.name} uname -a")
    return _follow(cluster.get(options.name), argv, options)


def _follow(box: Any, argv: list[str], options: argparse.Namespace) -> int:
    """Run a command with this program's standard streams. Ctrl-C reaches the command."""
    import signal

    said, timeout = defaults_from(options), timeout_from(options)
    process = box.exec_stream(
        argv,
        env=said.env,
        cwd=said.cwd,
        user=said.user,
        stdin=options.interactive,
        timeout=None if timeout is None else timeout.seconds,
    )
    problems: list[BallonetError | OSError] = []

    def copy(output: str, fd: int) -> None:
        try:
            while piece := process.read(output):
                while piece:
                    piece = piece[os.write(fd, piece) :]
        except (BallonetError, OSError) as error:
            problems.append(error)
            process.close()

    def feed() -> None:
        try:
            while piece := os.read(0, 64 << 10):
                process.write_stdin(piece)
            process.close_stdin()
        except (BallonetError, OSError):
            pass  # the command has ended, or reads no more

    with process:
        sys.stdout.flush()
        threads = [
            threading.Thread(target=copy, args=one, daemon=True) for one in (("stdout", 1), ("stderr", 2))
        ]
        for thread in threads:
            thread.start()
        if options.interactive:
            threading.Thread(target=feed, daemon=True).start()
        while any(thread.is_alive() for thread in threads):
            try:
                for thread in threads:
                    thread.join(0.2)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
        if problems:
            raise problems[0]
        return int(process.wait())


def _ls(cluster: Any, options: argparse.Namespace) -> int:
    rows = [
        {"name": name, "host": host, "state": state}
        for host, found in cluster.status().items()
        for name, state in sorted(found["sandboxes"].items())
    ]
    if options.json:
        return print_json(rows)
    print_table(("NAME", "HOST", "STATE"), [(row["name"], row["host"], row["state"]) for row in rows])
    return 0


def _stop(cluster: Any, options: argparse.Namespace) -> int:
    cluster.get(options.name).stop()
    return 0


def _rm(cluster: Any, options: argparse.Namespace) -> int:
    cluster.remove(options.name, force=options.force)
    return 0
