"""The options of a new sandbox and of its command, shared by ``run``, ``create`` and others."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.memory import to_mib
from ballonet.cli.command_options import argv_from, defaults_from, env_from
from ballonet.cli.early_checks import check_early
from ballonet.cli.setting_options import add_setting, configured_settings
from ballonet.control.socketfile import check_socket_path
from ballonet.lifecycle.image_settings import Prepared, prepare
from ballonet.lifecycle.record import Command
from ballonet.settings.building import build_config, set_fields
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import OPTION_GROUPS, SETTINGS, BalloonRange, ControlSocket, settings_in
from ballonet.settings.labels import parse_labels


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


def prepared_from(options: argparse.Namespace, *, default_name: str) -> Prepared:
    """The configuration that the options describe, with its root prepared from the image.

    :raises BallonetError: the configuration is impossible, or the image is not available.
    """
    if options.idle and argv_from(options):
        raise ConfigError("--idle cannot be combined with a command", hint="leave out one of them")
    env_from(options)
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


def policy_from(options: argparse.Namespace) -> dict[str, Any]:
    """The labels and the settings for the autopilot, as arguments of :func:`ballonet.lifecycle.sandboxes.create`.

    :raises ConfigError: a value is impossible.
    """
    from ballonet.lifecycle.modify import check_weight

    return {
        "labels": parse_labels(options.labels),
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
    fields: dict[str, Any] = {"name": default_name if options.name is None else options.name}
    set_fields(fields, settings)
    config = build_config(fields)
    if config.balloon_control_socket is not None:
        check_socket_path(config.balloon_control_socket)
    return config
