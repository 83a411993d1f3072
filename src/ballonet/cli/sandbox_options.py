"""The options that describe a sandbox, shared by every command that makes one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ballonet.base.errors import ConfigError
from ballonet.base.memory import parse_size
from ballonet.cli.early_checks import check_early
from ballonet.control.socketfile import check_socket_path
from ballonet.lifecycle.image_settings import Prepared, prepare
from ballonet.lifecycle.record import Command, Defaults
from ballonet.machine.disk import DEFAULT_DISK_MIB
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.creation import command_settings
from ballonet.sdk.timeouts import Timeout
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net
from ballonet.vmm.config import DISK_TARGET, Accel, Machine

#: The epilogue of every command that runs one in a guest.
EXIT_STATUSES = (
    "Exit status: the command's own, 128+n if signal n killed it; 2 for bad usage, 124 if it was killed at its "
    "--timeout, 125 if ballonet failed or the guest ended first, 126 if the command cannot be executed, 127 if it "
    "does not exist."
)
_ACCESS = {
    "allow-user": "this user, too, use the control socket",
    "allow-group": "the members of this group, too, use the control socket",
    "observe-user": "this user look at the balloon, but not move it",
    "observe-group": "the members of this group look at the balloon, but not move it",
}


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """``--name``, ``--memory``, ``--balloon-*`` and the like. Sizes read 512, 512M or 1.5G."""
    parser.add_argument("--name", help="the sandbox's name (default: a random one)")
    parser.add_argument("-m", "--memory", metavar="SIZE", default="512M", help="the ceiling (default: 512M)")
    parser.add_argument("--cpus", metavar="N", type=int, default=1, help="processors (default: 1)")
    parser.add_argument(
        "--weight",
        metavar="N",
        type=int,
        default=100,
        help="share of memory from the autopilot, against 100 for others",
    )
    parser.add_argument(
        "--reserve", metavar="SIZE", default="0", help="memory that the autopilot never takes (default: 0)"
    )
    balloon = parser.add_argument_group("balloon")
    balloon.add_argument(
        "--no-balloon", action="store_true", help="all memory stays with the guest, and nothing moves it"
    )
    balloon.add_argument("--balloon-initial", metavar="SIZE", help="memory at boot (default: the ceiling)")
    balloon.add_argument(
        "--balloon-min",
        metavar="SIZE",
        help="the least that a target may ask for (default: 128M or a quarter of the ceiling, the larger)",
    )
    balloon.add_argument(
        "--balloon-control-socket", metavar="PATH", help="where to move the target at run time"
    )
    balloon.add_argument(
        "--no-deflate-on-oom",
        dest="deflate_on_oom",
        action="store_false",
        help="the guest may not take memory back before it kills a process",
    )
    balloon.add_argument(
        "--no-free-page-reporting",
        dest="free_page_reporting",
        action="store_false",
        help="the guest does not tell which pages it has freed",
    )
    balloon.add_argument(
        "--guard",
        metavar="SIZE",
        help="available memory that a shrink leaves to the guest (default: 64M or a tenth of the ceiling, the larger)",
    )
    balloon.add_argument(
        "--no-pressure-relief",
        dest="pressure_relief",
        action="store_false",
        help="a guest that stalls for lack of memory does not get any back by itself",
    )
    balloon.add_argument(
        "--hard-cap",
        action="store_true",
        help="the host enforces the target with a cgroup, whatever the guest does",
    )
    for option, what in _ACCESS.items():
        balloon.add_argument(
            f"--balloon-{option}",
            metavar="NAME",
            action="append",
            default=[],
            help=f"let {what} (may be repeated)",
        )
    files = parser.add_argument_group("files")
    root = files.add_mutually_exclusive_group()
    root.add_argument(
        "--image", metavar="REF", help="an image's reference, layout or archive (default: the built-in root)"
    )
    root.add_argument("--rootfs", metavar="DIR", help="make the root from this directory of the host")
    files.add_argument(
        "--pull",
        choices=("missing", "always", "never"),
        default="missing",
        help="when to ask the image's registry (default: missing)",
    )
    files.add_argument(
        "--disk",
        metavar="SIZE",
        help=f"the writable disk: over an image (default: {DEFAULT_DISK_MIB // 1024}G), or at {DISK_TARGET} without; "
        "takes space as it is filled",
    )
    files.add_argument(
        "-v",
        "--volume",
        metavar="SOURCE:GUEST[:ro]",
        action="append",
        default=[],
        help="a directory of the host (with a slash), or a named volume, in the guest (may be repeated)",
    )
    files.add_argument(
        "--tmpfs",
        metavar="PATH[:SIZE]",
        action="append",
        default=[],
        help="a directory in the guest's memory (may be repeated)",
    )
    files.add_argument(
        "--entrypoint",
        metavar="PROGRAM",
        help="run this instead of the image's entry point and command; '' is none",
    )
    files.add_argument(
        "--idle",
        action="store_true",
        help="run no command by itself, whatever the image says (with -d, or create)",
    )
    network = parser.add_argument_group("network")
    network.add_argument(
        "--net",
        choices=list(map(str, Net)),
        help="what the guest can reach: nothing (none, the default), what the host can (user), or nothing while "
        "ports lead in (isolated)",
    )
    network.add_argument(
        "-p",
        "--publish",
        metavar="[ADDRESS:]HOST:GUEST[/udp]",
        action="append",
        default=[],
        help="lead a port of the host, of 127.0.0.1 unless said otherwise, into the guest; host port 0 is any "
        "free one; implies --net user (may be repeated)",
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument("--machine", choices=list(map(str, Machine)), default="microvm", help="machine type")
    engine.add_argument("--accel", choices=list(map(str, Accel)), default="auto", help="KVM or emulation")


def add_admission_option(parser: argparse.ArgumentParser) -> None:
    """``--no-admission``, for the commands that start something."""
    parser.add_argument(
        "--no-admission",
        dest="admission",
        action="store_false",
        help="start even if the autopilot finds no room for it",
    )


def add_stream_options(parser: argparse.ArgumentParser) -> None:
    """How our standard streams are joined to the command's."""
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="pass our standard input on to the command"
    )
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal: ours")


def add_timeout_option(parser: argparse.ArgumentParser) -> None:
    """``--timeout``: how long the command may run."""
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        help="kill the command, and all that it started, after so many seconds (or 1m30s, 2h)",
    )


def timeout_from(options: argparse.Namespace) -> Timeout | None:
    """:raises ConfigError: ``--timeout`` is no length of time."""
    return None if options.timeout is None else Timeout.parse(options.timeout)


def add_command_options(parser: argparse.ArgumentParser, *, inherits: str = "the image's") -> None:
    """The command that the sandbox runs, and what it runs it with.

    :param inherits: whose settings count where nothing is said.
    """
    parser.add_argument(
        "-w",
        "--workdir",
        metavar="DIR",
        help=f"the command's working directory in the guest (default: {inherits}, else /)",
    )
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a variable for the command (NAME alone: as it is here)",
    )
    parser.add_argument(
        "-u",
        "--user",
        metavar="USER[:GROUP]",
        help=f"who the command runs as: names of the guest, or numbers (default: {inherits}, else root)",
    )
    parser.add_argument(
        "argv", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run, and its arguments"
    )


def argv_from(options: argparse.Namespace) -> list[str]:
    """The words of the command; none if none was given."""
    words: list[str] = options.argv
    return words[1:] if words[:1] == ["--"] else words


def prepared_from(options: argparse.Namespace, *, default_name: str) -> Prepared:
    """The configuration that the options describe, with its image brought in.

    :raises BallonetError: it is impossible, or the image cannot be had.
    """
    if options.idle and argv_from(options):
        raise ConfigError("--idle does not go together with a command", hint="leave one of them out")
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

    :raises ConfigError: a variable or the user makes no sense.
    """
    defaults = defaults_from(options)
    prepared.settings(defaults.env, defaults.cwd, defaults.user)  # other commands will run with these
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
    """What the options say for every command in the sandbox.

    :raises ConfigError: one of them makes no sense.
    """
    return Defaults(*command_settings(parse_env(options.env), options.workdir, options.user))


def parse_env(settings: Sequence[str]) -> dict[str, str]:
    """Variables from ``NAME=VALUE``, or ``NAME`` for our own.

    :raises ConfigError: there is no name, or no such variable here.
    """
    env = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name:
            raise ConfigError(f"--env {setting!r} is not NAME=VALUE", hint="write the variable's name first")
        if not equals and name not in os.environ:
            raise ConfigError(
                f"--env {name!r}: there is no variable of that name here",
                hint=f"NAME alone takes our own variable; to set it to nothing write --env {name}=",
            )
        env[name] = value if equals else os.environ[name]
    return env


def policy_from(options: argparse.Namespace) -> dict[str, Any]:
    """What the autopilot is to know: arguments for :func:`ballonet.lifecycle.sandboxes.create`.

    :raises ConfigError: a value is impossible.
    """
    from ballonet.lifecycle.modify import check_weight

    return {
        "weight": check_weight(options.weight),
        "reserve_mib": parse_size(options.reserve, "reserve"),
    }


def config_from(options: argparse.Namespace, *, default_name: str) -> SandboxConfig:
    """The configuration that the options describe.

    :raises ConfigError: they are impossible, or the socket's path cannot be used.
    """
    balloon = (options.balloon_initial, options.balloon_min, options.balloon_control_socket)
    if options.no_balloon and any(part is not None for part in balloon):
        raise ConfigError(
            "--no-balloon does not go together with a balloon setting", hint="leave one of them out"
        )
    if not options.no_balloon and all(part is None for part in balloon):
        balloon = (options.memory, None, None)  # a balloon that takes nothing until somebody asks
    builder = (
        SandboxBuilder(default_name if options.name is None else options.name)
        .cpus(options.cpus)
        .memory(options.memory)
        .balloon(*balloon)
        .deflate_on_oom(options.deflate_on_oom)
        .free_page_reporting(options.free_page_reporting)
        .pressure_relief(options.pressure_relief)
        .hard_cap(options.hard_cap)
        .machine(options.machine)
        .accel(options.accel)
    )
    builder.control_access(
        allow_users=[_user_id(name) for name in options.balloon_allow_user],
        allow_groups=[_group_id(name) for name in options.balloon_allow_group],
        observe_users=[_user_id(name) for name in options.balloon_observe_user],
        observe_groups=[_group_id(name) for name in options.balloon_observe_group],
    )
    if options.guard is not None:
        builder.guard(options.guard)
    if options.disk is not None:
        builder.disk(options.disk)
    if options.net is not None:
        builder.net(options.net)
    builder.image(options.image).volume(*options.volume).tmpfs(*options.tmpfs).publish(*options.publish)
    config = builder.build()
    if config.balloon_control_socket is not None:
        check_socket_path(config.balloon_control_socket)
    return config


def _user_id(name: str) -> int:
    import pwd

    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise ConfigError(f"there is no user named {name!r}") from error


def _group_id(name: str) -> int:
    import grp

    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError as error:
        raise ConfigError(f"there is no group named {name!r}") from error
