"""``ballonet help``: all commands by what they are for, or one command's options."""

from __future__ import annotations

import argparse

#: Which commands belong together, in the order in which people meet them. Each command is in one of them.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Start here", ("run", "doctor", "demo", "help")),
    ("Sandboxes", ("create", "start", "stop", "restart", "rm", "modify", "wait", "prune")),
    ("Use a sandbox", ("exec", "cp", "logs")),
    ("See what is there", ("ls", "ps", "inspect", "top", "history", "plot", "metrics")),
    ("Move memory", ("balloon", "pilot", "simulate")),
    ("Images and volumes", ("image", "volume")),
    ("Other", ("completion", "version")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", metavar="COMMAND", nargs="*", help="a command, such as: image pull")


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.main import build_parser

    if not options.words:
        print(overview(), end="")
        return 0
    build_parser(options.words[0]).find(options.words).print_help()
    return 0


def overview() -> str:
    """All commands, a line each."""
    from ballonet.cli.main import COMMANDS

    width = max(map(len, COMMANDS))
    lines = [
        "usage: ballonet [--debug] COMMAND …",
        "",
        "MicroVM sandboxes for Linux whose memory shrinks and grows while they run.",
    ]
    for title, names in GROUPS:
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {COMMANDS[name].help}" for name in names)]
    lines += [
        "",
        "Options:",
        "  -h, --help  show this help",
        "  --version   show the version",
        "  --debug     log what is done, each program started included",
        "",
        "'ballonet help COMMAND' shows a command's options.",
    ]
    return "\n".join(lines) + "\n"
