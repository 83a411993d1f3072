"""The list of commands, and the parser that is built from it. A command's module is imported only when it is used."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from ballonet.cli.parser import Parser
from ballonet.version import __version__


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "run": Command("ballonet.cli.run", "create a sandbox and run a command in it"),
    "create": Command("ballonet.cli.create", "create a sandbox without starting it"),
    "start": Command("ballonet.cli.start", "start one or more sandboxes"),
    "stop": Command("ballonet.cli.stop", "stop one or more sandboxes"),
    "kill": Command("ballonet.cli.kill", "kill one or more sandboxes, or send a signal to their commands"),
    "restart": Command("ballonet.cli.start", "restart one or more sandboxes"),
    "pause": Command("ballonet.cli.pause", "save one or more sandboxes to disk, so that they take no memory"),
    "resume": Command("ballonet.cli.resume", "resume one or more paused sandboxes"),
    "touch": Command("ballonet.cli.touch", "restart the idle timeout of one or more sandboxes"),
    "rm": Command("ballonet.cli.rm", "remove one or more sandboxes, with their logs and disks"),
    "ls": Command("ballonet.cli.ls", "list all sandboxes"),
    "ps": Command("ballonet.cli.ls", "list running sandboxes"),
    "exec": Command("ballonet.cli.exec", "run a command in a running sandbox"),
    "code": Command("ballonet.cli.code", "run code in a sandbox, in a session that keeps its variables"),
    "attach": Command("ballonet.cli.attach_command", "follow the command of a detached sandbox to its end"),
    "cp": Command("ballonet.cli.cp", "copy files between a sandbox and the host"),
    "events": Command("ballonet.cli.events", "show what happened to sandboxes, and follow it"),
    "inspect": Command("ballonet.cli.inspect", "show detailed information about sandboxes, as JSON"),
    "wait": Command("ballonet.cli.wait", "wait until sandboxes stop, then print their exit statuses"),
    "logs": Command("ballonet.cli.logs", "show the output of a sandbox's command"),
    "rename": Command("ballonet.cli.rename", "rename a sandbox that is not running"),
    "modify": Command("ballonet.cli.modify", "change a sandbox's settings, while it runs if possible"),
    "snapshot": Command("ballonet.cli.snapshot", "save running sandboxes, and manage what was saved"),
    "fork": Command("ballonet.cli.fork", "make copies of a running sandbox"),
    "image": Command("ballonet.cli.image", "manage images"),
    "balloon": Command("ballonet.cli.balloon", "show or change the memory of a running sandbox"),
    "volume": Command("ballonet.cli.volume", "manage named volumes"),
    "net": Command("ballonet.cli.net", "show what a sandbox's network has allowed and refused"),
    "metrics": Command("ballonet.cli.metrics", "export memory metrics for Prometheus"),
    "history": Command("ballonet.cli.history", "show a sandbox's memory usage over time"),
    "plot": Command("ballonet.cli.plot", "plot the memory usage of sandboxes over time"),
    "stats": Command("ballonet.cli.stats", "show the processor time, memory and I/O of running sandboxes"),
    "top": Command("ballonet.cli.top", "show the memory usage of all sandboxes, live"),
    "pilot": Command("ballonet.cli.pilot", "run the autopilot, which balances memory across sandboxes"),
    "simulate": Command("ballonet.cli.simulate", "compare memory policies on simulated guests"),
    "serve": Command("ballonet.cli.serve", "serve an HTTP API for sandboxes"),
    "mcp": Command("ballonet.cli.mcp", "serve sandboxes to an agent, over the Model Context Protocol"),
    "token": Command("ballonet.cli.token", "manage the tokens of the HTTP API"),
    "cluster": Command(
        "ballonet.cli.cluster", "place sandboxes on many hosts by the memory that they can promise"
    ),
    "prune": Command("ballonet.cli.prune", "clean up after sandboxes whose processes were killed"),
    "doctor": Command("ballonet.cli.doctor", "check whether this host can run sandboxes"),
    "config": Command("ballonet.cli.config", "show the defaults of sandboxes, and the configuration file"),
    "completion": Command("ballonet.cli.completion", "print a shell completion script"),
    "version": Command("ballonet.cli.version", "show version information"),
    "demo": Command("ballonet.cli.demo", "demonstrate how a sandbox returns memory to the host"),
    "help": Command("ballonet.cli.help", "show help for all commands, or for one"),
}


def build_parser(wanted: str | None, *, others: bool = False) -> Parser:
    """The parser for the command line of the command ``wanted``; no other command's module is imported.

    :param wanted: ``None``, or an unknown command: all commands, without their options.
    :param others: include the other commands, without their options.
    """
    parser = _Root(prog="ballonet", add_help=True)
    parser.add_argument("--version", action="version", version=f"ballonet {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="log each step, including the programs that are started"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, prog=parser.prog)
    for name, command in COMMANDS.items():
        if wanted in COMMANDS and name != wanted and not others:
            continue
        sub = commands.add_parser(
            name, help=command.help, description=command.help[0].upper() + command.help[1:] + "."
        )
        if name == wanted:
            module = importlib.import_module(command.module)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


class _Root(Parser):
    def format_help(self) -> str:
        from ballonet.cli.overview import overview

        return overview({name: command.help for name, command in COMMANDS.items()})
