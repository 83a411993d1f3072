"""All commands, each with its module, which is imported only when the command is used; and their parser."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from ballonet.cli.parser import Parser
from ballonet.version import __version__


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "run": Command("ballonet.cli.run", "boot a sandbox and run a command in it; with -d, keep it"),
    "create": Command("ballonet.cli.create", "register a sandbox without starting it"),
    "start": Command("ballonet.cli.start", "start sandboxes that exist"),
    "stop": Command("ballonet.cli.stop", "end sandboxes, in order if they let it happen"),
    "restart": Command("ballonet.cli.start", "stop sandboxes, and start them again"),
    "rm": Command("ballonet.cli.rm", "remove sandboxes with their logs and disks"),
    "ls": Command("ballonet.cli.ls", "list all sandboxes"),
    "ps": Command("ballonet.cli.ls", "list the sandboxes that run"),
    "exec": Command("ballonet.cli.exec", "run a command in a sandbox that runs"),
    "cp": Command("ballonet.cli.cp", "copy files into a sandbox, or out of it"),
    "inspect": Command("ballonet.cli.inspect", "show all that is known of sandboxes, as JSON"),
    "wait": Command("ballonet.cli.wait", "wait until sandboxes have ended"),
    "logs": Command("ballonet.cli.logs", "show what a sandbox's command has written"),
    "modify": Command("ballonet.cli.modify", "change a sandbox, at once where that is possible"),
    "image": Command("ballonet.cli.image", "pull, load, build, list and remove images"),
    "balloon": Command("ballonet.cli.balloon", "look at a running sandbox's balloon, and move it"),
    "volume": Command("ballonet.cli.volume", "list, make and remove named volumes"),
    "metrics": Command("ballonet.cli.metrics", "tell the memory of all sandboxes to Prometheus"),
    "history": Command("ballonet.cli.history", "show what a sandbox's memory was"),
    "plot": Command("ballonet.cli.plot", "draw what sandboxes' memory was"),
    "top": Command("ballonet.cli.top", "watch the memory of all sandboxes, and move it"),
    "pilot": Command("ballonet.cli.pilot", "share the host's memory among all sandboxes"),
    "simulate": Command("ballonet.cli.simulate", "try memory policies on modelled guests"),
    "prune": Command("ballonet.cli.prune", "remove what killed sandboxes have left behind"),
    "doctor": Command("ballonet.cli.doctor", "look what this host can do for sandboxes"),
    "completion": Command("ballonet.cli.completion", "print a shell's completion of our commands"),
    "version": Command("ballonet.cli.version", "show versions"),
    "demo": Command("ballonet.cli.demo", "show a sandbox's memory coming back to the host"),
    "help": Command("ballonet.cli.help", "show all commands, or one command's options"),
}


def build_parser(wanted: str | None) -> Parser:
    """The parser of all command lines, with the options of the command ``wanted`` alone: no other module is loaded."""
    parser = _Root(prog="ballonet", add_help=True)
    parser.add_argument("--version", action="version", version=f"ballonet {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="log what is done, each program started included"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, command in COMMANDS.items():
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
