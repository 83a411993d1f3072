"""The options of a new sandbox and of its command, shared by ``run``, ``create`` and others."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.memory import to_mib
from ballonet.cli.early_checks import check_early
from ballonet.cli.setting_options import add_setting, configured_settings
from ballonet.control.socketfile import check_socket_path
from ballonet.lifecycle.image_settings import Prepared, prepare
from ballonet.lifecycle.record import Command, Defaults
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.creation import command_settings
from ballonet.sdk.timeouts import Timeout
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import OPTION_GROUPS, SETTINGS, BalloonRange, ControlSocket, settings_in

#: The epilogue of the help of every command that runs a command in a guest.
EXIT_STATUSES = (
    "Exit status: that of the command, 128+n if signal n killed it; 2 for bad usage, 124 if the command was killed at "
    "its --timeout, 125 if ballonet failed or the guest ended first, 126 if the command cannot be executed, 127 if it "
    "does not exist."
)


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """``--name``, ``--memory``, ``--balloon-*`` and the other options of a new sandbox."""
    for title, classes in OPTION_GROUPS.items():
        group = parser if title is None else parser.add_argument_group(title)
        if title == "balloon":
            group.add_argument(
                "--no-balloon",
                action="store_true",
                help="leave out the balloon: the guest keeps all of its memory, and no target can be set",
            )
        root = group.add_mutually_exclusive_group() if title == "files" else group
        for setting in settings_in(*classes):
            add_setting(root if setting.name in ("image", "rootfs") else group, setting)
        if title == "files":
            group.add_argument(
                "--entrypoint",
                metavar="PROGRAM",
                help="program to run instead of the image's entry point and command; '' for none",
            )
            group.add_argument(
                "--idle",
                action="store_true",
                help="run no command, even if the image has one (with -d, or create)",
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
        help="continue from a snapshot instead of booting; only the name, published ports, weight, reserve and target "
        "(--balloon-initial) can differ from the saved sandbox",
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


def prepared_from(options: argparse.Namespace, *, default_name: str) -> Prepared:
    """The configuration that the options describe, with its root prepared from the image.

    :raises BallonetError: the configuration is impossible, or the image is not available.
    """
    if options.idle and argv_from(options):
        raise ConfigError("--idle cannot be combined with a command", hint="leave out one of them")
    parse_env(options.env)
    config = config_from(options, default_name=default_name)
    check_early(config, options)
    if options.image is None and options.rootfs is None:
        return prepare(config)
    from ballonet.cli.image import open_store

    rootfs = None if options.rootfs is None else Path(options.rootfs)
    with open_store(options) as (store, report):
        return prepare(config, pull=options.pull, rootfs=rootfs, store=store, report=report)


def command_from(options: argparse.Namespace, prepared: Prepared, *, detached: bool) -> Command | None:
    """The command that the options describe, or the image's own.

    :raises ConfigError: a variable, the directory or the user is not valid.
    """
    defaults = defaults_from(options)
    prepared.settings(defaults.env, defaults.cwd, defaults.user)  # checks them: later commands run with these
    if options.idle:
        return None
    return prepared.command(
        argv_from(options),
        env=defaults.env,
        cwd=defaults.cwd,
        user=defaults.user,
        entrypoint=options.entrypoint,
        detached=detached,
    )


def defaults_from(options: argparse.Namespace) -> Defaults:
    """Variables, directory and user of every command in the sandbox.

    :raises ConfigError: one of them is not valid.
    """
    return Defaults(*command_settings(parse_env(options.env), options.workdir, options.user))


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


def policy_from(options: argparse.Namespace) -> dict[str, Any]:
    """The settings for the autopilot, as arguments of :func:`ballonet.lifecycle.sandboxes.create`.

    :raises ConfigError: a value is impossible.
    """
    from ballonet.lifecycle.modify import check_weight

    return {
        "weight": check_weight(options.weight),
        "reserve_mib": to_mib(options.reserve, "reserve"),
    }


def config_from(options: argparse.Namespace, *, default_name: str) -> SandboxConfig:
    """The configuration that the options describe.

    :raises ConfigError: it is impossible, or the control socket's path cannot be used.
    """
    settings = configured_settings(options)
    chosen = [
        setting.name for setting in settings_in(BalloonRange, ControlSocket) if setting.name in settings
    ]
    if options.no_balloon and chosen:
        raise ConfigError(
            "--no-balloon cannot be combined with a balloon setting",
            hint=f"leave out --no-balloon or {SETTINGS[chosen[0]].option}",
        )
    if not options.no_balloon and not chosen:
        settings["balloon_initial"] = options.memory  # a balloon that takes nothing until a target is set
    config = SandboxBuilder(default_name if options.name is None else options.name).set(**settings).build()
    if config.balloon_control_socket is not None:
        check_socket_path(config.balloon_control_socket)
    return config
