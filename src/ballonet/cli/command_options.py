"""The options of a command in a guest, and of a start. They need few modules, so that ``exec`` starts fast."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ballonet.base.errors import ConfigError
from ballonet.lifecycle.record import Defaults
from ballonet.sdk.command_settings import command_settings
from ballonet.sdk.timeouts import Timeout

#: The epilogue of the help of every command that runs a command in a guest.
EXIT_STATUSES = (
    "Exit status: that of the command, 128+n if signal n killed it; 2 for bad usage, 124 if the command was killed at "
    "its --timeout, 125 if ballonet failed or the guest ended first, 126 if the command cannot be executed, 127 if it "
    "does not exist."
)


def add_admission_option(parser: argparse.ArgumentParser) -> None:
    """``--no-admission``, for the commands that start something."""
    parser.add_argument(
        "--no-admission",
        dest="admission",
        action="store_false",
        help="start even if the autopilot finds too little memory for it",
    )


def add_cold_option(parser: argparse.ArgumentParser) -> None:
    """``--cold``, for the commands that start something."""
    parser.add_argument(
        "--cold", action="store_true", help="boot the guest, and neither use nor make a start template"
    )


def add_from_option(parser: argparse.ArgumentParser) -> None:
    """``--from``, for ``run``."""
    parser.add_argument(
        "--from",
        dest="from_snapshot",
        metavar="SNAPSHOT",
        help="continue from a snapshot instead of booting; only the name, labels, published ports, weight, reserve and "
        "target (--balloon-initial) can differ from the saved sandbox; an option that contradicts it is refused",
    )


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """``-i`` and ``-t``: the command's standard input and terminal."""
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input to the command")
    parser.add_argument("-t", "--tty", action="store_true", help="allocate a terminal for the command")


def add_timeout_option(parser: argparse.ArgumentParser) -> None:
    """``--timeout``: how long the command may run."""
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        help="kill the command and everything it started after this many seconds (or 1m30s, 2h)",
    )


def timeout_from(options: argparse.Namespace) -> Timeout | None:
    """:raises ConfigError: ``--timeout`` is not a duration."""
    return None if options.timeout is None else Timeout.parse(options.timeout)


def add_command_options(parser: argparse.ArgumentParser, *, inherits: str = "the image's") -> None:
    """The command that the sandbox runs, with its directory, variables and user.

    :param inherits: where the defaults come from, for the help.
    """
    parser.add_argument(
        "-w",
        "--workdir",
        metavar="DIR",
        help=f"working directory of the command in the guest (default: {inherits}, else /)",
    )
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set an environment variable for the command; NAME alone copies the value from this environment",
    )
    parser.add_argument(
        "--env-file",
        dest="env_files",
        metavar="FILE",
        action="append",
        default=[],
        help="set the variables in this file, one NAME=VALUE a line; -e takes precedence (can be repeated)",
    )
    parser.add_argument(
        "-u",
        "--user",
        metavar="USER[:GROUP]",
        help=f"user that the command runs as: names in the guest, or numbers (default: {inherits}, else root)",
    )
    parser.add_argument(
        "argv", metavar="COMMAND", nargs=argparse.REMAINDER, help="command to run, with its arguments"
    )


def argv_from(options: argparse.Namespace) -> list[str]:
    """The words of the command; none if there is no command."""
    words: list[str] = options.argv
    return words[1:] if words[:1] == ["--"] else words


def defaults_from(options: argparse.Namespace) -> Defaults:
    """Variables, directory and user of every command in the sandbox.

    :raises ConfigError: one of them is not valid.
    """
    return Defaults(*command_settings(env_from(options), options.workdir, options.user))


def env_from(options: argparse.Namespace) -> dict[str, str]:
    """The variables of ``--env-file`` and ``--env``.

    :raises ConfigError: a file cannot be read, or a variable is not valid.
    """
    env: dict[str, str] = {}
    for path in options.env_files:
        from ballonet.cli.env_file import read_env_file

        env |= read_env_file(path)
    return env | parse_env(options.env)


def parse_env(settings: Sequence[str]) -> dict[str, str]:
    """Variables from ``NAME=VALUE``, or from ``NAME`` for the value in this process's environment.

    :raises ConfigError: the name is missing, or the variable is not set here.
    """
    env = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name:
            raise ConfigError(f"--env {setting!r} has no name", hint="write NAME=VALUE")
        if not equals and name not in os.environ:
            raise ConfigError(
                f"--env {name!r}: the variable is not set in this environment",
                hint=f"NAME alone copies the value from here; for an empty value write --env {name}=",
            )
        env[name] = value if equals else os.environ[name]
    return env
