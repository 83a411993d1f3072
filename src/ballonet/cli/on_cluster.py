"""``ballonet --cluster ADDRESS COMMAND``: commands for sandboxes of a cluster, on whichever host they are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.cli import on_cluster_serve, on_cluster_show, on_cluster_top
from ballonet.cli.code_options import add_code_options
from ballonet.cli.command_options import (
    EXIT_STATUSES,
    add_command_options,
    add_stream_options,
    add_timeout_option,
    argv_from,
    defaults_from,
)
from ballonet.cli.local_terminal import check_streams
from ballonet.cli.log_options import add_log_options
from ballonet.cli.on_cluster_follow import follow
from ballonet.cli.parser import Parser
from ballonet.sdk.random_name import random_name

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
    add_stream_options(exec_)
    add_timeout_option(exec_)
    exec_.add_argument("name", metavar="NAME", help="name of the sandbox")
    add_command_options(exec_, inherits="the sandbox's, else the image's")
    exec_.epilog = EXIT_STATUSES
    ls = command("ls", "list the sandboxes of all hosts, with their memory", on_cluster_show.ls)
    ls.add_argument("--json", action="store_true", help="print JSON, a list of objects")
    on_cluster_top.add_options(
        command("top", "show the memory usage of the sandboxes of all hosts, live", on_cluster_top.run)
    )
    on_cluster_serve.add_options(
        command("serve", "serve the HTTP API of all hosts, and the page", on_cluster_serve.run)
    )
    logs = command("logs", "show the output of a sandbox's own command", on_cluster_show.logs)
    add_log_options(logs)
    code = command("code", "run code in a session of a sandbox", on_cluster_show.code)
    add_code_options(code)
    fork = command("fork", "copy a running sandbox, on its host", _fork)
    fork.add_argument("name", metavar="NAME", help="name of the sandbox")
    fork.add_argument("names", metavar="COPY", nargs="+", help="names of the copies")
    snapshot = command(
        "snapshot", "save sandboxes, and list and remove what was saved", on_cluster_show.snapshot
    )
    on_cluster_show.add_snapshot_actions(snapshot)
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
        "--require",
        metavar="KEY",
        action="append",
        default=[],
        help="label that the host must have with the value 'yes', such as kvm (may be repeated)",
    )
    parser.add_argument(
        "--from",
        dest="from_snapshot",
        metavar="SNAPSHOT",
        help="continue from a snapshot of the cluster instead of booting",
    )
    parser.add_argument(
        "--restart",
        choices=("no", "elsewhere"),
        default="no",
        help="if its host is lost: start it on another host, from its last saved state if there is one (default: no)",
    )
    parser.add_argument(
        "--save-every", metavar="TIME", help="save it for such a restart this often: 90s, 5m, 1h"
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="run in the background, and print the name"
    )
    add_stream_options(parser)
    add_timeout_option(parser)
    add_command_options(parser)
    parser.epilog = EXIT_STATUSES


def _run(cluster: Any, options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv and not options.detach:
        raise ConfigError("no command was given", hint="for example: ballonet --cluster auto run -- uname -a")
    if options.restart != "no" and not options.detach:
        raise ConfigError("--restart needs -d: without it, the sandbox ends with its command")
    if options.save_every and options.restart == "no":
        raise ConfigError("--save-every needs --restart elsewhere")
    if not options.detach:
        check_streams(options)
    box = _made(cluster, options, argv, _labels(options))
    if options.detach:
        print(box.name)
        return 0
    try:
        return follow(box, argv, options)
    finally:
        box.remove(force=True)


def _labels(options: argparse.Namespace) -> dict[str, str]:
    """The labels that the host must have."""
    labels = {}
    for word in options.host_label:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--host-label {word!r} is not KEY=VALUE")
        labels[key] = value
    for key in options.require:
        if "=" in key or not key:
            raise ConfigError(
                f"--require {key!r} is not a label", hint="write --require kvm, or --host-label KEY=VALUE"
            )
        if labels.get(key, "yes") != "yes":
            raise ConfigError(f"--require {key} contradicts --host-label {key}={labels[key]}")
        labels[key] = "yes"
    return labels


def _made(cluster: Any, options: argparse.Namespace, argv: list[str], labels: Mapping[str, str]) -> Any:
    """Create the sandbox, or restore it."""
    said, name = defaults_from(options), options.name or random_name("run")
    how = {"detached": options.detach, "restart": options.restart, "save_every": options.save_every}
    settings = {"image": options.image, "memory": options.memory, "expected": options.expected}
    given = {word: value for word, value in settings.items() if value}
    if options.from_snapshot is not None:
        if given:
            raise ConfigError(
                f"--from cannot be combined with --{next(iter(given))}", hint="the snapshot decides that"
            )
        if options.detach and argv:
            raise ConfigError("--from cannot be combined with -d and a command", hint="omit the command")
        return cluster.restore(options.from_snapshot, name, ports=options.publish, host_labels=labels, **how)
    if options.publish:
        given["ports"] = options.publish
    if options.detach:
        given |= {"command": argv or None, "env": said.env, "cwd": said.cwd, "user": said.user}
    return cluster.create(name, labels=labels, **how, **given)


def _exec(cluster: Any, options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv:
        raise ConfigError("no command was given", hint=f"for example: exec {options.name} uname -a")
    return follow(cluster.get(options.name), argv, options)


def _fork(cluster: Any, options: argparse.Namespace) -> int:
    for copy in cluster.get(options.name).fork(*options.names):
        print(copy.name)
    return 0


def _stop(cluster: Any, options: argparse.Namespace) -> int:
    cluster.get(options.name).stop()
    return 0


def _rm(cluster: Any, options: argparse.Namespace) -> int:
    cluster.remove(options.name, force=options.force)
    return 0
