"""What a program gives for a new sandbox, checked and made into a configuration and a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ballonet.base.arguments import (
    check_env,
    check_flag,
    check_items,
    check_path,
    check_text,
    check_words,
    wrong_type,
)
from ballonet.base.errors import ConfigError
from ballonet.images.users import check_user
from ballonet.lifecycle.image_settings import Prepared
from ballonet.lifecycle.record import Command, Defaults
from ballonet.sdk.builder import SandboxBuilder, Size
from ballonet.settings.config import SandboxConfig
from ballonet.vmm.attach import Net, Port, Tmpfs, Volume

#: :data:`ballonet.images.store.Pull`, which is imported only where there is an image.
PULLS = ("missing", "always", "never")


@dataclass(frozen=True)
class Balloon:
    """A sandbox's balloon, for :meth:`Sandbox.create`. Sizes are MiB, or text such as ``"1.5G"``."""

    #: Guest-visible memory at boot; the ceiling by default.
    initial: Size | None = None
    #: The least that a target may ask for; by default max(128 MiB, a quarter of the ceiling).
    min: Size | None = None
    control_socket: str | Path | None = None
    #: Available memory that a shrink leaves to the guest unless forced.
    guard: Size | None = None
    deflate_on_oom: bool = True
    free_page_reporting: bool = True
    pressure_relief: bool = True
    hard_cap: bool = False


def configuration(
    name: str | SandboxConfig,
    *,
    image: str | None,
    disk: Size | None,
    volumes: Sequence[str | Volume],
    tmpfs: Sequence[str | Tmpfs],
    net: Net | str | None,
    ports: Sequence[str | Port],
    memory: Size,
    cpus: int,
    balloon: Balloon | bool,
) -> SandboxConfig:
    """The configuration that these come to; ``name`` itself if it is one.

    :raises ConfigError: a setting, or a pair of them, is impossible.
    """
    if isinstance(name, SandboxConfig):
        return name
    builder = SandboxBuilder(name).image(image)
    builder.volume(*check_items("volumes", volumes)).tmpfs(*check_items("tmpfs", tmpfs))
    if disk is not None:
        builder.disk(disk)
    if net is not None:
        builder.net(net)
    builder.publish(*check_items("ports", ports)).cpus(cpus).memory(memory)
    if balloon is True:
        balloon = Balloon()
    if isinstance(balloon, Balloon):
        initial = memory if balloon.initial is None else balloon.initial
        builder.balloon(initial, balloon.min, balloon.control_socket)
        builder.deflate_on_oom(balloon.deflate_on_oom).free_page_reporting(balloon.free_page_reporting)
        builder.pressure_relief(balloon.pressure_relief).hard_cap(balloon.hard_cap)
        if balloon.guard is not None:
            builder.guard(balloon.guard)
    elif balloon is not False:
        raise wrong_type("balloon", "a Balloon, True or False", balloon)
    return builder.build()


def command_settings(
    env: Mapping[str, str] | None, cwd: str | None, user: str | None
) -> tuple[dict[str, str], str | None, str | None]:
    """Variables, directory and user for a command, checked.

    :raises ConfigError: one of them is of a wrong type.
    """
    check_text("cwd", cwd)
    check_text("user", user)
    if user is not None and not user.strip():  # nobody is root by accident
        raise ConfigError(f"user {user!r} names nobody", hint="USER[:GROUP], names or numbers; root is 0")
    if cwd and not cwd.startswith("/"):
        raise ConfigError(
            f"the working directory {cwd!r} is not an absolute path", hint=f"/{cwd}, for example"
        )
    check_user(user)
    return check_env(env), cwd, user


def command_of(prepared: Prepared, argv: Sequence[str] | None, defaults: Defaults) -> Command | None:
    """The sandbox's own command.

    :raises ConfigError: no command can be like that; without one, no command could run with ``defaults``.
    """
    settings = prepared.settings(defaults.env, defaults.cwd, defaults.user)
    if argv is None:
        return None
    return Command(check_words("command", argv), settings.env, settings.cwd, settings.user)


def check_start(*, pull: object, rootfs: object, detached: object, admission: object) -> None:
    """:raises ConfigError: one of what says how a sandbox is started is of a wrong type."""
    if not isinstance(pull, str) or pull not in PULLS:
        raise ConfigError(f"pull {pull!r} is unknown; choose one of {', '.join(PULLS)}")
    check_path("rootfs", rootfs)
    check_flag("detached", detached)
    check_flag("admission", admission)
