"""``ballonet fork``: makes copies of a running sandbox, with its memory, processes and disk."""

from __future__ import annotations

import argparse
import asyncio

from ballonet.base.errors import BallonetError, ConfigError
from ballonet.cli.command_options import add_admission_option
from ballonet.lifecycle.registry import Registry
from ballonet.settings.labels import parse_labels
from ballonet.vmm.attach import Port

_EPILOG = """\
The sandbox is stopped for some milliseconds and keeps running. Each fork
continues its processes with memory, disk, random numbers and a host name of
its own. Network connections do not survive in a fork, and commands of 'exec'
are ended there. A fork publishes no ports unless -p is given; with several
forks the host port must be 0."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sandbox", metavar="SANDBOX", help="name of a running sandbox")
    parser.add_argument("names", metavar="NEW", nargs="+", help="name of a fork")
    parser.add_argument(
        "-p",
        "--publish",
        dest="ports",
        metavar="[ADDRESS:]HOST:GUEST[/udp]",
        action="append",
        default=[],
        help="publish a port of each fork on the host; host port 0 selects a free port (can be repeated)",
    )
    parser.add_argument(
        "-l",
        "--label",
        dest="labels",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="label of each fork, beside those of the sandbox (can be repeated)",
    )
    parser.add_argument("--rm", action="store_true", help="remove each fork when it ends")
    parser.add_argument(
        "--trim",
        action="store_true",
        help="have an idle guest give up its caches first, so that the forks take less memory",
    )
    add_admission_option(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG


def run(options: argparse.Namespace) -> int:
    from ballonet.settings.definitions import SETTINGS
    from ballonet.settings.values import read_items

    ports: tuple[Port, ...] = read_items(SETTINGS["ports"], options.ports)
    fixed = [port for port in ports if port.host != 0]
    if fixed and len(options.names) > 1:
        raise ConfigError(
            f"port {fixed[0]} cannot be published by {len(options.names)} forks",
            hint=f"let the host choose the ports: -p 0:{fixed[0].guest}",
        )
    with Registry.open() as registry:
        return asyncio.run(_fork(registry, options, ports))


async def _fork(registry: Registry, options: argparse.Namespace, ports: tuple[Port, ...]) -> int:
    from ballonet.cli.main import print_error, status_of
    from ballonet.lifecycle.restore import Changes, fork_sandbox
    from ballonet.pilot.admission_control import admission_control

    labels = parse_labels(options.labels)
    changes = [
        Changes(name=name, ports=ports, labels=labels, auto_remove=options.rm) for name in options.names
    ]
    gate = admission_control(options.admission)
    results = await fork_sandbox(
        registry, options.sandbox, changes, detached=True, gate=gate, trim=options.trim
    )
    status = 0
    for name, result in zip(options.names, results, strict=True):
        if isinstance(result, BallonetError):
            print_error(result)
            status = status or status_of(result)
        else:
            result.let_go()
            print(name)
    return status
