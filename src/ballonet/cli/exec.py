"""``ballonet exec``: run a command in a running sandbox."""

from __future__ import annotations

import argparse

from ballonet.base.dataclass import replace
from ballonet.base.errors import ConfigError
from ballonet.cli.attach import joined_from, run_joined
from ballonet.cli.caught_signals import CaughtSignals
from ballonet.cli.command_options import (
    EXIT_STATUSES,
    add_command_options,
    add_stream_options,
    add_timeout_option,
    argv_from,
    defaults_from,
    timeout_from,
)
from ballonet.lifecycle import sandboxes as lifecycle
from ballonet.lifecycle.image_settings import image_of, inherited_settings
from ballonet.lifecycle.registry import Registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stream_options(parser)
    add_timeout_option(parser)
    parser.add_argument("name", metavar="NAME", help="name of the sandbox")
    add_command_options(parser, inherits="the sandbox's, else the image's")
    parser.epilog = EXIT_STATUSES


def run(options: argparse.Namespace) -> int:
    argv = argv_from(options)
    if not argv:
        raise ConfigError("no command was given", hint=f"for example: ballonet exec {options.name} uname -a")
    said, timeout = defaults_from(options), timeout_from(options)
    with Registry.open() as registry:
        record, note = lifecycle.find_running(registry, options.name)
    settings = inherited_settings(record, image_of(record), said.env, said.cwd, said.user)
    joined = replace(joined_from(options, settings), timeout=timeout)
    with CaughtSignals() as signals:
        return run_joined(note.agent_socket, argv, joined, signals)
