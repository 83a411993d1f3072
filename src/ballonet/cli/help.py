"""``ballonet help``: shows all commands, or one command's options."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="COMMAND", nargs="*", help="a command, such as 'run' or 'image pull'"
    )


def run(options: argparse.Namespace) -> int:
    from ballonet.cli.commands import build_parser

    if not options.words:
        print(build_parser(None).format_help(), end="")
        return 0
    build_parser(options.words[0]).find(options.words).print_help()
    return 0
