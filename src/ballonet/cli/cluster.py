"""``ballonet cluster``: makes hosts into a cluster, and shows it."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError, HostError
from ballonet.base.memory import parse_size
from ballonet.base.missing_modules import require_module
from ballonet.cli import cluster_simulate
from ballonet.cli.output import print_json, print_table

DEFAULT_PORT = 6379
HEADINGS = (
    "HOST",
    "SANDBOXES",
    "GUARANTEED",
    "EXPECTED",
    "AVAILABLE",
    "BUDGET",
    "PRICE",
    "AGE",
    "LABELS",
    "STATE",
)
#: How long 'leave' waits (seconds).
LEAVE_S = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, help: str, act: Any) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        made.set_defaults(act=act)
        return made

    up = action("up", "start a cluster with this host as its head and first host", _up)
    up.add_argument(
        "--listen",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="this host's address for the other hosts (default: 127.0.0.1, for hosts on this machine only)",
    )
    up.add_argument(
        "--port",
        metavar="PORT",
        type=int,
        default=DEFAULT_PORT,
        help=f"port of the head (default: {DEFAULT_PORT})",
    )
    _add_host_options(up)
    join = action("join", "add this host to a cluster", _join)
    join.add_argument("address", metavar="HOST:PORT", help="address of the cluster's head")
    join.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="this host's address for the other hosts (default: the one that it uses to reach the head)",
    )
    join.add_argument(
        "--token", metavar="FILE", type=Path, help="the token of the cluster, copied from its head"
    )
    _add_host_options(join)
    status = action("status", "show the hosts of the cluster and what they offer", _status)
    status.add_argument("--json", action="store_true", help="print JSON")
    drain = action("drain", "place no more sandboxes on a host", _drain)
    drain.add_argument("host", metavar="HOST", help="name of the host")
    drain.add_argument("--move", action="store_true", help="move its sandboxes to other hosts")
    drain.add_argument("--undo", action="store_true", help="place sandboxes there again")
    forget = action("forget", "declare a host that does not answer to be off for good", _forget)
    forget.add_argument("host", metavar="HOST", help="name of the host")
    action("leave", "take this host out of its cluster; its sandboxes keep running", _leave)
    cluster_simulate.add_arguments(
        action("simulate", "compare ways of placing sandboxes on many simulated hosts", cluster_simulate.run)
    )
    parser.epilog = "'up' and 'join' run in the foreground until they are interrupted, or until 'leave'."


def _add_host_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", metavar="NAME", help="name of this host in the cluster (default: its host name)"
    )
    parser.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory that its sandboxes may use together (default: the host's memory)",
    )
    parser.add_argument(
        "--reserve",
        metavar="SIZE",
        help="memory that is never given to sandboxes (default: 1/20 of the budget)",
    )
    parser.add_argument(
        "--label",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="label of this host (may be repeated)",
    )


def run(options: argparse.Namespace) -> int:
    return int(options.act(options))


def _up(options: argparse.Namespace) -> int:
    from ballonet.cluster.node_notes import make_token

    if not 1 <= options.port <= 65535:
        raise ConfigError(f"--port {options.port} must be from 1 to 65535")
    _check_listen(options.listen)
    _check_free(options.listen, options.port)
    require_module("ray", "a cluster cannot be used")
    token = make_token()
    address = f"{options.listen}:{options.port}"

    def ready() -> None:
        print(f"cluster at {address}, host {_name(options)}. Ctrl-C ends it; sandboxes keep running.")
        print(f"token: {token}. Whoever has it, and reaches this address, can run programs on every host.")
        print(f"To add a host: ballonet cluster join {address} --token FILE", flush=True)

    return _take_part(options, address, options.listen, token, head=True, ready=ready)


def _join(options: argparse.Namespace) -> int:
    from ballonet.cluster.node_notes import token_path

    require_module("ray", "a cluster cannot be used")
    from ballonet.cluster.addresses import connects_from

    listen = connects_from(options.address)
    if options.listen is not None:
        _check_listen(options.listen)
        listen = options.listen

    def ready() -> None:
        print(
            f"host {_name(options)} has joined the cluster at {options.address}, listening on {listen}",
            flush=True,
        )

    token = options.token or token_path()
    return _take_part(options, options.address, listen, token.absolute(), head=False, ready=ready)


def _take_part(
    options: argparse.Namespace, address: str, listen: str, token: Path, *, head: bool, ready: Any
) -> int:
    from ballonet.cluster.addresses import use_token
    from ballonet.cluster.host_report import HostConfig

    budget = None if options.budget is None else parse_size(options.budget, "--budget")
    reserve = None if options.reserve is None else parse_size(options.reserve, "--reserve")
    if budget is not None and (reserve or 0) >= budget:
        raise ConfigError(f"--reserve {reserve} MiB must be less than --budget {budget} MiB")
    config = HostConfig(_name(options), budget, reserve, _labels(options.label))
    use_token(token)
    from ballonet.cluster.ray_node import NodePlan, run_node  # Ray reads the token when it is imported

    def again(why: str) -> None:
        print(f"ballonet: warning: {why[:300]}; joining again", file=sys.stderr, flush=True)

    run_node(NodePlan(config, address, listen, token, head), ready, again)
    return 0


def _status(options: argparse.Namespace) -> int:
    from ballonet.cluster.client import Cluster

    hosts = Cluster("auto").status()
    if options.json:
        return print_json({host: _document(found) for host, found in hosts.items()})
    rows = []
    for host, found in hosts.items():
        offer = found["offer"]
        if offer is None:
            rows.append([host, len(found["sandboxes"]), *["-"] * 7, _state(found) or "starting"])
            continue
        rows.append(
            [
                host,
                offer.sandboxes,
                f"{offer.promised_mib} MiB",
                f"{offer.expected_mib} ± {offer.deviation_mib} MiB",
                f"{offer.available_mib} MiB",
                f"{offer.budget_mib} MiB",
                "-" if offer.price is None else f"{offer.price:.2f}",
                f"{-offer.at_s:.1f} s",
                ",".join(f"{key}={value}" for key, value in sorted(offer.labels.items())),
                "; ".join(
                    words
                    for words in (_state(found) or offer.closed or "takes sandboxes", found["clock"])
                    if words
                ),
            ]
        )
    print_table(HEADINGS, rows)
    return 0


def _state(found: dict[str, Any]) -> str | None:
    """Why a host does not answer."""
    return f"lost: {found['silent']}" if found["lost"] else found["silent"]


def _document(found: dict[str, Any]) -> dict[str, Any]:
    offer = found["offer"]
    return {
        "offer": None if offer is None else offer.document(),
        "sandboxes": found["sandboxes"],
        "silent": found["silent"],
        "lost": found["lost"],
        "started": found["started"],
        "clock": found["clock"],
    }


def _drain(options: argparse.Namespace) -> int:
    from ballonet.cluster.client import Cluster

    if options.undo and options.move:
        raise ConfigError("--move cannot be combined with --undo", hint="leave one of them out")
    with Cluster("auto") as cluster:
        moved = cluster.drain(options.host, undo=options.undo, move=options.move)
    print(f"host {options.host} {'takes sandboxes again' if options.undo else 'takes no more sandboxes'}")
    for name, (host, _) in moved.items():
        if host is not None:
            print(f"{name}: moved to {host}")
    stay = {name: why for name, (host, why) in moved.items() if host is None}
    if stay:
        raise HostError(
            f"{len(stay)} sandboxes stay on {options.host}: "
            + "; ".join(f"{name}: {why}" for name, why in stay.items()),
            hint="they keep running there",
        )
    return 0


def _forget(options: argparse.Namespace) -> int:
    from ballonet.cluster.client import Cluster

    Cluster("auto").forget(options.host)
    print(f"host {options.host} is no longer part of the cluster")
    return 0


def _leave(options: argparse.Namespace) -> int:
    from ballonet.cluster.node_notes import read_node

    node = read_node()
    pidfd = None if node is None else node.process.open()
    if node is None or pidfd is None:
        raise ConfigError("this host is not part of a cluster")
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        deadline = time.monotonic() + LEAVE_S
        while node.process.alive():
            if time.monotonic() > deadline:
                raise HostError(f"process {node.process.pid} has not ended within {LEAVE_S:g} s")
            time.sleep(0.1)
    finally:
        os.close(pidfd)
    print(f"host {node.host} has left the cluster at {node.address}; its sandboxes keep running")
    return 0


def _name(options: argparse.Namespace) -> str:
    name = str(options.name or socket.gethostname())
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", name):
        raise ConfigError(
            f"--name {name!r} is not a name of a host", hint="use up to 63 letters, digits, '_', '.' and '-'"
        )
    return name


def _labels(words: list[str]) -> dict[str, str]:
    from ballonet.cluster.host_labels import OWN

    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--label {word!r} is not KEY=VALUE")
        if key in OWN:
            raise ConfigError(
                f"--label {word!r}: every host has the label {key} already, by what it can do", hint="omit it"
            )
        labels[key] = value
    return labels


def _check_listen(address: str) -> None:
    try:
        socket.inet_pton(socket.AF_INET, address)
    except OSError:
        raise ConfigError(f"--listen {address!r} is not an IPv4 address") from None
    if address == "0.0.0.0":  # noqa: S104 - refused
        raise ConfigError(
            "--listen 0.0.0.0 would listen on every network", hint="give the address of one network"
        )


def _check_free(address: str, port: int) -> None:
    try:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address, port))
    except OSError as error:
        raise HostError(
            f"port {port} of {address} cannot be used: {error.strerror}",
            hint="choose another one with --port",
        ) from error
